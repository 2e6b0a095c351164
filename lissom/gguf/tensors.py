"""The tensors of a GGUF file: transformers' ones under llama.cpp's names and in its layout."""

from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.gguf.architecture import Architecture, Shapes, interleave, padded
from lissom.models.families import family_of
from lissom.models.fused import fused_state
from lissom.models.sites import attention_sites, blocks_of, ffn_sites
from lissom.models.tied import untied_state

ROPE_FACTORS = "rope_freqs.weight"


def tensors_of(network: PreTrainedModel, architecture: Architecture, target: Shapes) -> dict[str, NDArray[np.float32]]:
    """Return the tensors by llama.cpp's names, in float32.

    Args:
        network: the network, with plain projections and tables.
        architecture: how llama.cpp holds it.
        target: sizes of the blocks in the file; where they are larger than the network's, zeros are added.

    Raises:
        InputError: there is a tensor that llama.cpp has no name for.
    """
    family = family_of(network)
    state = {name: tensor.detach().float().cpu() for name, tensor in untied_state(network).items()}
    _change_attention(network, architecture, target, state)
    for site, neurons in zip(ffn_sites(network), target.neurons, strict=True):
        for path in site.inputs:
            _pad(state, path, neurons)
        state[f"{site.output}.weight"] = padded(state[f"{site.output}.weight"], neurons, axis=1)
    plain = fused_state(state, family)
    if architecture.encoder:  # without its head, and without what a classifier reads of the first token
        plain = {name: tensor for name, tensor in plain.items() if _is_of_encoder(name, network)}
    names = TensorNames(network, architecture)
    result: dict[str, NDArray[np.float32]] = {}
    for name, tensor in plain.items():
        target_name = names.of(name)
        if target_name is None:
            raise InputError(f"export.formats gguf: llama.cpp's {architecture.name} has no tensor for {name}")
        if name.endswith(tuple(f".{layer}.weight" for layer in family.transposed)):
            tensor = tensor.t()
        if target_name.endswith("norm.weight"):
            tensor = tensor + architecture.norm_offset
        result[target_name] = np.ascontiguousarray(tensor.numpy())
    return result if architecture.encoder else result | rope_factors(network)


def rope_factors(network: PreTrainedModel) -> dict[str, NDArray[np.float32]]:
    """Return what the frequencies of Llama 3's rotary positions are divided by, `[d_h / 2]`; nothing for others.

    Raises:
        InputError: the positions are scaled in a way that is not known here.
    """
    rope = getattr(network.config, "rope_parameters", None) or {}
    kinds = {_kind_of(values) for values in ((rope,) if "rope_type" in rope else rope.values())}
    if kinds <= {"default", "linear"} and "linear" not in _kind_of(rope.get("sliding_attention")):
        return {}  # settings have the factor, which llama.cpp takes for all blocks without a window
    if kinds != {"llama3"}:
        raise InputError(f"export.formats gguf: rotary positions of type {', '.join(sorted(kinds))} are not supported")
    width = network.config.head_dim
    frequencies = rope["rope_theta"] ** -(torch.arange(0, width, 2).double() / width)
    module = next(module for module in network.modules() if hasattr(module, "inv_freq"))
    return {ROPE_FACTORS: (frequencies / module.inv_freq.double().cpu()).float().numpy()}


def _kind_of(values: Any) -> str:
    return str(values.get("rope_type", "default")) if isinstance(values, Mapping) else "default"


def _change_attention(
    network: PreTrainedModel, architecture: Architecture, target: Shapes, state: dict[str, Tensor]
) -> None:
    """Pad the heads of every site, scale its queries and reorder their entries, in place."""
    width, scale = target.head_size, _query_scale(network) if architecture.own_scale else 1.0
    for site, groups in zip(attention_sites(network), target.groups, strict=True):
        heads = {site.query: groups * target.group, site.key: groups, site.value: groups}
        for path, count in heads.items():
            _pad(state, path, count * width)
        state[f"{site.output}.weight"] = padded(state[f"{site.output}.weight"], groups * target.group * width, axis=1)
        for kind in ("weight", "bias"):
            for path in (site.query, site.key):
                if architecture.interleaved and f"{path}.{kind}" in state:
                    state[f"{path}.{kind}"] = interleave(state[f"{path}.{kind}"], heads[path])
        if scale == 1:
            continue
        if site.norms:  # the query's norm, whose weight is stored without the architecture's offset
            name, offset = f"{site.norms[0]}.weight", architecture.norm_offset
            state[name] = (state[name] + offset) * scale - offset
        else:
            state[f"{site.query}.weight"] = state[f"{site.query}.weight"] * scale


def _query_scale(network: PreTrainedModel) -> float:
    """Return by what queries are multiplied here and not in llama.cpp, which divides products by sqrt(d_h)."""
    return float((network.config.head_dim / network.config.query_pre_attn_scalar) ** 0.5)


def _pad(state: dict[str, Tensor], path: str, rows: int) -> None:
    for kind in ("weight", "bias"):
        if f"{path}.{kind}" in state:
            state[f"{path}.{kind}"] = padded(state[f"{path}.{kind}"], rows)


def _is_of_encoder(name: str, network: PreTrainedModel) -> bool:
    prefix = f"{network.base_model_prefix}."
    return name.startswith(prefix) and not name.startswith(f"{prefix}pooler.")


class TensorNames:
    """llama.cpp's names of a network's tensors."""

    def __init__(self, network: PreTrainedModel, architecture: Architecture) -> None:
        members = {name: member for member, name in gguf.MODEL_ARCH_NAMES.items()}
        self._map = gguf.get_tensor_name_map(members[architecture.name], len(blocks_of(network)))
        # The names of encoders are known as those of a network without a head.
        self._prefix = f"{network.base_model_prefix}." if architecture.encoder else ""

    def of(self, name: str) -> str | None:
        """Return the name of a parameter; None if llama.cpp has no such tensor."""
        name_in_file: str | None = self._map.get_name(name.removeprefix(self._prefix), (".weight", ".bias"))
        return name_in_file

    def of_layer(self, path: str) -> str | None:
        """Return the name of a Linear layer's weight; layers that transformers fuses have one together."""
        names = (self.of(f"{place}.weight") for place in (path, path.rpartition(".")[0]))
        return next((name for name in names if name is not None), None)
