"""The context that all trainings of a stage share: texts, checkpoints, processes and reporting hooks."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lissom.data.encoding import Encoded
from lissom.data.tables import Table
from lissom.errors import InputError
from lissom.models.compressed import CompressedModel
from lissom.parallel.world import World
from lissom.training.checkpoint import Checkpoints
from lissom.training.config import TrainingParams
from lissom.training.hooks import Hook
from lissom.training.loop import TrainingResult, autocast_type, fit
from lissom.training.objective import Objective
from lissom.training.predicting import Scorer, score

RelativeLatency = Callable[[CompressedModel, CompressedModel, Encoded], float]
"""Returns how long the exported file of the second model takes for texts, as a share of the first one's."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Data and runtime context of the trainings of a stage."""

    tables: Mapping[str, Table]
    """`train`, `transfer` (unlabelled) and `dev`."""
    scratch: Path
    """A folder for temporary files."""
    hooks: Callable[[str], Sequence[Hook]] = lambda _: ()
    """Returns the hooks that report a training, given its phase."""
    checkpoints: Checkpoints | None = None
    world: World | None = None
    """The processes that share the trainings; None for this one alone."""
    latency: RelativeLatency | None = None
    """Measures latencies for budgets; None where nothing can be exported."""

    def latency_of(self, whole: CompressedModel, edited: CompressedModel, texts: Encoded) -> float:
        """Return the relative latency that the first process measures, the same on all.

        Raises:
            InputError: nothing can be measured here.
        """
        if self.latency is None:
            raise InputError("budget.of: latency: give the lesson a function that measures it (Lesson.latency)")
        if self.world is None:
            return self.latency(whole, edited, texts)
        measured = self.latency(whole, edited, texts) if self.world.is_main else None
        return next(value for value in self.world.gather(measured) if value is not None)

    def encode(self, model: CompressedModel, *names: str, more: Table | None = None) -> Encoded:
        """Tokenise the named tables, and then `more`, into one data set."""
        tables = [self.tables[name] for name in names] + ([] if more is None else [more])
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        return model.encode(tables, folder)

    def texts(self, model: CompressedModel, more: Table | None = None) -> Encoded:
        """Tokenise the training texts of a model: `train`, `transfer`, and then `more`."""
        return self.encode(model, "train", "transfer", more=more)

    def scorer(self, model: CompressedModel, params: TrainingParams) -> Scorer:
        """Return a scorer of the model's current weights on the dev split."""
        dev, precision, task = self.encode(model, "dev"), autocast_type(params.precision), model.manifest.task
        return Scorer(task.metric, lambda: score(model.network, dev, model.pad_id, task, precision))

    def train(
        self,
        phase: str,
        network: nn.Module,
        data: Encoded,
        pad: int,
        objective: Objective,
        params: TrainingParams,
        *,
        identity: str,
        score: Scorer | None = None,
        hooks: Sequence[Hook] = (),
        rates: Mapping[str, float] | None = None,
    ) -> TrainingResult:
        """Run one training; arguments as for `fit`.

        `phase` is the training's name within the stage, `identity` is whatever else determines the training.
        """
        checkpoints = None if self.checkpoints is None else self.checkpoints.phase(phase)
        return fit(
            network, data, pad, objective, params,
            score=score, hooks=[*hooks, *self.hooks(phase)], checkpoints=checkpoints, identity=f"{phase} {identity}",
            world=self.world, rates=rates,
        )  # fmt: skip
