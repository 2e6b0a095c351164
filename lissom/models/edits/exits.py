"""Exits: a small classifier after every block, so that an easy input can leave early.

The classifier is FastBERT's (Liu et al. 2020, arXiv:2004.02178, §3.1): a projection to a smaller width, self-attention
with two heads, the output of the token that stands for the text, a linear layer. The network's own head is dropped; the
last exit replaces it.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.capabilities import check_technique
from lissom.models.edits.edit import StructureEdit
from lissom.models.families import family_of
from lissom.models.pooling import text_vector
from lissom.models.sites import blocks_of, exits_of, replace_module

_HEADS = 2


class Exit(nn.Module):
    """A classifier on the hidden states of one block.

    Args:
        width: width of the hidden states.
        size: width of the classifier, even.
        labels: number of labels.
        causal: whether the network's attention is causal, so that its last token stands for the text.
    """

    def __init__(self, width: int, size: int, labels: int, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.narrow = nn.Linear(width, size)
        self.query, self.key, self.value = nn.Linear(size, size), nn.Linear(size, size), nn.Linear(size, size)
        self.mix = nn.Linear(size, size)
        self.dense = nn.Linear(size, size)
        self.classifier = nn.Linear(size, labels)

    def features(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Map hidden states `[batch, n, d]` and mask `[batch, n]` to features `[batch, size]`.

        Only one token has a query (`text_vector`), since only its output is used.
        """
        narrow = self.narrow(hidden).tanh()
        batch, length, size = narrow.shape
        query = self.query(text_vector(narrow, mask, causal=self.causal)).view(batch, _HEADS, 1, size // _HEADS)
        key, value = (
            projection(narrow).view(batch, length, _HEADS, size // _HEADS).transpose(1, 2)
            for projection in (self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(size // _HEADS)
        scores = scores.masked_fill(~mask.bool()[:, None, None, :], torch.finfo(scores.dtype).min)
        context = (scores.softmax(-1) @ value).reshape(batch, size)
        features: Tensor = self.dense(self.mix(context)).tanh()
        return features

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Map hidden states `[batch, n, d]` and mask `[batch, n]` to logits `[batch, labels]`."""
        logits: Tensor = self.classifier(self.features(hidden, mask))
        return logits


class AddExits(StructureEdit):
    """Add an exit after every block, and drop the network's own head."""

    kind: Literal["add_exits"] = "add_exits"
    size: int = Field(default=128, ge=2)
    """Width of the exits' classifiers."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; the exits' weights are random until trained or loaded.

        Raises:
            InputError: the network has exits already, the width does not divide among the heads, or the blocks of
                the family cannot run apart.
        """
        if exits_of(network) is not None:
            raise InputError("add_exits: the network has exits already")
        check_technique(network, "exits", self.kind)
        if self.size % _HEADS:
            raise InputError(f"add_exits: size {self.size} must be divisible by {_HEADS}, the exits' attention heads")
        config, like = network.config, next(blocks_of(network).parameters())
        causal = family_of(network).decoder
        exits = [Exit(config.hidden_size, self.size, config.num_labels, causal=causal) for _ in blocks_of(network)]
        network.exits = nn.ModuleList(exits).to(like.device, like.dtype).train(network.training)
        for path in family_of(network).head:
            replace_module(network, path, None)

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"an exit of width {self.size} after every block"


class DropExits(StructureEdit):
    """Drop all exits but the last; the logits of the full network do not change."""

    kind: Literal["drop_exits"] = "drop_exits"

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; raises `InputError` if there are no exits."""
        exits = exits_of(network)
        if exits is None or len(exits) == 1:
            raise InputError("drop_exits: the network has no exits besides its last")
        network.exits = nn.ModuleList([exits[-1]])

    def describe(self) -> str:
        """Return the edit in a few words."""
        return "kept the last exit alone"
