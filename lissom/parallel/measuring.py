"""Measurements of this machine for the cost model of layouts."""

import time
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedModel

from lissom.artifacts import MANIFEST
from lissom.errors import InputError
from lissom.models.anatomy import anatomy
from lissom.models.block_sizes import network_of, network_without_weights
from lissom.models.config import NEW, BaseParams, NewModelParams
from lissom.models.directory import build
from lissom.models.families import family_of
from lissom.models.manifest import read_manifest
from lissom.models.new import CONFIGS
from lissom.models.source import locate
from lissom.parallel.config import ParallelParams
from lissom.parallel.plan import Machine, Workload, explain, propose

_SIZE, _SECONDS = 1024, 0.2
# Orders of magnitude, where nothing has been measured: NVLink within a node, a fast network between nodes, memory.
_NEAR_CUDA, _NEAR_CPU, _FAR = 200e9, 1e9, 10e9
_LATENCY_CUDA, _LATENCY_CPU = 20e-6, 200e-6


def this_machine(nodes: int = 1) -> Machine:
    """Return the properties of `nodes` machines like this one; the speed of matrix products is measured."""
    cuda = torch.cuda.is_available()
    devices = torch.cuda.device_count() if cuda else 1
    memory = torch.cuda.get_device_properties(0).total_memory if cuda else _free_memory()
    return Machine(
        devices=devices * nodes,
        nodes=nodes,
        memory_bytes=float(memory),
        flops=_flops(),
        near_bytes=_NEAR_CUDA if cuda else _NEAR_CPU,
        far_bytes=_FAR,
        latency_seconds=_LATENCY_CUDA if cuda else _LATENCY_CPU,
    )


def workload(network: PreTrainedModel, batch: int, length: int) -> Workload:
    """Return one step of a network's training; the network may be on the meta device."""
    config, family = network.config, family_of(network)
    return Workload(
        anatomy(network), int(getattr(config, family.config_width)), int(config.num_attention_heads), batch, length
    )


def outline(model: Path | BaseParams) -> PreTrainedModel:
    """Return a network on the meta device: of a model directory, or of the base model of the params.

    Raises:
        InputError: there is no such model.
    """
    if isinstance(model, BaseParams) and model.is_new:
        shape, make = model.shape or NewModelParams(), CONFIGS.get(model.model.removeprefix(NEW))
        if make is None:
            raise InputError(f"base.model {model.model}: no such family can be made; allowed: {', '.join(CONFIGS)}")
        return network_of(make(shape, shape.vocabulary, model.max_length))
    place = str(model) if isinstance(model, Path) else model.model
    folder = model if isinstance(model, Path) else locate(place)[0]
    if isinstance(folder, Path) and (folder / MANIFEST).is_file():
        return build(read_manifest(folder))
    return network_without_weights(place)


def automatic(model: Path | BaseParams, batch: int, length: int) -> tuple[ParallelParams, str]:
    """Return the layout that the cost model proposes for this machine, and its explanation.

    Raises:
        InputError: no layout fits, or there is no such model.
    """
    machine = this_machine()
    estimates = propose(workload(outline(model), batch, length), machine)
    reason = f"parallel: auto: {estimates[0].params.factors} on {machine.devices} devices\n{explain(estimates)}"
    return estimates[0].params, reason


def _flops() -> float:
    """Return the operations per second of a matrix product in float32, or in bfloat16 on an accelerator."""
    cuda = torch.cuda.is_available()
    size = _SIZE * 4 if cuda else _SIZE
    matrix = torch.randn(size, size, device="cuda" if cuda else "cpu", dtype=torch.bfloat16 if cuda else torch.float32)
    matrix @ matrix
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < _SECONDS:
        matrix @ matrix
        if cuda:
            torch.cuda.synchronize()
        count += 1
    return count * 2 * size**3 / elapsed


def _free_memory() -> int:
    return int(psutil.virtual_memory().available)
