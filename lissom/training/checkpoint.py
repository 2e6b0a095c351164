"""Checkpoints: the complete state of a training, so that it can be resumed. Stored as safetensors and JSON."""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lissom.artifacts import atomic_folder, read_json, recover_folder, write_json
from lissom.data.encoding import Encoded
from lissom.models.tensor_file import write_tensors
from lissom.models.tied import tied_state, untied_state
from lissom.training.config import TrainingParams

_TENSORS, _STATE = "state.safetensors", "state.json"


@dataclass
class Progress:
    """State of a training other than the weights and the optimiser's moments."""

    step: int = 0
    best_score: float | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    records: list[dict[str, float]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    """Losses since the last record; kept on the device, so that a step does not synchronise with it."""
    seconds: float = 0.0


@dataclass(frozen=True)
class TrainingState:
    """Contents of a checkpoint other than the network's weights."""

    progress: Progress
    moments: dict[str, dict[str, Tensor]]
    """The optimiser's state of every parameter, keyed by the parameter's name in the whole network."""


class Checkpoints:
    """A folder that holds the last checkpoint of one training.

    Tensors are stored unsharded, under their names in the whole network. A checkpoint that four processes wrote can
    therefore be resumed by one. Dropout masks and the order of the data are functions of the step and are not stored.

    Args:
        folder: folder of the checkpoint; all processes of a training must see it.
        every_seconds: time between checkpoints in seconds.
        keep_result: also write a checkpoint at the end, so that a rerun skips this training.
        writes: whether this process writes the checkpoint.
    """

    def __init__(
        self, folder: Path, every_seconds: float = 30.0, *, keep_result: bool = False, writes: bool = True
    ) -> None:
        self._folder = folder
        self._every = every_seconds
        self._keep_result = keep_result
        self._writes = writes
        self._last_write = time.monotonic()

    def phase(self, name: str) -> "Checkpoints":
        """Return the checkpoints of one training in a stage that runs several trainings in sequence."""
        return Checkpoints(self._folder / name, self._every, keep_result=True, writes=self._writes)

    def due(self) -> bool:
        """Return whether `every_seconds` have passed since the last checkpoint."""
        return time.monotonic() - self._last_write >= self._every

    def result_due(self, identity: str, step: int) -> bool:
        """Return whether the result of a training must be written: `keep_result` is set and it is not stored yet."""
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
        """Write a checkpoint atomically.

        Args:
            identity: digest of the training, from `identity_of`.
            network: the network with its current weights.
            moments: the optimiser's state of every parameter; every process must iterate over it, since producing it
                takes collective operations.
            progress: progress of the training.
        """
        tensors: dict[str, Tensor] = {}
        for name, state in moments:
            if self._writes:
                tensors |= {f"optimizer/{name}/{key}": torch.as_tensor(value).cpu() for key, value in state.items()}
        self._last_write = time.monotonic()
        if not self._writes:
            return
        tensors |= {f"network/{name}": tensor for name, tensor in untied_state(network).items()}
        tensors |= {f"best/{name}": tensor for name, tensor in progress.best_weights.items()}
        with atomic_folder(self._folder) as folder:
            whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            write_tensors(whole, folder / _TENSORS)
            summary: dict[str, Any] = {"identity": identity, "step": progress.step, "best_score": progress.best_score}
            summary |= {"records": progress.records, "losses": [float(loss) for loss in progress.losses]}
            write_json(folder / _STATE, {**summary, "seconds": progress.seconds})

    def restore(self, identity: str, network: nn.Module) -> TrainingState | None:
        """Load the checkpoint's weights into `network` and return the rest; None if no checkpoint has this identity."""
        if self._writes:
            recover_folder(self._folder)
        if not (self._folder / _STATE).is_file():
            return None
        state = read_json(self._folder / _STATE)
        if state["identity"] != identity:
            return None
        tensors = load_file(self._folder / _TENSORS)
        network.load_state_dict(tied_state(network, _below("network/", tensors)))
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
        return TrainingState(progress, moments)


def identity_of(network: nn.Module, data: Encoded, params: TrainingParams, extra: str) -> str:
    """Return a digest of everything that determines a training: initial weights, data, params and `extra`."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for array in (data.tokens, data.types, data.offsets, data.targets, data.places, data.row_offsets):
        if array is not None:
            digest.update(array)  # type: ignore[arg-type]
    digest.update(json.dumps(params.model_dump(mode="json"), sort_keys=True).encode())
    digest.update(extra.encode())
    return digest.hexdigest()


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
