"""The objective of a training: a weighted sum of terms over one forward pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from lissom.data.batches import Batch, Count, Members


def examples(members: Members) -> float:
    """Count the examples."""
    return len(members.indices)


def rows(members: Members) -> float:
    """Count the rows of targets: the examples, or their words where every word has a target."""
    return examples(members) if members.row_counts is None else float(members.row_counts.sum())


def tokens(members: Members) -> float:
    """Count the real tokens."""
    return float(members.lengths.sum())


@dataclass(frozen=True)
class Term:
    """One term of an objective: a mean over the rows of a batch's targets, or over other items."""

    value: Callable[[Any, Batch], Tensor]
    """Maps the output of `Objective.forward`, and the batch, to a scalar."""
    over: Count = rows
    """Counts the items of the mean: where a batch is split, its parts are weighted by their numbers of items."""
    weight: float = 1.0


@dataclass(frozen=True)
class Objective:
    """A loss for `fit`: called with a network and a batch, it returns a scalar.

    A batch may be one part of a larger batch. Each term is weighted by the part's share of the larger batch's items
    (examples, tokens, pairs), so that the sum over all parts is the value for the larger batch.
    """

    forward: Callable[[nn.Module, Batch], Any]
    """Runs the network (and the teacher) once; its output is the first argument of every term."""
    terms: tuple[Term, ...]
    identity: str = ""
    """String that determines the objective, such as its params; a checkpoint of another identity is not resumed."""
    needs_internals: bool = False
    """Whether it needs more than logits: hidden states, attention scores, or a member in another mode. Pipeline stages
    and tensor-parallel shards do not hold these in one place."""
    penalty: Callable[[nn.Module], Tensor] | None = None
    """A function of the weights alone, added once per batch."""

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the value for a batch."""
        outputs = self.forward(network, batch)
        share = batch.share
        values = [
            (1.0 if share is None else share.of(term.over)) * term.weight * term.value(outputs, batch)
            for term in self.terms
        ]
        if self.penalty is not None:
            values.append(self.penalty(network))
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total

    def with_terms(self, terms: Sequence[Term]) -> "Objective":
        """Return the objective with further terms; none return it unchanged."""
        return replace(self, terms=(*self.terms, *terms), needs_internals=True) if terms else self

    def with_penalty(self, penalty: Callable[[nn.Module], Tensor] | None) -> "Objective":
        """Return the objective with a penalty on the weights; `None` returns it unchanged."""
        return self if penalty is None else replace(self, penalty=penalty, needs_internals=True)


def objective(
    loss: Callable[[nn.Module, Batch], Tensor], identity: str = "", *, needs_internals: bool = False
) -> Objective:
    """Return an objective of one term: a loss of network and batch, averaged over the rows of the batch's targets."""
    return Objective(
        forward=loss, terms=(Term(lambda value, _: value),), identity=identity, needs_internals=needs_internals
    )  # fmt: skip
