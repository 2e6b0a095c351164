"""Checkpoints: everything that a training needs to go on as if it had never stopped. safetensors and JSON."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lissom.artifacts import read_json, whole_folder, write_json
from lissom.data.encoding import Encoded
from lissom.models.tied import untied, whole
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


@dataclass(frozen=True)
class Restored:
    """What a checkpoint holds besides the network's weights."""

    progress: Progress
    moments: dict[str, dict[str, Tensor]]
    """The optimiser's state of every parameter, by its name in the whole network."""


class Checkpoints:
    """A folder that holds the last checkpoint of one training.

    It holds whole tensors under the names that they have in the whole network, so that a training goes on in any
    layout: it may have been saved by four processes and be taken up by one. Masks and data follow from the step.

    Args:
        folder: where to; all processes of a training must see it.
        every_seconds: time between checkpoints.
        keep_result: write one at the end as well, so that a rerun finds this training done and goes on to the next.
        writes: whether this process is the one that writes.
    """

    def __init__(
        self, folder: Path, every_seconds: float = 30.0, *, keep_result: bool = False, writes: bool = True
    ) -> None:
        self._folder = folder
        self._every = every_seconds
        self._keep_result = keep_result
        self._writes = writes
        self._written = time.monotonic()

    def phase(self, name: str) -> "Checkpoints":
        """Return the checkpoints of one of several trainings that follow each other in a stage."""
        return Checkpoints(self._folder / name, self._every, keep_result=True, writes=self._writes)

    def due(self) -> bool:
        """Tell whether the last checkpoint is old enough for another."""
        return time.monotonic() - self._written >= self._every

    def result_due(self, identity: str, step: int) -> bool:
        """Tell whether the end of a training is to be written: others follow it, and it did not come from there."""
        path = self._folder / _STATE
        if not self._keep_result or not path.is_file():
            return self._keep_result
        state = read_json(path)
        return not (state["identity"] == identity and state["step"] == step)

    def save(
        self,
        identity: str,
        network: nn.Module,
        moments: Iterable[tuple[str, Mapping[str, Tensor]]],
        progress: Progress,
    ) -> None:
        """Write a checkpoint, whole or not at all.

        Args:
            identity: of the training.
            network: with its present weights.
            moments: the optimiser's state of every parameter; run through on all processes, which share it out.
            progress: how far it is.
        """
        tensors: dict[str, Tensor] = {}
        for name, state in moments:
            if self._writes:
                tensors |= {f"optimizer/{name}/{key}": torch.as_tensor(value).cpu() for key, value in state.items()}
        self._written = time.monotonic()
        if not self._writes:
            return
        tensors |= {f"network/{name}": tensor for name, tensor in untied(network).items()}
        tensors |= {f"best/{name}": tensor for name, tensor in progress.best_weights.items()}
        with whole_folder(self._folder) as folder:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / _TENSORS)
            told: dict[str, Any] = {"identity": identity, "step": progress.step, "best_score": progress.best_score}
            told |= {"records": progress.records, "losses": [float(loss) for loss in progress.losses]}
            write_json(folder / _STATE, {**told, "seconds": progress.seconds})

    def restore(self, identity: str, network: nn.Module) -> Restored | None:
        """Load the weights of the same training's checkpoint; None if there is none or it is another training's."""
        if not (self._folder / _STATE).is_file():
            return None
        state = read_json(self._folder / _STATE)
        if state["identity"] != identity:
            return None
        tensors = load_file(self._folder / _TENSORS)
        network.load_state_dict(whole(network, _below("network/", tensors)))
        moments: dict[str, dict[str, Tensor]] = {}
        for name, tensor in _below("optimizer/", tensors).items():
            parameter, _, key = name.rpartition("/")
            moments.setdefault(parameter, {})[key] = tensor
        progress = Progress(
            step=state["step"],
            best_score=state["best_score"],
            best_weights=_below("best/", tensors),
            records=state["records"],
            losses=[torch.tensor(loss) for loss in state["losses"]],
            seconds=state["seconds"],
        )
        return Restored(progress, moments)

    def clear(self) -> None:
        """Remove the checkpoint: the training is done and its result is stored elsewhere."""
        shutil.rmtree(self._folder, ignore_errors=True)


def identity_of(network: nn.Module, data: Encoded, params: TrainingParams, extra: str) -> str:
    """Return a digest of all that decides a training: start weights, data, params and what the caller adds."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for array in (data.tokens, data.types, data.offsets, data.targets):
        digest.update(array)  # type: ignore[arg-type]
    digest.update(json.dumps(params.model_dump(mode="json"), sort_keys=True).encode())
    digest.update(extra.encode())
    return digest.hexdigest()


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
