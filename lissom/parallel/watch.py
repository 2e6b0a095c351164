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

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore  # torch.distributed has them too, but not for mypy

from lissom.parallel.config import ParallelParams

HUNG = 70
"""Exit code of a process that ended since another one did not answer."""

_SECONDS_BETWEEN_SIGNS = 1.0
_GRACE_SECONDS = 3.0


class Watch:
    """A thread that tells what this process does, and looks at the others when it has waited for too long.

    Args:
        rank: this process.
        params: the layout and the time-out.
    """

    def __init__(self, rank: int, params: ParallelParams) -> None:
        self._rank, self._params = rank, params
        self._doing, self._waits, self._since = "starting", False, time.monotonic()
        self._armed = False
        self._ended = threading.Event()
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = TCPStore(host, port, is_master=False, timeout=datetime.timedelta(seconds=30))
        self._store = PrefixStore(f"lissom-watch/{attempt}", store)
        self._thread = threading.Thread(target=self._look, daemon=True, name="lissom-watch")

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def working(self, on: str) -> None:
        """Say that this process computes, and on what; others may have to wait for it."""
        self._doing, self._waits, self._since, self._armed = on, False, time.monotonic(), True

    def waiting(self, on: str) -> None:
        """Say that this process waits for others."""
        self._doing, self._waits, self._since, self._armed = on, True, time.monotonic(), True

    def rest(self) -> None:
        """Say that nothing is expected of anybody: between trainings, stages take the time that they take."""
        self._armed = False

    def _look(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_SIGNS):
            age = time.monotonic() - self._since
            late = self._armed and age > self._params.timeout_seconds
            try:
                sign = {"doing": self._doing, "waits": self._waits, "age": age, "armed": self._armed, "at": time.time()}
                self._store.set(str(self._rank), json.dumps(sign))
                if late and self._waits:
                    self._end(self._others())
            except (dist.DistError, RuntimeError) as error:
                if late:
                    self._end(f"the store of the job, on node 0, does not answer ({str(error).splitlines()[0][:120]})")

    def _others(self) -> str:
        """Return who is late, in words."""
        hung = []
        for rank in range(self._params.world):
            if rank == self._rank or not self._store.check([str(rank)]):
                continue
            sign = json.loads(self._store.get(str(rank)))
            silent = time.time() - sign["at"]
            if silent > _SECONDS_BETWEEN_SIGNS + _GRACE_SECONDS:
                hung.append(f"{self._place(rank)} has given no sign of life for {silent:.0f} s; last: {sign['doing']}")
            elif sign["armed"] and not sign["waits"]:
                hung.append(f"{self._place(rank)} has been at it for {sign['age']:.0f} s: {sign['doing']}")
        return "; ".join(hung) or "all wait for each other"

    def _place(self, rank: int) -> str:
        data, rest = divmod(rank, self._params.pipeline * self._params.tensor)
        stage, tensor = divmod(rest, self._params.tensor)
        return f"rank {rank} (replica {data}, pipeline stage {stage + 1} of {self._params.pipeline}, tensor {tensor})"

    def _end(self, reason: str) -> None:
        print(
            f"lissom: rank {self._rank} waited for {self._params.timeout_seconds:g} s ({self._doing}): {reason}. "
            "Set parallel.timeout_seconds higher if that is slow rather than stuck",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        os._exit(HUNG)
