"""Callbacks around the steps of a training."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # hooks that only log do not import torch
    from torch import nn


class Hook:
    """Base class of hooks: every method does nothing unless overridden.

    A hook's state must be a function of the step, so that a resumed training gives the same result.
    """

    def begin(self, network: "nn.Module") -> None:
        """Run before the first step; `network` is the network, or this process's shard of it."""

    def on_gradients(self) -> None:
        """Run when a step's gradients are complete, before they are clipped."""

    def before_step(self, step: int, total: int) -> None:
        """Run before optimiser step `step` (0-based) of `total`."""

    def after_step(self, step: int, total: int) -> None:
        """Run after optimiser step `step` (0-based) of `total`."""

    def on_record(self, record: dict[str, float]) -> None:
        """Run when metrics are logged: `step`, `epoch`, and either `loss` and `learning_rate` or `dev_score`."""

    def end(self) -> None:
        """Run once after the last step, also if the training fails after `begin`."""
