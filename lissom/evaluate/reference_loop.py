"""A fixed computation whose time shows whether a machine is as fast in one moment as in another.

With several threads, all of them compute at once, which also shows that another process uses one of the cores. A
disturbance that lasts for the whole session (two virtual cores that share one core of the host, say) looks like a
slower machine.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from lissom.evaluate.conditions import reference_seconds

_BYTES = bytes(2**20)
"""Hashing them takes about a millisecond, and does not hold the interpreter's lock."""
_SPINNING_SECONDS = 0.02
"""OpenMP's threads look for more work for some milliseconds after they have finished some, and would compete."""


@contextmanager
def reference_loop(threads: int) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds of a fixed computation on a number of threads."""
    if threads == 1:
        yield reference_seconds
        return
    with ThreadPoolExecutor(threads) as pool:

        def seconds() -> float:
            time.sleep(_SPINNING_SECONDS)
            times = []
            for _ in range(3):  # the least leaves out interrupts
                start = time.perf_counter()
                list(pool.map(hashlib.sha256, [_BYTES] * threads))
                times.append(time.perf_counter() - start)
            return min(times)

        yield seconds
