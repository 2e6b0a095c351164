"""Base class of tasks: targets, losses, metrics and heads of what a model predicts.

The rest of lissom uses this interface and never tests for a task's kind. A new task needs a module in this package, a
member of the union and a `case` in `lissom.tasks.kinds`, and a numpy implementation in `lissom/serving/<kind>.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

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

if TYPE_CHECKING:
    from lissom.data.batches import Batch


class Answering(Protocol):
    """A model that answers batches, in torch or as an exported file."""

    def logits(self, batch: "Batch") -> Tensor:
        """Return the logits of a batch's rows, `[rows, outputs]`."""
        ...

    def generate(self, batch: "Batch") -> list[list[int]]:
        """Return the tokens that the model writes for every text of a batch."""
        ...


class Task(Section, ABC):
    """A task; `kind` identifies the subclass in JSON."""

    kind: str
    name: str
    """Name of the data set."""
    pair: bool
    """Whether an input is a pair of texts."""
    max_length: int
    """Longest input in tokens; longer ones are truncated."""

    def with_tokens(self, kept: Sequence[int]) -> Self:
        """Return the task of a model that has some of its tokens only, numbered in their order."""
        return self

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """Return the metric by which models are compared."""

    @property
    @abstractmethod
    def is_distribution(self) -> bool:
        """Return whether the outputs are logits of a distribution, for which temperature and entropy are defined."""

    @property
    @abstractmethod
    def auto_class(self) -> Any:
        """Return the class of transformers that loads networks with the task's head."""

    @abstractmethod
    def head_config(self) -> dict[str, Any]:
        """Return the entries of a network's config that define the head."""

    @property
    def continues_texts(self) -> bool:
        """Return whether a text is answered with a continuation."""
        return False

    @property
    def writes_texts(self) -> bool:
        """Return whether a text is answered with another text, which an encoder-decoder writes token by token."""
        return False

    @property
    def is_per_token(self) -> bool:
        """Return whether a network has outputs for every token, `[batch, n, outputs]`, not for the whole text."""
        return False

    @abstractmethod
    def targets(self, texts: Sequence[str | None]) -> NDArray[Any]:
        """Convert the labels' texts to targets, `[rows]` or `[rows, ...]`; None stands for a missing label.

        A row is an example, or a word of one where every word has a label.
        """

    @abstractmethod
    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, summed over labelled rows and divided by the number of all rows.

        A row's weight therefore does not depend on how many other rows of the batch are labelled.

        Args:
            answers: logits, `[rows, outputs]`.
            targets: `[rows]`, or `[rows, ...]`.
        """

    @abstractmethod
    def soft_loss(self, answers: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the loss against a teacher's logits, averaged over rows; no gradient flows into the teacher.

        Args:
            answers: logits, `[rows, outputs]`.
            teacher: the teacher's logits, `[rows, outputs]`.
            temperature: T > 0; ignored unless `is_distribution`.
        """

    def condense(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return what metrics need of the outputs for some rows: the outputs themselves, unless they are too many.

        Meters and comparisons get these in place of the outputs.

        Args:
            outputs: `[rows, outputs]`.
            targets: `[rows]`, or `[rows, ...]`.
        """
        return outputs

    def answers(self, model: Answering, batch: "Batch", data: Encoded) -> NDArray[Any]:
        """Return what metrics need of a model's answers to a batch, for the rows of `data.judged`.

        Args:
            model: the model.
            batch: some examples of `data`.
            data: the data set.
        """
        return self.condense(model.logits(batch).float(), batch.targets).cpu().numpy()

    def remember(self, outputs: Tensor, tokens: int) -> Tensor:
        """Return what is cached of a teacher's outputs, `[rows, ...]`; `soft_loss` takes it in their place.

        Args:
            outputs: `[rows, outputs]`.
            tokens: where the outputs are logits of a vocabulary, how many of them are cached.
        """
        return outputs

    def cache_metrics(self, cached: Tensor) -> dict[str, float]:
        """Return how much of a teacher's outputs the cache `[rows, ...]` leaves out."""
        return {}

    @abstractmethod
    def meter(self) -> Meter:
        """Return a new meter of `metric`."""

    @abstractmethod
    def agreement(self, reference: NDArray[np.float32], logits: NDArray[np.float32], tolerance: float) -> float | None:
        """Return the share of equal predictions of two sets of logits `[rows, outputs]`; None in regression.

        Predictions also count as equal where the reference's own logits of the two are within `tolerance`: a near tie.
        """

    @abstractmethod
    def changes(
        self, answers: NDArray[np.float32], teacher: NDArray[np.float32], targets: NDArray[Any]
    ) -> NDArray[np.str_]:
        """Return how every answer differs from the teacher's, `[examples]`.

        `lost` where the teacher's is right and the variant's wrong, `gained` where it is the reverse, `other` where
        both are wrong in different ways, and an empty text where nothing changed.

        Args:
            answers: logits of the variant, `[rows, outputs]`.
            teacher: logits of the teacher, `[rows, outputs]`.
            targets: `[rows]`, or `[rows, ...]`.
        """

    @abstractmethod
    def show_answers(self, logits: NDArray[np.float32], targets: NDArray[Any], texts: Sequence[str]) -> list[str]:
        """Return the answer to every example for a reader.

        Args:
            logits: of the examples, `[rows, outputs]`.
            targets: of the examples, `[rows]` or `[rows, ...]`.
            texts: the texts, or the first ones of pairs, `[examples]`.
        """

    def show_label(self, label: str | None, text: str) -> str:
        """Return the label of a text for a reader."""
        return str(label)

    @abstractmethod
    def quality(
        self, answers: NDArray[np.float32], teacher: NDArray[np.float32], targets: NDArray[Any], bins: int
    ) -> Quality:
        """Compare a variant's logits with the targets and with the teacher's logits.

        Args:
            answers: logits of the variant, `[rows, outputs]`.
            teacher: logits of the teacher, `[rows, outputs]`.
            targets: `[rows]`, or `[rows, ...]`.
            bins: number of bins of the calibration error.
        """

    def linear_model(self, strength: float) -> Any:
        """Return an unfitted linear model of scikit-learn for the task; None if there is none.

        Args:
            strength: inverse of the regularisation.
        """
        return None

    def linear_answers(self, predictions: NDArray[Any]) -> NDArray[np.float32]:
        """Convert a linear model's predictions `[examples]` to outputs `[examples, outputs]`."""
        return predictions[:, None].astype(np.float32)

    @abstractmethod
    def same_question(self, other: "Task") -> bool:
        """Return whether a model of one task can be used for the other; the name of the data set is ignored."""

    @abstractmethod
    def describe(self) -> str:
        """Return a description of the predictions."""

    @property
    @abstractmethod
    def answer_columns(self) -> str:
        """Return the output columns of a registered model, as Markdown."""

    def serving(self) -> dict[str, Any]:
        """Return the task's entries of serving.json."""
        return {"kind": self.kind, "task": self.name, "pair": self.pair, "max_length": self.max_length}

    def count_rows(self, tables: Sequence[Table], tokenizer: Tokenizer, of_targets: Tokenizer | None = None) -> int:
        """Return the number of rows of targets that `encode` makes of tables."""
        return sum(map(len, tables))

    def encode(
        self, tables: Sequence[Table], tokenizer: Tokenizer, folder: Path, of_targets: Tokenizer | None = None
    ) -> Encoded:
        """Tokenise and concatenate tables into files below `folder`, which must outlive the result."""
        return encode(tables, tokenizer, self.max_length, self.targets, folder)
