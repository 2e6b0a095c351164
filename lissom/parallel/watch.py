"""Watchdog: processes report their activity in a shared store; one that has waited too long identifies the cause.

A collective's time-out does not tell which process is missing. The watchdog reports the process that hangs, is stopped
or has lost its connection, with its rank and last activity, and ends the job, so that torchrun can restart it.
"""

import datetime
import json
import os
import sys
import threading
import time
from types import TracebackType
from typing import Any

from torch._C._distributed_c10d import PrefixStore, TCPStore  # torch.distributed has them too, but not for mypy

from lissom.parallel.config import ParallelParams
from lissom.parallel.launch import report_error

HUNG = 70
"""Exit code of a process that ended because another one did not respond."""

_SECONDS_BETWEEN_SIGNS = 1.0
_GRACE_SECONDS = 5.0
"""Time after the time-out before the cause is identified."""
_SIGNS_UNTIL_SILENT = 3
"""Reports that may be missing before a process counts as silent."""
_STORE_SECONDS = 15.0


class Watch:
    """Two threads: one reports this process's activity and reads the others' reports, one checks for time-outs.

    Only the first uses the store, whose calls may block forever.

    Args:
        rank: this process.
        params: the layout and the time-out.
    """

    def __init__(self, rank: int, params: ParallelParams) -> None:
        self._rank, self._params = rank, params
        self._activity, self._waits, self._since = "starting", False, time.monotonic()
        self._armed = False
        self._stop = threading.Event()
        self._heard: dict[int, tuple[float, dict[str, Any]]] = {}
        self._listening_since: float | None = None
        self._last_contact = time.monotonic()
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(host, port, is_master=False, timeout=datetime.timedelta(seconds=_STORE_SECONDS))
        self._store = PrefixStore("lissom-watch", store)

    def __enter__(self) -> "Watch":
        for work in (self._exchange, self._look):
            threading.Thread(target=work, daemon=True, name="lissom-watch").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

    def working(self, on: str) -> None:
        """Report that this process computes; `on` describes the activity."""
        self._activity, self._waits, self._since, self._armed = on, False, time.monotonic(), True

    def waiting(self, on: str) -> None:
        """Report that this process waits for others; `on` describes what for."""
        self._activity, self._waits, self._since, self._armed = on, True, time.monotonic(), True

    def disarm(self) -> None:
        """Disable the time-out between trainings."""
        self._armed = False

    def _exchange(self) -> None:
        """Write this process's reports, and read the others' once the time-out is exceeded."""
        number = 0
        while not self._stop.wait(_SECONDS_BETWEEN_SIGNS if number else 0):
            age = time.monotonic() - self._since
            number += 1
            sign = {"doing": self._activity, "waits": self._waits, "age": age, "armed": self._armed, "number": number}
            try:
                self._store.set(str(self._rank), json.dumps(sign))
                if self._armed and age > self._params.timeout_seconds:
                    for rank in range(self._params.world):
                        if rank != self._rank and self._store.check([str(rank)]):
                            self._hear(rank, json.loads(self._store.get(str(rank))))
                    self._listening_since = self._listening_since or time.monotonic()
                else:
                    self._listening_since = None
                self._last_contact = time.monotonic()
            except RuntimeError:  # the other thread will say so, if it matters
                continue

    def _hear(self, rank: int, sign: dict[str, Any]) -> None:
        """Store another process's report and the local time of its last change, so that no clocks are compared."""
        since, previous = self._heard.get(rank, (0.0, {}))
        self._heard[rank] = (since if previous.get("number") == sign["number"] else time.monotonic(), sign)

    def _look(self) -> None:
        while not self._stop.wait(_SECONDS_BETWEEN_SIGNS):
            late = time.monotonic() - self._since > self._params.timeout_seconds + _GRACE_SECONDS
            if self._armed and self._waits and late and (self._store_is_silent() or self._has_listened()):
                self._end(self._others())

    def _store_is_silent(self) -> bool:
        return time.monotonic() - self._last_contact > _GRACE_SECONDS

    def _has_listened(self) -> bool:
        """Return whether the reports were read for long enough to tell a silent process from a living one.

        On a busy machine the first reading may come late; a process that hangs would then seem to wait like all others.
        """
        since = self._listening_since
        return since is not None and time.monotonic() - since > (_SIGNS_UNTIL_SILENT + 1) * _SECONDS_BETWEEN_SIGNS

    def _others(self) -> str:
        """Return a description of the processes that are late."""
        if self._store_is_silent():
            return (
                f"{self._place(0)}, which keeps the job's store, has not answered for "
                f"{time.monotonic() - self._last_contact:.0f} s: "
                "it hangs, or its machine and this one are cut off from each other"
            )
        hung = []
        for rank in range(self._params.world):
            if rank == self._rank:
                continue
            if rank not in self._heard:
                hung.append(f"{self._place(rank)} has given no sign of life since it started")
                continue
            since, sign = self._heard[rank]
            if (silence := time.monotonic() - since) > _SIGNS_UNTIL_SILENT * _SECONDS_BETWEEN_SIGNS:
                status = f"has given no sign of life for {silence:.0f} s; last: {sign['doing']}"
            elif sign["armed"] and not sign["waits"]:
                status = f"has been at it for {sign['age']:.0f} s: {sign['doing']}"
            else:
                continue
            hung.append(f"{self._place(rank)} {status}")
        return "; ".join(hung) or "all wait for each other"

    def _place(self, rank: int) -> str:
        data, rank_in_replica = divmod(rank, self._params.pipeline * self._params.tensor)
        stage, tensor = divmod(rank_in_replica, self._params.tensor)
        return f"rank {rank} (replica {data}, pipeline stage {stage + 1} of {self._params.pipeline}, tensor {tensor})"

    def _end(self, reason: str) -> None:
        message = (
            f"rank {self._rank} waited for {self._params.timeout_seconds:g} s ({self._activity}): {reason}. "
            "Set parallel.timeout_seconds higher if that is slow rather than stuck"
        )
        if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) < self._params.restarts:
            print(f"lissom: {message}", file=sys.stderr, flush=True)  # torchrun starts all processes again
        else:
            report_error(message)
        os._exit(HUNG)
