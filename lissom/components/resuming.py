"""Checkpoints that tell when a training goes on from one."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from lissom.training.checkpoint import Checkpoints, TrainingState


class NoticedCheckpoints(Checkpoints):
    """Checkpoints that call a function whenever one of them is taken up.

    Args:
        folder: as of `Checkpoints`.
        every_seconds: as of `Checkpoints`.
        tell: is called without arguments.
        keep_result: as of `Checkpoints`.
        writes: as of `Checkpoints`.
    """

    def __init__(
        self,
        folder: Path,
        every_seconds: float,
        tell: Callable[[], None],
        *,
        keep_result: bool = False,
        writes: bool = True,
    ) -> None:
        super().__init__(folder, every_seconds, keep_result=keep_result, writes=writes)
        self._tell = tell

    def phase(self, name: str) -> "NoticedCheckpoints":
        """Return the checkpoints of one training in a stage that runs several trainings in sequence."""
        return NoticedCheckpoints(self._folder / name, self._every, self._tell, keep_result=True, writes=self._writes)

    def restore(self, identity: str, network: nn.Module) -> TrainingState | None:
        """Load a checkpoint as `Checkpoints.restore` does, and tell if there is one."""
        state = super().restore(identity, network)
        if state is not None:
            self._tell()
        return state
