"""Export of encoder-decoders as two graphs: one reads a text, the other writes, a token at a time or all at once.

The encoder's graph maps `input_ids` and `attention_mask`, each `[batch, n]`, to `cross_key_<i>` and `cross_value_<i>`,
`[batch, heads, n, d_h]`: what block i of the decoder sees of the text, computed once. The decoder's graph maps
`decoder_input_ids` `[batch, m]`, `attention_mask`, those keys and values and `past_key_<i>` and `past_value_<i>`,
`[batch, heads, past, d_h]`, to the logits `[batch, m, vocabulary]` and `present_key_<i>` and `present_value_<i>`,
`[batch, heads, past + m, d_h]`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from lissom.models.families import family_of
from lissom.models.family import AttentionSite
from lissom.models.layers import Projection
from lissom.models.shared_bias import own_rows
from lissom.models.sites import attention_sites, head_size

NAME = "lissom_onnx_encoder_decoder"
_OUTSIDE = -10000.0  # what the kernel itself adds to the scores of padding


class EncoderGraph(nn.Module):
    """Reads a text: the encoder, and the projections of every cross-attention of the decoder.

    Args:
        network: the network, its layers converted; its attention function is exchanged.
        shapes: from `cross_shapes`.
    """

    def __init__(self, network: PreTrainedModel, shapes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        network.set_attn_implementation(NAME)
        self.network, self._shapes = network, shapes
        self._sites = [site for site in attention_sites(network) if site.kind == "cross"]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Return keys and values of every block of the decoder."""
        hidden = self.network.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        results = []
        for site, (heads, width) in zip(self._sites, self._shapes, strict=True):
            for path in (site.key, site.value):
                projected = self.network.get_submodule(path)(hidden)
                results.append(projected.view(*hidden.shape[:2], heads, width).transpose(1, 2))
        return tuple(results)


class DecoderGraph(nn.Module):
    """Writes: the decoder with its caches as inputs and outputs.

    Args:
        network: the network, its layers converted; its attention function is exchanged.
    """

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        network.set_attn_implementation(NAME)
        self.network = network

    def forward(self, decoder_input_ids: Tensor, attention_mask: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        """Return the logits, and keys and values of all tokens so far; `caches` are those of the text and the past."""
        cross, past = caches[: len(caches) // 2], caches[len(caches) // 2 :]
        cache = EncoderDecoderCache(_cache_of(past), _cache_of(cross))
        cache.is_updated = dict.fromkeys(range(len(cross) // 2), True)
        # The decoder takes only the shape of the encoder's hidden states: their projections are in the cache.
        width = self.network.config.d_model
        hidden = attention_mask[:, :, None].expand(-1, -1, width).to(torch.float32)
        logits = self.network(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden), attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids, past_key_values=cache, use_cache=True,
        ).logits  # fmt: skip
        present = [tensor for layer in cache.self_attention_cache.layers for tensor in (layer.keys, layer.values)]
        return (logits, *present)


def cross_shapes(network: PreTrainedModel) -> list[tuple[int, int]]:
    """Return heads and their width of every cross-attention of a network before its conversion."""
    return _shapes(network, [site for site in attention_sites(network) if site.kind == "cross"])


def past_shapes(network: PreTrainedModel) -> list[tuple[int, int]]:
    """Return heads and their width of every self-attention of the decoder of a network before its conversion."""
    blocks = f"{family_of(network).stacks[-1].blocks}."
    sites = [site for site in attention_sites(network) if site.kind == "self" and site.module.startswith(blocks)]
    return _shapes(network, sites)


def names(prefix: str, blocks: int) -> list[str]:
    """Return the names of keys and values of some blocks, such as `past_key_0`."""
    return [f"{prefix}_{part}_{block}" for block in range(blocks) for part in ("key", "value")]


def _shapes(network: PreTrainedModel, sites: Sequence[AttentionSite]) -> list[tuple[int, int]]:
    width, shapes = head_size(network), []
    for site in sites:
        key = network.get_submodule(site.key)
        assert isinstance(key, Projection)
        shapes.append((key.out_features // width, width))
    return shapes


class _Layer(DynamicLayer):  # type: ignore[misc]
    """A layer of a cache whose length is the shape of its tensors, also where that is a symbol."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Return the number of tokens."""
        return self.keys.shape[-2]


def _cache_of(tensors: Sequence[Tensor]) -> Cache:
    return Cache(layers=[_Layer(*tensors[start : start + 2]) for start in range(0, len(tensors), 2)])


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Emit onnxruntime's `MultiHeadAttention`; query is `[batch, heads, m, d_h]`, keys and values are
    `[batch, heads, t, d_h]`.

    A decoder's own tokens see those before them; all others see the tokens of the text that are not padding.
    """
    batch, heads, length, width = query.shape
    total = key.shape[2]
    causal = bool(getattr(module, "is_causal", False))
    bias = None if position_bias is None else own_rows(module, position_bias)
    if causal:
        rows = torch.arange(length)[:, None] + (total - length)
        outside = torch.where(torch.arange(total) > rows, _OUTSIDE, 0.0)[None, None]
        bias = outside if bias is None else bias + outside
    flat = [t.transpose(1, 2).reshape(batch, t.shape[2], heads * width) for t in (query, key, value)]
    output = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (*flat, None, None if causal else attention_mask, bias),
        {"num_heads": heads, "scale": float(scaling)},
        dtype=torch.float32,
        shape=(batch, length, heads * width),
        version=1,
    )
    return output.view(batch, length, heads, width), None


def _mask(*_: Any, attention_mask: Tensor | None = None, **__: Any) -> Tensor | None:
    """Return the padding mask `[batch, n]`, which the kernel takes directly."""
    return None if attention_mask is None else attention_mask.to(torch.int32)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
