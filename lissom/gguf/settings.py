"""Settings of a GGUF file: what llama.cpp must know of the network besides its tensors."""

import gguf
from transformers import PreTrainedModel

from lissom.gguf.architecture import Architecture, Shapes
from lissom.gguf.config import Pooling

_POOLING = {"mean": gguf.PoolingType.MEAN, "cls": gguf.PoolingType.CLS}


def write_settings(
    writer: gguf.GGUFWriter, network: PreTrainedModel, architecture: Architecture, shapes: Shapes, max_length: int,
    pooling: Pooling,
) -> None:  # fmt: skip
    """Write the sizes, the positions and the numerics of a network.

    Args:
        writer: writer of the file.
        network: the network.
        architecture: how llama.cpp holds it.
        shapes: sizes of the blocks in the file.
        max_length: the longest text that the model was evaluated with, if its config names none.
        pooling: how an encoder makes one vector of those of all tokens.
    """
    config, even = network.config, shapes.is_even
    heads = [groups * shapes.group for groups in shapes.groups]
    writer.add_context_length(context_of(network, architecture, max_length))
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(len(shapes.neurons))
    writer.add_feed_forward_length(shapes.neurons[0] if even else list(shapes.neurons))
    writer.add_head_count(heads[0] if even else heads)
    if architecture.encoder:
        _write_encoder(writer, network, architecture, pooling)
        return
    if architecture.name == "gpt2":  # learnt positions, one head per key
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_head_count_kv(shapes.groups[0] if even else list(shapes.groups))
    writer.add_key_length(shapes.head_size)  # which pruning keeps, while it changes the number of heads
    writer.add_value_length(shapes.head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(shapes.head_size)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if architecture.period is not None:
        writer.add_sliding_window(config.sliding_window)
    if (cap := getattr(config, "attn_logit_softcapping", None)) is not None:
        writer.add_attn_logit_softcapping(cap)
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        writer.add_final_logit_softcapping(cap)


def _write_encoder(
    writer: gguf.GGUFWriter, network: PreTrainedModel, architecture: Architecture, pooling: Pooling
) -> None:
    config = network.config
    writer.add_causal_attention(False)
    writer.add_pooling_type(_POOLING[pooling])
    writer.add_layer_norm_eps(config.norm_eps if architecture.period is not None else config.layer_norm_eps)
    if architecture.period is None:
        writer.add_token_type_count(config.type_vocab_size)
        return
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["full_attention"]["rope_theta"])
    writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    writer.add_sliding_window(config.local_attention)
    writer.add_sliding_window_pattern(architecture.period)


def context_of(network: PreTrainedModel, architecture: Architecture, max_length: int) -> int:
    """Return the longest text; no longer than a window that llama.cpp does not know of."""
    config = network.config
    length = int(getattr(config, "max_position_embeddings", max_length))
    window = getattr(config, "sliding_window", None)
    return length if architecture.period is not None or window is None else min(length, int(window))
