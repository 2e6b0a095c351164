"""Several processes, as torchrun would start them, forked from this one: a tenth of a second each."""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from lissom.parallel.config import ParallelParams
from lissom.parallel.world import join
from tests.waiting import free_port


def spread(function: Callable[..., Any], *arguments: Any, timeout: float = 120, **layout: Any) -> list[Any]:
    """Call `function(world, *arguments)` in every process of a layout; return the results by rank."""
    params = ParallelParams(**{"timeout_seconds": 60, **layout})
    context, port = multiprocessing.get_context("fork"), free_port()
    ends, processes = [], []
    for rank in range(params.world):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(there, rank, params, port, function, arguments), daemon=True)
        process.start()
        there.close()
        ends.append(here)
        processes.append(process)
    results: list[Any] = [None] * params.world
    deadline, failures = time.monotonic() + timeout, {}
    for rank, end in enumerate(ends):
        try:
            assert end.poll(max(0.1, deadline - time.monotonic())), f"rank {rank} gave no answer in {timeout} s"
            actual, failure = end.recv()
        except (EOFError, AssertionError) as error:
            actual, failure = None, repr(error)
        results[rank] = actual
        if failure:
            failures[rank] = failure
    for process in processes:
        process.join(timeout=0.1 if failures else 30)
        process.kill()
    assert not failures, "\n".join(f"rank {rank}: {failure}" for rank, failure in failures.items())
    return results


def _work(
    end: Any, rank: int, params: ParallelParams, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(params.world), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    torch.set_num_threads(1)
    try:
        with join(params) as world:
            actual = function(world, *arguments)
        end.send((actual, None))
    except BaseException:
        end.send((None, traceback.format_exc()))
    end.close()
    os._exit(0)
