"""Who is late? Every process says through a shared store what it is doing; the first that has waited too long looks.

Collectives only tell that somebody did not come. A process that hangs, is stopped or is cut off from the network is
named here, with its place and what it was last doing, and the job ends, so that torchrun can start it again.
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
from lissom.parallel.launch import say

HUNG = 70
"""Exit code of a process that ended since another one did not answer."""

_SECONDS_BETWEEN_SIGNS = 1.0
_GRACE_SECONDS = 5.0
"""To hear of the others before saying who is late."""
_STORE_SECONDS = 15.0


class Watch:
    """Two threads: one tells what this process does and hears of the others, one looks whether it waits for too long.

    Only the first touches the store, which may never answer again.

    Args:
        rank: this process.
        params: the layout and the time-out.
    """

    def __init__(self, rank: int, params: ParallelParams) -> None:
        self._rank, self._params = rank, params
        self._doing, self._waits, self._since = "starting", False, time.monotonic()
        self._armed = False
        self._ended = threading.Event()
        self._heard: dict[int, tuple[float, dict[str, Any]]] = {}
        self._answered = time.monotonic()
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
        self._ended.set()

    def working(self, on: str) -> None:
        """Say that this process computes, and on what; others may have to wait for it."""
        self._doing, self._waits, self._since, self._armed = on, False, time.monotonic(), True

    def waiting(self, on: str) -> None:
        """Say that this process waits for others."""
        self._doing, self._waits, self._since, self._armed = on, True, time.monotonic(), True

    def rest(self) -> None:
        """Say that nothing is expected of anybody: between trainings, stages take the time that they take."""
        self._armed = False

    def _exchange(self) -> None:
        """Tell, and where there is something to worry about, hear."""
        number = 0
        while not self._ended.wait(_SECONDS_BETWEEN_SIGNS):
            age = time.monotonic() - self._since
            number += 1
            sign = {"doing": self._doing, "waits": self._waits, "age": age, "armed": self._armed, "number": number}
            try:
                self._store.set(str(self._rank), json.dumps(sign))
                for rank in range(self._params.world):
                    worried = self._armed and age > self._params.timeout_seconds
                    if worried and rank != self._rank and self._store.check([str(rank)]):
                        self._hear(rank, json.loads(self._store.get(str(rank))))
                self._answered = time.monotonic()
            except RuntimeError:  # the other thread will say so, if it matters
                continue

    def _hear(self, rank: int, sign: dict[str, Any]) -> None:
        """Keep another's sign, and since when it has been the same: clocks of two machines are not compared."""
        since, known = self._heard.get(rank, (0.0, {}))
        self._heard[rank] = (since if known.get("number") == sign["number"] else time.monotonic(), sign)

    def _look(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_SIGNS):
            late = time.monotonic() - self._since > self._params.timeout_seconds + _GRACE_SECONDS
            if self._armed and self._waits and late:
                self._end(self._others())

    def _others(self) -> str:
        """Return who is late, in words."""
        if (silence := time.monotonic() - self._answered) > _GRACE_SECONDS:
            return (
                f"{self._place(0)}, which keeps the job's store, has not answered for {silence:.0f} s: "
                "it hangs, or its machine and this one are cut off from each other"
            )
        hung = []
        for rank, (since, sign) in sorted(self._heard.items()):
            if (silence := time.monotonic() - since) > 3 * _SECONDS_BETWEEN_SIGNS:
                told = f"has given no sign of life for {silence:.0f} s; last: {sign['doing']}"
            elif sign["armed"] and not sign["waits"]:
                told = f"has been at it for {sign['age']:.0f} s: {sign['doing']}"
            else:
                continue
            hung.append(f"{self._place(rank)} {told}")
        return "; ".join(hung) or "all wait for each other"

    def _place(self, rank: int) -> str:
        data, rest = divmod(rank, self._params.pipeline * self._params.tensor)
        stage, tensor = divmod(rest, self._params.tensor)
        return f"rank {rank} (replica {data}, pipeline stage {stage + 1} of {self._params.pipeline}, tensor {tensor})"

    def _end(self, reason: str) -> None:
        message = (
            f"rank {self._rank} waited for {self._params.timeout_seconds:g} s ({self._doing}): {reason}. "
            "Set parallel.timeout_seconds higher if that is slow rather than stuck"
        )
        if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) < self._params.restarts:
            print(f"lissom: {message}", file=sys.stderr, flush=True)  # torchrun starts all processes again
        else:
            say(message)
        os._exit(HUNG)
