"""Input and result of every distillation method."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from lissom.console import note
from lissom.data.encoding import Encoded
from lissom.data.tables import Table
from lissom.distill.cache import cache_signals, estimate_bytes
from lissom.distill.offline_config import SignalsParams
from lissom.errors import InputError
from lissom.models.compressed import CompressedModel, accelerator
from lissom.models.signals import SignalSpec, check_signals, expose_scores
from lissom.parallel.sharding import sharded
from lissom.tasks.kinds import AnyTask
from lissom.training.config import TrainingParams
from lissom.training.lesson import Lesson
from lissom.training.loop import TrainingResult, autocast_type
from lissom.training.teacher import CachedLogits, LiveTeacher, Teacher, cache_logits


@dataclass(frozen=True, kw_only=True)
class Material(Lesson):
    """The context of a distillation: texts, the teacher, and loaders of the base model."""

    teacher: CompressedModel
    """The fine-tuned teacher; its weights are not changed."""
    logits: CachedLogits | None = None
    """The teacher's cached logits of train and transfer; None computes them."""
    base: Callable[[int], CompressedModel] | None = None
    """Loads the pre-trained model with a head drawn from a seed, for methods that do not start from the teacher."""
    language_model: Callable[[], PreTrainedModel] | None = None
    """Loads the base model with its language-model head, for pre-training."""

    def __post_init__(self) -> None:
        self.teacher.network.to(accelerator())

    @property
    def task(self) -> AnyTask:
        """Return the task of teacher and students."""
        return self.teacher.manifest.task

    def load_base(self, seed: int) -> CompressedModel:
        """Load the base model with a head drawn from `seed`; raises `InputError` if there is no base model."""
        if self.base is None:
            raise InputError("this method starts from the base model, and none was given")
        return self.base(seed)

    def load_language_model(self) -> PreTrainedModel:
        """Load the base model with its language-model head; raises `InputError` if there is no base model."""
        if self.language_model is None:
            raise InputError("pre-training needs the base model's language model, and none was given")
        return self.language_model()

    def teacher_logits(self, training: TrainingParams, more: Table | None = None) -> CachedLogits:
        """Return the teacher's logits of train, transfer and then `more`; those that are not cached are computed."""
        parts = [] if self.logits is None else [self.logits.values]
        unknown = ("train", "transfer") if self.logits is None else ()
        if unknown or more is not None:
            data = self.encode(self.teacher, *unknown, more=more)
            precision = autocast_type(training.precision)
            parts.append(cache_logits(self.teacher.network, data, self.teacher.pad_id, precision, self.task))
        return CachedLogits(torch.cat(parts))

    @contextmanager
    def inner_signals(
        self, data: Encoded, spec: SignalSpec, params: SignalsParams, training: TrainingParams
    ) -> Iterator[Teacher]:
        """Yield a teacher that returns the signals of `spec`, cached on disk if `params` allow it.

        Raises:
            InputError: the teacher has too few blocks for `spec`, or the cache would be larger than allowed.
        """
        network = self.teacher.network
        check_signals(network, spec, "teacher")
        if self.task.continues_texts:  # its distributions over all tokens are kept for a batch only
            note("teacher's signals are computed live, for every batch")
            with sharded(network, self.world) as module:
                yield LiveTeacher(module, spec)
            return
        gigabytes = estimate_bytes(network, data, spec) / 1e9
        fits = gigabytes <= params.cache_gigabytes
        if params.source == "cached" and not fits:
            raise InputError(
                f"distill.signals: the teacher's signals would take {gigabytes:.1f} GB on disk, cache_gigabytes allows "
                f"{params.cache_gigabytes:g}; allow more, take fewer examples, or source: live"
            )
        parallel = params.source == "auto" and self.world is not None  # each process needs its own examples only
        if params.source == "live" or not fits or parallel:
            note(f"teacher's signals are computed live ({gigabytes:.2f} GB if cached)")
            with sharded(network, self.world) as module, expose_scores(*([module] if spec.scores else [])):
                yield LiveTeacher(module, spec)
            return
        note(f"teacher's signals take {gigabytes:.2f} GB on disk")
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            precision = autocast_type(training.precision)
            yield cache_signals(network, data, self.teacher.pad_id, spec, Path(folder), precision)


@dataclass
class DistillationResult:
    """A trained student, with metrics of its trainings."""

    model: CompressedModel
    trainings: dict[str, TrainingResult]
    """By phase, in order."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Further metrics of the method."""

    @property
    def history(self) -> list[dict[str, float]]:
        """Return the records of all trainings, with steps counted over all of them."""
        records, before = [], 0
        for result in self.trainings.values():
            records += [{**record, "step": record["step"] + before} for record in result.records]
            before += result.steps
        return records
