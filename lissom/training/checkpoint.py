"""Checkpoints: everything that a training needs to go on as if it had never stopped. safetensors and JSON."""

import hashlib
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from lissom.artifacts import read_json, whole_folder, write_json
from lissom.data.encoding import Encoded
from lissom.training.config import TrainingParams

_TENSORS, _STATE = "state.safetensors", "state.json"


@dataclass
class Progress:
    """How far a training is, besides weights and moments."""

    step: int = 0
    best_score: float | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    records: list[dict[str, float]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    """Losses since the last record; on the device until then, so that steps need not wait for it."""
    seconds: float = 0.0


class Checkpoints:
    """A folder that holds the last checkpoint of one training.

    Args:
        folder: where to.
        every_seconds: time between checkpoints.
        keep_result: write one at the end as well, so that a rerun finds this training done and goes on to the next.
    """

    def __init__(self, folder: Path, every_seconds: float = 30.0, *, keep_result: bool = False) -> None:
        self._folder = folder
        self._every = every_seconds
        self._keep_result = keep_result
        self._written = time.monotonic()

    def phase(self, name: str) -> "Checkpoints":
        """Return the checkpoints of one of several trainings that follow each other in a stage."""
        return Checkpoints(self._folder / name, self._every, keep_result=True)

    def due(self) -> bool:
        """Tell whether the last checkpoint is old enough for another."""
        return time.monotonic() - self._written >= self._every

    def finish(self, identity: str, network: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
        """Write the result of a training that others follow, unless it came from its checkpoint."""
        if self._keep_result and not self._is_done(identity, progress.step):
            self.save(identity, network, optimizer, progress)

    def _is_done(self, identity: str, step: int) -> bool:
        path = self._folder / _STATE
        if not path.is_file():
            return False
        state = read_json(path)
        return bool(state["identity"] == identity and state["step"] == step)

    def save(self, identity: str, network: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
        """Write a checkpoint, whole or not at all."""
        tensors = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in progress.best_weights.items()}
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in moments.items()}
        tensors["rng/cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["rng/cuda"] = torch.cuda.get_rng_state()
        with whole_folder(self._folder) as folder:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / _TENSORS)
            state: dict[str, Any] = {"identity": identity, "step": progress.step, "best_score": progress.best_score}
            state |= {"records": progress.records, "losses": [float(loss) for loss in progress.losses]}
            write_json(folder / _STATE, {**state, "seconds": progress.seconds})
        self._written = time.monotonic()

    def restore(self, identity: str, network: nn.Module, optimizer: Optimizer) -> Progress | None:
        """Take up the checkpoint of the same training; None if there is none or it belongs to another training."""
        if not (self._folder / _STATE).is_file():
            return None
        state = read_json(self._folder / _STATE)
        if state["identity"] != identity:
            return None
        tensors = load_file(self._folder / _TENSORS)
        network.load_state_dict(_below("network/", tensors))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("optimizer/", tensors).items():
            index, _, key = name.partition("/")
            moments.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        torch.set_rng_state(tensors["rng/cpu"])
        if "rng/cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["rng/cuda"])
        return Progress(
            step=state["step"],
            best_score=state["best_score"],
            best_weights=_below("best/", tensors),
            records=state["records"],
            losses=[torch.tensor(loss) for loss in state["losses"]],
            seconds=state["seconds"],
        )

    def clear(self) -> None:
        """Remove the checkpoint: the training is done and its result is stored elsewhere."""
        shutil.rmtree(self._folder, ignore_errors=True)


def identity_of(network: nn.Module, data: Encoded, params: TrainingParams, extra: str) -> str:
    """Return a digest of all that decides a training: start weights, data, params and what the caller adds."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for array in (data.tokens, data.types, data.offsets, data.labels):
        digest.update(array)  # type: ignore[arg-type]
    digest.update(json.dumps(params.model_dump(mode="json"), sort_keys=True).encode())
    digest.update(extra.encode())
    return digest.hexdigest()


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
