"""Graceful termination: a training that receives SIGTERM (on a preempted machine, say) finishes its step first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(SystemExit):
    """Raised when a training ends early because of SIGTERM; after a checkpoint, a rerun resumes it."""

    def __init__(self, step: int, total: int, *, has_checkpoint: bool) -> None:
        where = "a checkpoint is written; start it again to go on" if has_checkpoint else "nothing is kept of it"
        super().__init__(f"stopped by SIGTERM after step {step} of {total}: {where}")


@contextmanager
def catch_sigterm() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGTERM was received; outside the main thread it always returns False."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event.is_set
        return

    def note(_: int, __: FrameType | None) -> None:
        event.set()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield event.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
