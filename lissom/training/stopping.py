"""Being asked to end: a training that gets SIGTERM (a spot machine that is taken away, say) finishes its step first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(SystemExit):
    """The training has ended early, as it was asked to; started again, it goes on. What it says is its text."""

    def __init__(self, step: int, total: int, *, kept: bool) -> None:
        where = "a checkpoint is written; start it again to go on" if kept else "nothing is kept of it"
        super().__init__(f"stopped by SIGTERM after step {step} of {total}: {where}")


@contextmanager
def listening() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGTERM has come; outside a main thread it never does."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return

    def note(_: int, __: FrameType | None) -> None:
        came.set()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
