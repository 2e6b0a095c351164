"""How many messages of which size a step sends."""

from typing import Any

import numpy as np
import torch
from torch._C._distributed_c10d import GradBucket
from torch.distributed.tensor.debug import CommDebugMode

from benchmarks.layouts.networks import LOSS, SMALL, network_of, texts
from lissom.models.sites import blocks_of
from lissom.parallel.engine import make_engine
from lissom.parallel.tensor import shard_network
from lissom.parallel.world import World


def messages_of_blocks(world: World) -> tuple[int, float]:
    """Return all-reduces of one block, forward and backward, and the bytes of each over B n d."""
    network = network_of(SMALL)
    shard_network(network, world.layout().mesh["tensor"])
    hidden = torch.randn(4, 16, 64, requires_grad=True)
    sizes: list[int] = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, function: Any, kinds: Any, argument: Any = (), named: Any = None) -> Any:
            if "all_reduce" in str(function):
                sizes.append(argument[0].nbytes)
            return function(*argument, **(named or {}))

    with CommDebugMode() as counted, Sizes():  # type: ignore[no-untyped-call]
        blocks_of(network)[0](hidden).square().sum().backward()
    return counted.get_total_counts(), sum(sizes) / (4 * hidden.nbytes)


def bytes_of_replicas(world: World) -> float:
    """Return the bytes that DDP all-reduces in a step, over the gradients'."""
    network, sent = network_of(SMALL), [0]
    engine: Any = make_engine(network, LOSS, texts(16, 24), 0, None, world, needs_internals=False)

    def count(_: Any, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        sent[0] += bucket.buffer().nbytes
        work = torch.distributed.all_reduce(bucket.buffer().div_(world.params.data), async_op=True)
        future: torch.futures.Future[torch.Tensor] = work.get_future().then(lambda done: done.value()[0])
        return future

    engine._compute.register_comm_hook(None, count)
    engine.gradients(np.arange(16))
    return float(sent[0] / sum(item.nbytes for item in network.parameters()))
