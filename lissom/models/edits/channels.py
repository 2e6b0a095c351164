"""Keep some of the hidden channels, the same ones everywhere: residual connections tie all layers.

A channel is an entry of the hidden states: a column of every embedding, an entry of every norm, an input of all
projections that read hidden states, an output of those that write them. The width of heads stays.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.channels import channel_axes, root_mean_square_norms, widths_of_embeddings_and_head
from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.surgery import check_indices
from lissom.models.families import family_of
from lissom.models.sites import head_size


class KeepChannels(StructureEdit):
    """Drop all hidden channels but those in `kept`."""

    kind: Literal["keep_channels"] = "keep_channels"
    kept: tuple[int, ...]
    """Numbers of the kept channels, 0-based, ascending."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place.

        A LayerNorm then takes mean and variance over what is kept. The weights of a root-mean-square norm are
        multiplied with sqrt(all / kept), so that the answers are those of the network whose other channels are zero,
        but for the norm's epsilon.

        Raises:
            InputError: it does not fit the network, or an earlier edit has replaced layers whose channels are unknown.
        """
        config, width = network.config, int(network.config.hidden_size)
        check_indices("keep_channels", self.kept, width)
        axes, norms = channel_axes(network), root_mean_square_norms(network)
        index = torch.tensor(self.kept, dtype=torch.long)
        config.head_dim = head_size(network)  # before the width changes, from which it is derived otherwise
        smaller: dict[int, nn.Parameter] = {}  # tied weights stay tied
        for path, module in list(network.named_modules()):
            for name, parameter in list(module.named_parameters(recurse=False)):
                if axis := axes.get(f"{path}.{name}"):
                    if id(parameter) not in smaller:
                        values = _selected(parameter.detach(), axis, index)
                        if path in norms:
                            values = norms[path](values, (width / len(self.kept)) ** 0.5)
                        smaller[id(parameter)] = nn.Parameter(values, requires_grad=parameter.requires_grad)
                    module.register_parameter(name, smaller[id(parameter)])
                    _set_size(module)
        for name in ("hidden_size", *widths_of_embeddings_and_head(config)):
            setattr(config, name, len(self.kept))

    def is_plain(self, network: PreTrainedModel) -> bool:
        """Return whether the width of heads is a number of its own in the config, and nothing scales with the width."""
        family = family_of(network)
        return family.grouped and not family.scaled_word_table

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"kept {len(self.kept)} hidden channels"


def _selected(values: Tensor, axes: tuple[int, ...], index: Tensor) -> Tensor:
    for axis in axes:
        values = values.index_select(axis, index.to(values.device))
    return values.contiguous()


def _set_size(module: nn.Module) -> None:
    """Let a module's attributes tell the shape of its weight."""
    weight = module.get_parameter("weight")
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = weight.shape[1]
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(weight.shape)
    elif weight.ndim > 1:
        raise InputError(f"keep_channels: a {type(module).__name__} cannot be cut: remove channels before that edit")
