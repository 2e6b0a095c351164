"""What a training minimises: a sum of terms over one look at a network and a batch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from lissom.data.batches import Batch

Mean = Literal["examples", "tokens", "pairs"]


@dataclass(frozen=True)
class Term:
    """One summand: a mean over the examples, the real tokens, or the pairs of real tokens of a batch."""

    value: Callable[[Any, Batch], Tensor]
    """Maps what `Objective.look` has seen, and the batch, to a scalar."""
    over: Mean = "examples"
    weight: float = 1.0


@dataclass(frozen=True)
class Objective:
    """A loss for `fit`: called with a network and a batch, it returns a scalar.

    A batch may be a part of a larger one. Each term counts by the share of the larger batch's examples, tokens or
    pairs that the part holds, so that the terms of all parts add up to those of the whole.
    """

    look: Callable[[nn.Module, Batch], Any]
    """Runs the network (and the teacher) once; every term reads what it returns."""
    terms: tuple[Term, ...]
    identity: str = ""
    """What decides the objective besides the network and the data; a checkpoint of another identity is not resumed."""
    looks_inside: bool = False
    """Whether it needs more than logits (hidden states, attention, a member in another mode): stages of a pipeline and
    shares of heads do not have these in one place."""
    penalty: Callable[[nn.Module], Tensor] | None = None
    """Of the weights alone, added once for a whole batch."""

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the value for a batch."""
        seen = self.look(network, batch)
        values = [batch.share.of(term.over) * term.weight * term.value(seen, batch) for term in self.terms]
        if self.penalty is not None:
            values.append(self.penalty(network))
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total

    def with_penalty(self, penalty: Callable[[nn.Module], Tensor] | None) -> "Objective":
        """Return the objective with a penalty on the weights; None returns it as it is."""
        return self if penalty is None else replace(self, penalty=penalty, looks_inside=True)


def objective(
    loss: Callable[[nn.Module, Batch], Tensor], identity: str = "", *, looks_inside: bool = False
) -> Objective:
    """Return an objective of one term: a loss of network and batch, averaged over the batch's examples."""
    return Objective(
        look=loss, terms=(Term(lambda value, _: value),), identity=identity, looks_inside=looks_inside
    )  # fmt: skip
