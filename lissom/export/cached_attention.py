"""Export of language models: attention with a cache of keys and values, as onnxruntime's `GroupQueryAttention`.

One graph scores texts (with an empty cache) and continues them (a token at a time, with the keys and values of those
before). Inputs beside `input_ids` `[batch, n]` and `attention_mask` `[batch, past + n]` are `past_key_<i>` and
`past_value_<i>`, `[batch, heads, past, d_h]`, of every block; outputs beside the logits `[batch, n, vocabulary]` are
`present_key_<i>` and `present_value_<i>`, `[batch, heads, past + n, d_h]`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from lissom.attention.config import FixedRadius, Pattern
from lissom.errors import InputError
from lissom.models.compressed import input_names
from lissom.models.layers import Projection
from lissom.models.patterned import patterns_of
from lissom.models.sites import attention_sites, head_size

NAME = "lissom_onnx_cached"
_DOMAIN_OP = "com.microsoft::GroupQueryAttention"


class CachedDecoder(nn.Module):
    """A language model with its cache as inputs and outputs.

    Args:
        network: the network, its layers converted; its attention function is exchanged.
        shapes: heads of keys and values, and their width, of every block.
    """

    def __init__(self, network: PreTrainedModel, shapes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self._attentions = [network.get_submodule(site.module) for site in attention_sites(network)]
        for module in self._attentions:
            check_cached_patterns(patterns_of(module))
        network.set_attn_implementation(NAME)
        network.config.use_cache = False
        self.network = network
        self.cache_shapes = shapes

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Return the logits and the present keys and values, two of every block."""
        length, before = input_ids.shape[1], past[0].shape[2]
        state = _State(attention_mask, past)
        for module in self._attentions:
            module._lissom_state = state
        try:
            logits: Tensor = self.network(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                position_ids=(before + torch.arange(length, device=input_ids.device))[None],
            ).logits
        finally:
            for module in self._attentions:
                del module._lissom_state
        return (logits, *state.present)

    def input_names(self) -> list[str]:
        """Return the names of the inputs, in order."""
        return [*input_names(self.network), *self._names("past")]

    def output_names(self) -> list[str]:
        """Return the names of the outputs, in order."""
        return ["logits", *self._names("present")]

    def _names(self, prefix: str) -> list[str]:
        blocks = range(len(self.cache_shapes))
        return [f"{prefix}_{part}_{block}" for block in blocks for part in ("key", "value")]


def cache_shapes(network: PreTrainedModel) -> list[tuple[int, int]]:
    """Return heads of keys and values, and their width, of every block of a network before its conversion."""
    width, shapes = head_size(network), []
    for site in attention_sites(network):
        key = network.get_submodule(site.key)
        assert isinstance(key, Projection)
        shapes.append((key.out_features // width, width))
    return shapes


def check_cached_patterns(patterns: Sequence[Pattern]) -> None:
    """Raise `InputError` if the kernel with a cache cannot compute a pattern."""
    for pattern in patterns:
        if not isinstance(pattern, FixedRadius) or pattern.heads is not None or pattern.global_tokens:
            raise InputError(
                f"attention: {pattern.pattern}: an exported language model keeps the keys and values of earlier "
                "tokens, and onnxruntime's kernel for that knows windows of all heads alone; use fixed_radius without "
                "heads and without global_tokens"
            )


class _State:
    """The cache during one pass; blocks take their part in the order in which they run."""

    def __init__(self, mask: Tensor, past: Sequence[Tensor]) -> None:
        # The kernel counts a text's keys, and wants the number less one.
        self.last = (mask.sum(1) - 1).to(torch.int32)
        self.total = torch.full((), mask.shape[1], dtype=torch.int32)
        self.past = past
        self.present: list[Tensor] = []


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001  (the state has that of the whole text)
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Emit the kernel: query is `[batch, heads, n, d_h]`, key and value may have fewer heads."""
    state: _State = module._lissom_state  # type: ignore[assignment]
    for pattern in patterns_of(module):
        assert isinstance(pattern, FixedRadius), "others are refused before"
        sliding_window = pattern.radius + 1
    batch, heads, length, width = query.shape
    groups, number = key.shape[1], len(state.present)
    total = state.past[number].shape[2] + length
    flat = [t.transpose(1, 2).reshape(batch, length, t.shape[1] * width) for t in (query, key, value)]
    attributes: dict[str, Any] = {
        "num_heads": heads, "kv_num_heads": groups, "scale": float(width**-0.5 if scaling is None else scaling),
        "local_window_size": -1 if sliding_window is None else sliding_window,
    }  # fmt: skip
    if softcap is not None:
        attributes["softcap"] = softcap
    shape = (batch, groups, total, width)
    output, present_key, present_value = torch.onnx.ops.symbolic_multi_out(
        _DOMAIN_OP,
        (*flat, state.past[number], state.past[number + 1], state.last, state.total),
        attributes,
        dtypes=(torch.float32, torch.float32, torch.float32),
        shapes=((batch, length, heads * width), shape, shape),
        version=1,
    )
    state.present += [present_key, present_value]
    return output.view(batch, length, heads, width), None


def _mask(*_: Any, **__: Any) -> None:
    """Return nothing: the kernel is causal, and knows how many keys every text has."""
    return


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
