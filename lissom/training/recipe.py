"""A compression technique as a value: edits before a training, hooks during it, edits after it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit
from lissom.training.hooks import Hook
from lissom.training.objective import Term


@dataclass(frozen=True)
class Recipe:
    """Returned by a technique's `plan`, applied by `lissom.training.compress`."""

    edits: Sequence[Edit] = ()
    """Applied first, in this order."""
    calibrate: Callable[[CompressedModel], None] | None = None
    """Runs on the edited model before the training, to set ranges, scales and the like."""
    hooks: Sequence[Hook] = ()
    """Called around the steps of the training, in this order."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Factors of the learning rate, keyed by regular expressions over parameter names; the first match applies."""
    penalty: Callable[[nn.Module], Tensor] | None = None
    """A scalar function of the network's weights, added to the loss."""
    terms: Sequence[Term] = ()
    """Further terms of the loss, over the same forward pass."""
    needs_whole: bool = False
    """Whether hooks and masks look at all weights of the network during a training, which no process has if it is cut
    into stages, shards or pieces."""
    trainings: int = 1
    """Trainings in a row, each with a new optimiser and schedule."""
    between: Callable[[CompressedModel, int], None] | None = None
    """Runs after every training but the last, with its number from 1."""
    finish: Callable[[CompressedModel], Sequence[Edit]] | None = None
    """Returns the edits to apply to the trained model, such as removing masked structures."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the step's metrics."""
