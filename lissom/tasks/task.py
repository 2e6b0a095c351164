"""The base of every task: what is asked of a model, and everything that follows from that.

The rest of lissom asks a task and never looks at its kind. A new task is one file beside this one, a member of the
union in `lissom.tasks.kinds`, and a `case` there; its numpy half for serving is `lissom/serving/<kind>.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from lissom.data.encoding import Encoded, encode
from lissom.data.tables import Table
from lissom.section import Section
from lissom.tasks.meter import Meter
from lissom.tasks.metric import Metric
from lissom.tasks.quality import Quality


class Task(Section, ABC):
    """What a model is asked: `kind` tells the subclasses apart in JSON."""

    kind: str
    name: str
    """Of the data set."""
    pair: bool
    """Whether a question is a pair of texts."""
    max_length: int
    """Longest input in tokens; more is cut."""

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """Return the figure that models are judged by."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Return the width of the network's answer."""

    @property
    @abstractmethod
    def is_distribution(self) -> bool:
        """Return whether an answer is the logits of one distribution, so that temperature and entropy make sense."""

    @property
    @abstractmethod
    def auto_class(self) -> Any:
        """Return the class of transformers that loads networks with the task's head."""

    @abstractmethod
    def head_config(self) -> dict[str, Any]:
        """Return what the head needs in a network's config."""

    @abstractmethod
    def targets(self, texts: Sequence[str | None]) -> NDArray[Any]:
        """Return targets as a training sees them, `[examples]`, from their texts; None is a missing one."""

    @abstractmethod
    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the loss against targets `[batch]`, averaged over examples; missing targets add nothing but count.

        So an example's weight is the same in every batch, however many of its neighbours have a target.

        Args:
            answers: `[batch, outputs]`.
            targets: `[batch]`.
        """

    @abstractmethod
    def soft_loss(self, answers: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the loss against a teacher's answers, averaged over examples; no gradient flows into those.

        Args:
            answers: `[batch, outputs]`.
            teacher: the same.
            temperature: T > 0, without meaning where an answer is no distribution.
        """

    @abstractmethod
    def meter(self) -> Meter:
        """Return a new meter of `metric`."""

    @abstractmethod
    def agreement(self, expected: NDArray[np.float32], found: NDArray[np.float32]) -> float | None:
        """Return the share of equal answers `[examples, outputs]`; None where answers are never quite equal."""

    @abstractmethod
    def quality(
        self, answers: NDArray[np.float32], teacher: NDArray[np.float32], targets: NDArray[Any], bins: int
    ) -> Quality:
        """Compare answers `[examples, outputs]` with targets `[examples]` and with the teacher's answers.

        Args:
            answers: of the variant.
            teacher: of the teacher.
            targets: the truth.
            bins: bins of the calibration error, where there is one.
        """

    def linear_model(self, strength: float) -> Any:  # noqa: ARG002
        """Return a linear model of scikit-learn that answers the task from TF-IDF features; None if there is none.

        Args:
            strength: inverse of the regularisation.
        """
        return None

    def linear_answers(self, predicted: NDArray[Any]) -> NDArray[np.float32]:
        """Return a linear model's predictions `[examples]` as answers `[examples, outputs]`."""
        return predicted[:, None].astype(np.float32)

    @abstractmethod
    def same_question(self, other: "Task") -> bool:
        """Return whether a model that was made for one task answers the other, whatever the data set is called."""

    @abstractmethod
    def describe(self) -> str:
        """Return what is predicted, in words."""

    @property
    @abstractmethod
    def answer_columns(self) -> str:
        """Return the columns that a registered model answers with, as Markdown."""

    def serving(self) -> dict[str, Any]:
        """Return what `lissom.serving` needs to know, as JSON values."""
        return {"kind": self.kind, "task": self.name, "pair": self.pair, "max_length": self.max_length}

    def encode(self, tables: Sequence[Table], tokenizer: Tokenizer, folder: Path) -> Encoded:
        """Tokenise tables, one after the other, into files below `folder` (which must outlive the result)."""
        return encode(tables, tokenizer, self.max_length, self.targets, folder)
