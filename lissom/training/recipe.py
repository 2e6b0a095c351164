"""What a compression technique asks for: the edits before a training, what happens during it, the edits after it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lissom.models.compressed import CompressedModel
from lissom.models.edits import Edit
from lissom.training.hooks import Hook


@dataclass(frozen=True)
class Recipe:
    """Returned by a technique's `plan`, carried out by `lissom.training.compress`."""

    edits: Sequence[Edit] = ()
    """Made first, in this order."""
    calibrate: Callable[[CompressedModel], None] | None = None
    """Runs on the edited model before the training: sets ranges, scales and the like."""
    hooks: Sequence[Hook] = ()
    """Called around the steps of the training, in this order; `Hook.begin` gets the network that is trained."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Factors of the learning rate, by regular expressions that are searched in names of parameters; first match."""
    penalty: Callable[[nn.Module], Tensor] | None = None
    """Added to the loss: a scalar of the network's weights."""
    finish: Callable[[CompressedModel], Sequence[Edit]] | None = None
    """Returns the edits to make on the trained model: remove what was closed, make a mask permanent."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Goes into the step's metrics."""
