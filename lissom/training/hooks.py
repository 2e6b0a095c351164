"""What may happen around the steps of a training."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # those that only log need no torch
    from torch import nn


class Hook:
    """Does nothing; a hook overrides what it needs. State must follow from the step, so that a resumed run agrees."""

    def begin(self, network: "nn.Module") -> None:
        """Run before the first step; `network` is what is trained: the given one, or a copy cut over processes."""

    def on_gradients(self) -> None:
        """Run when a step's gradients are complete, before they are clipped."""

    def before_step(self, step: int, total: int) -> None:
        """Run before optimiser step `step` (0-based) of `total`."""

    def after_step(self, step: int, total: int) -> None:
        """Run after optimiser step `step` (0-based) of `total`."""

    def on_record(self, record: dict[str, float]) -> None:
        """Run when figures are recorded: `step`, `epoch`, and `loss` with `learning_rate`, or `dev_score`."""

    def end(self) -> None:
        """Run once after the last step, also of a training that failed after `begin`."""
