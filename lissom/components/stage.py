"""Input and result of a stage's work."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lissom.components.specs import StageSpec
from lissom.params import Params
from lissom.tracking.runs import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lissom.data.encoding import Encoded
    from lissom.models.compressed import CompressedModel
    from lissom.parallel.world import World
    from lissom.training.checkpoint import Checkpoints
    from lissom.training.hooks import Hook
    from lissom.training.lesson import Lesson


@dataclass
class Outcome:
    """Result of a stage, besides the files that it writes itself."""

    metrics: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    model: "CompressedModel | None" = None
    """Written to the output `model`, with this stage as its last step."""
    method: str = ""


@dataclass(frozen=True)
class Stage:
    """Input of a stage's work: params, folders, run and processes."""

    spec: StageSpec
    params: Params
    inputs: dict[str, Path]
    outputs: dict[str, Path]
    """Temporary folders, which are moved to their targets when the stage is complete."""
    run: Run
    checkpoint_folder: Path
    checkpoint_seconds: float
    scratch: Path
    """Removed at the end."""
    variant: str
    """For stages that run once per variant."""
    world: "World | None"
    """The processes that run this stage, of which the first writes and logs; None for a single process."""
    taken_up: list[str] = field(default_factory=list)
    """Has an item for every training that went on from a checkpoint, of a process that ended before it was complete."""

    @property
    def name(self) -> str:
        """Return the stage's name."""
        return self.spec.name

    def checkpoints(self) -> "Checkpoints":
        """Return the checkpoints of this stage's trainings; they are removed when the stage is complete."""
        from lissom.components.resuming import NoticedCheckpoints

        writes = self.world is None or self.world.is_main
        return NoticedCheckpoints(
            self.checkpoint_folder, self.checkpoint_seconds, lambda: self.taken_up.append(self.name), writes=writes
        )

    def load(self, name: str) -> "CompressedModel":
        """Load the model directory that is the input `name`."""
        from lissom.models.directory import load

        return load(self.inputs[name])

    def encode(self, model: "CompressedModel", *splits: str) -> "Encoded":
        """Tokenise splits of the input `data`, one after the other, for a model."""
        from lissom.data.prepare import load_table

        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        return model.encode([load_table(self.inputs["data"], split) for split in splits], folder)

    def texts(self, split: str, *, conversations: bool = False) -> "Iterator[str]":
        """Yield the first texts of a split of the input `data`: its plain ones, or its conversations (JSON)."""
        from lissom.data.prepare import load_table
        from lissom.data.tables import CONVERSATION

        table = load_table(self.inputs["data"], split)
        rows = zip(table.texts(), table.labels(), strict=True)
        yield from (text for (text, _), label in rows if (label == CONVERSATION) == conversations)

    def lesson(self) -> "Lesson":
        """Return what the stage's trainings share; they report to its run and to the terminal."""
        from lissom.console import ProgressBar
        from lissom.data.prepare import load_table
        from lissom.tracking.runs import RunMetrics
        from lissom.training.lesson import Lesson

        def hooks(phase: str) -> list["Hook"]:
            # The stage's own curve has no prefix; those of trainings before it, and of further methods, have one.
            title = self.name if phase == "training" else f"{self.name}, {phase}"
            return [RunMetrics(self.run, phase.removeprefix("training")), ProgressBar(title)]

        return Lesson(
            tables={split: load_table(self.inputs["data"], split) for split in ("train", "transfer", "dev")},
            scratch=self.scratch, hooks=hooks, checkpoints=self.checkpoints(), world=self.world,
        )  # fmt: skip

    def section(self) -> Any:
        """Return the stage's own params as plain values."""
        return self.params.model_dump(mode="json", include={self.spec.own_section}).get(self.spec.own_section, {})
