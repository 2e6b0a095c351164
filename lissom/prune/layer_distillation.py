"""Hidden states held near those of the model before pruning, while gates choose what stays (CoFi's layer distillation).

Xia et al. 2022, arXiv:2204.00408, section 3.3: for some blocks of the whole model, the squared distance of its hidden
states to those of the nearest block of the model in pruning, which go through a linear map that begins as the identity.
Which block is the nearest may change in every step, as blocks close.
"""

import copy

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from lissom.data.batches import Batch
from lissom.models.capabilities import check_technique
from lissom.models.signals import SignalSpec, signals_of
from lissom.models.sites import blocks_of
from lissom.training.objective import Term, tokens

_TARGETS = 4
"""Blocks of the whole model that are followed, evenly spaced, the last one among them."""


class LayerDistillation:
    """The whole model, and what the model in pruning makes of the same texts.

    Args:
        network: the network before it has gates; copied.
        weight: factor of the distance in the loss.

    Raises:
        InputError: the network's hidden states cannot be captured.
    """

    def __init__(self, network: PreTrainedModel, weight: float) -> None:
        check_technique(network, "hidden", "prune.layer_distillation")
        depth = len(blocks_of(network))
        self._teacher = copy.deepcopy(network).eval().requires_grad_(False)
        self._targets = tuple(sorted({max(1, round(depth * part / _TARGETS)) for part in range(1, _TARGETS + 1)}))
        self._states: dict[int, Tensor] = {}
        self.term = Term(lambda _, batch: self._distance(batch), over=tokens, weight=weight)

    def watch(self, network: PreTrainedModel) -> list[RemovableHandle]:
        """Keep the hidden states of a network in training; it gets a map of its own, `layer_map`."""
        # No layer: zeros of layers may be weights that are pruned, and stay zero then.
        self._map = nn.Parameter(torch.eye(int(network.config.hidden_size), device=next(network.parameters()).device))
        network.register_parameter("layer_map", self._map)

        def keep(place: int) -> RemovableHandle:
            def hook(module: nn.Module, _: object, output: Tensor | tuple[Tensor, ...]) -> None:
                if module.training:
                    self._states[place] = output[0] if isinstance(output, tuple) else output

            handle: RemovableHandle = blocks[place].register_forward_hook(hook)
            return handle

        blocks = blocks_of(network)
        return [keep(place) for place in range(len(blocks))]

    def _distance(self, batch: Batch) -> Tensor:
        """Return the mean over followed blocks of the distance to the nearest block, a scalar; of real tokens only."""
        with torch.no_grad():
            targets = signals_of(self._teacher.to(batch.ids.device), batch, SignalSpec(hidden=self._targets)).hidden
        real = batch.mask.bool()
        own = [(state[real] @ self._map.to(state.dtype).T).float() for state in self._states.values()]
        self._states.clear()
        nearest = [
            torch.stack([(state - targets[block][real].float()).square().mean() for state in own]).min()
            for block in self._targets
        ]
        return torch.stack(nearest).mean()
