"""What every method of distillation is given, and what it gives back."""

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
    """A lesson with a teacher, and the base model that both came from."""

    teacher: CompressedModel
    """Fine-tuned; never changed."""
    logits: CachedLogits | None = None
    """The teacher's logits of train and transfer; None asks the teacher."""
    base: Callable[[int], CompressedModel] | None = None
    """Loads the pre-trained model with a head drawn from a seed, for methods that do not start from the teacher."""
    language_model: Callable[[], PreTrainedModel] | None = None
    """Loads the base model with its language-model head, for pre-training."""

    def __post_init__(self) -> None:
        self.teacher.network.to(accelerator())

    @property
    def task(self) -> AnyTask:
        """Return what teacher and students are asked."""
        return self.teacher.manifest.task

    def load_base(self, seed: int) -> CompressedModel:
        """Load the base model with a head drawn from `seed`, or say that there is none."""
        if self.base is None:
            raise InputError("this method starts from the base model, and none was given")
        return self.base(seed)

    def load_language_model(self) -> PreTrainedModel:
        """Load the base model's language model, or say that there is none."""
        if self.language_model is None:
            raise InputError("pre-training needs the base model's language model, and none was given")
        return self.language_model()

    def teacher_logits(self, training: TrainingParams, more: Table | None = None) -> CachedLogits:
        """Return the teacher's logits of the lesson, and of `more` texts behind it; unknown ones are computed once."""
        known = [] if self.logits is None else [self.logits.values]
        unknown = ("train", "transfer") if self.logits is None else ()
        if unknown or more is not None:
            asked = self.encode(self.teacher, *unknown, more=more)
            precision = autocast_type(training.precision)
            known.append(cache_logits(self.teacher.network, asked, self.teacher.pad_id, precision))
        return CachedLogits(torch.cat(known))

    @contextmanager
    def inner_signals(
        self, data: Encoded, spec: SignalSpec, params: SignalsParams, training: TrainingParams
    ) -> Iterator[Teacher]:
        """Yield the teacher with inner signals, cached on disk where params and room allow.

        Raises:
            InputError: the teacher cannot give what is wanted, or the cache would be larger than allowed.
        """
        network = self.teacher.network
        check_signals(network, spec, "teacher")
        gigabytes = estimate_bytes(network, data, spec) / 1e9
        fits = gigabytes <= params.cache_gigabytes
        if params.source == "cached" and not fits:
            raise InputError(
                f"distill.signals: the teacher's signals would take {gigabytes:.1f} GB on disk, cache_gigabytes allows "
                f"{params.cache_gigabytes:g}; allow more, take fewer examples, or source: live"
            )
        shared = params.source == "auto" and self.world is not None  # each process asks about its own examples only
        if params.source == "live" or not fits or shared:
            note(f"teacher's signals are computed live ({gigabytes:.2f} GB if cached)")
            with sharded(network, self.world) as asked, expose_scores(*([asked] if spec.scores else [])):
                yield LiveTeacher(asked, spec)
            return
        note(f"teacher's signals take {gigabytes:.2f} GB on disk")
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            precision = autocast_type(training.precision)
            yield cache_signals(network, data, self.teacher.pad_id, spec, Path(folder), precision)


@dataclass
class Distilled:
    """A trained student."""

    model: CompressedModel
    trainings: dict[str, TrainingResult]
    """By phase, in order."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Whatever the method has to tell besides."""

    @property
    def history(self) -> list[dict[str, float]]:
        """Return the records of all trainings, their steps counted on."""
        records, before = [], 0
        for fitted in self.trainings.values():
            records += [{**record, "step": record["step"] + before} for record in fitted.records]
            before += fitted.steps
        return records
