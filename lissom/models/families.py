"""Table of the Transformer families: the module paths of their attention and feed-forward sites.

Techniques iterate over sites instead of testing for classes. A network is one or more stacks of blocks (an encoder, a
decoder, or both); a block has attention sites (self-attention or cross-attention) and feed-forward sites. In the table,
paths of sites are relative to a block; `lissom.models.sites` returns them relative
to the network.
"""

from dataclasses import dataclass, replace
from typing import Literal

from transformers import PreTrainedConfig, PreTrainedModel

from lissom.errors import InputError


@dataclass(frozen=True)
class AttentionSite:
    """One multi-head attention."""

    module: str
    """The attention module, whose input is the hidden states; attention functions get it as an argument."""
    query: str
    key: str
    value: str
    output: str
    """The projection of the concatenated heads: its input columns belong to heads."""
    kind: Literal["self", "cross"] = "self"
    positions: tuple[str, ...] = ()
    """Projections of relative positions, whose output rows belong to heads; absent where query and key project them."""
    norms: tuple[str, ...] = ()
    """Norms of queries and keys, whose weights all heads share."""
    heads_attribute: str | None = None
    """Attribute in which the module keeps its number of heads, if it does not derive it from its projections."""
    name: str = ""
    """Description for messages; set by `attention_sites`."""


@dataclass(frozen=True)
class FfnSite:
    """One feed-forward network."""

    inputs: tuple[str, ...]
    """Projections whose output rows belong to neurons (gate and up in a gated one)."""
    output: str
    """The projection whose input columns belong to neurons."""
    name: str = ""
    """Description for messages; set by `ffn_sites`."""


@dataclass(frozen=True)
class FusedLayer:
    """Several projections in one product, whose output rows are the parts' one after the other, in equal numbers."""

    name: str
    """Name of the layer, the end of its path."""
    parts: tuple[str, ...]
    """Names of the projections, as submodules of the layer."""


@dataclass(frozen=True)
class Stack:
    """A sequence of blocks with the same structure."""

    blocks: str
    """Path of the ModuleList."""
    attention: tuple[AttentionSite, ...]
    ffn: tuple[FfnSite, ...]
    config_blocks: str = "num_hidden_layers"
    """Name of the number of blocks in the config."""
    config_neurons: str = "intermediate_size"
    """Name of the number of neurons in the config."""
    more_ffn: tuple[str, ...] = ()
    """Further feed-forward layers of a block, which techniques do not prune or shard."""
    first_block_differs: bool = False
    """Whether the first block has other layers than the rest, so that plain transformers needs it to stay first."""
    title: str = ""
    """Name of the stack in messages, for networks with several."""


@dataclass(frozen=True)
class Family:
    """Module paths and config names of one family."""

    stacks: tuple[Stack, ...]
    """Empty for a network that is not a Transformer."""
    word_table: str
    """The embedding of tokens."""
    embeddings: str
    """The module that embeds token ids; for decoders the word table itself."""
    head: tuple[str, ...]
    """Name prefixes of the task head's parameters, which a pre-trained model may lack."""
    classifier: str
    """The last projection, which returns the logits."""
    config_width: str = "hidden_size"
    """Name of the width of all heads together in the config."""
    final_norm: str | None = None
    """The norm after the last block, if any."""
    position_table: str | None = None
    """The embedding of positions, if they are learned."""
    embedding_projection: str | None = None
    """The projection of the embeddings to the hidden size, if it is outside `embeddings`; absent where the sizes agree.
    """
    embedding_dropout: str | None = None
    """The dropout before the first block, if it is outside `embeddings`."""
    token_types: bool = False
    """Whether the network reads token_type_ids."""
    grouped: bool = False
    """Whether several query heads may share a key/value head."""
    decoder: bool = False
    """Whether attention is causal and the network is pre-trained to predict the next token."""
    fused: tuple[FusedLayer, ...] = ()
    """Layers that are taken apart on loading (`lissom.models.fused`); paths of sites name their parts."""
    transposed: tuple[str, ...] = ()
    """Names of layers whose weights are `[in, out]` on disk (`Conv1D`)."""
    unsupported: tuple[str, ...] = ()
    """Config flags of variants that lissom does not support."""
    attention_function: bool = True
    """Whether attention is computed by a function that can be exchanged, for its scores and for the exported kernel."""
    scaled_word_table: bool = False
    """Whether the word table multiplies its vectors by a constant."""
    answers_empty_texts: bool = False
    """Whether a text without any token has an answer."""
    read_by_all_blocks: str | None = None
    """A module beside the blocks that every block reads, such as a table of relative positions."""

    @property
    def stack(self) -> Stack:
        """Return the only stack.

        Raises:
            InputError: the family has no stack, or several.
        """
        if len(self.stacks) != 1:
            raise InputError(
                f"a network of one stack of blocks is needed, this one has {len(self.stacks)}; use a technique that "
                "works on every attention and feed-forward site"
            )
        return self.stacks[0]


BILSTM, STATIC = "lissom_bilstm", "lissom_static"
"""Model types of the BiLSTM and of mean-pooled token vectors, the networks here that are not Transformers."""


def _encoder(trunk: str) -> Family:
    """Return a family with BERT's structure, given the name of the base model's module."""
    attention = AttentionSite(
        "attention.self", "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"
    )
    return Family(
        stacks=(Stack(f"{trunk}.encoder.layer", (attention,), (FfnSite(("intermediate.dense",), "output.dense"),)),),
        word_table=f"{trunk}.embeddings.word_embeddings",
        embeddings=f"{trunk}.embeddings",
        head=("classifier",),
        classifier="classifier",
        position_table=f"{trunk}.embeddings.position_embeddings",
    )


_MOBILEBERT = _encoder("mobilebert")
_ROBERTA = replace(_encoder("roberta"), classifier="classifier.out_proj")
_ELECTRA = replace(
    _encoder("electra"),
    classifier="classifier.out_proj",
    embedding_projection="electra.embeddings_project",
    token_types=True,
)
_NO_BLOCKS = Family(
    stacks=(),
    word_table="embeddings.word_embeddings",
    embeddings="embeddings",
    head=("classifier",),
    classifier="classifier",
    token_types=True,
)
_LLAMA = Family(
    stacks=(
        Stack(
            "model.layers",
            (
                AttentionSite(
                    "self_attn", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"
                ),
            ),
            (FfnSite(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),),
        ),
    ),
    word_table="model.embed_tokens",
    embeddings="model.embed_tokens",
    head=("score",),
    classifier="score",
    final_norm="model.norm",
    grouped=True,
    decoder=True,
)

_GEMMA_VARIANTS = ("attn_logit_softcapping", "use_bidirectional_attention")

_QWEN3 = replace(
    _LLAMA,
    stacks=(
        replace(
            _LLAMA.stack,
            attention=(replace(_LLAMA.stack.attention[0], norms=("self_attn.q_norm", "self_attn.k_norm")),),
        ),
    ),
)

FAMILIES: dict[str, Family] = {
    "bert": replace(_encoder("bert"), head=("classifier", "bert.pooler"), token_types=True),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": _ELECTRA,
    "distilbert": Family(
        stacks=(
            Stack(
                "distilbert.transformer.layer",
                (
                    AttentionSite(
                        "attention", "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"
                    ),
                ),
                (FfnSite(("ffn.lin1",), "ffn.lin2"),),
                config_blocks="n_layers",
                config_neurons="hidden_dim",
            ),
        ),
        word_table="distilbert.embeddings.word_embeddings",
        embeddings="distilbert.embeddings",
        head=("pre_classifier", "classifier"),
        classifier="classifier",
        position_table="distilbert.embeddings.position_embeddings",
    ),
    "mobilebert": replace(
        _MOBILEBERT,
        stacks=(replace(_MOBILEBERT.stack, more_ffn=("ffn",)),),
        head=("classifier", "mobilebert.pooler"),
        token_types=True,
        config_width="true_hidden_size",
    ),
    BILSTM: _NO_BLOCKS,
    STATIC: replace(_NO_BLOCKS, answers_empty_texts=True),  # the mean of no vectors is zero
    "gpt2": Family(
        stacks=(
            Stack(
                "transformer.h",
                (AttentionSite("attn", "attn.c_attn.query", "attn.c_attn.key", "attn.c_attn.value", "attn.c_proj"),),
                (FfnSite(("mlp.c_fc",), "mlp.c_proj"),),
                config_neurons="n_inner",
            ),
        ),
        word_table="transformer.wte",
        embeddings="transformer.wte",
        head=("score",),
        classifier="score",
        final_norm="transformer.ln_f",
        position_table="transformer.wpe",
        embedding_dropout="transformer.drop",
        decoder=True,
        fused=(FusedLayer("c_attn", ("query", "key", "value")),),
        transposed=("c_attn", "c_proj", "c_fc"),
        unsupported=("add_cross_attention", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"),
    ),
    "modernbert": Family(
        stacks=(
            Stack(
                "model.layers",
                (AttentionSite("attn", "attn.Wqkv.query", "attn.Wqkv.key", "attn.Wqkv.value", "attn.Wo"),),
                (FfnSite(("mlp.Wi.input", "mlp.Wi.gate"), "mlp.Wo"),),
                first_block_differs=True,
            ),
        ),
        word_table="model.embeddings.tok_embeddings",
        embeddings="model.embeddings",
        head=("head", "classifier"),
        classifier="classifier",
        final_norm="model.final_norm",
        fused=(FusedLayer("Wqkv", ("query", "key", "value")), FusedLayer("Wi", ("input", "gate"))),
    ),
    "deberta-v2": Family(
        stacks=(
            Stack(
                "deberta.encoder.layer",
                (
                    AttentionSite(
                        "attention.self",
                        "attention.self.query_proj",
                        "attention.self.key_proj",
                        "attention.self.value_proj",
                        "attention.output.dense",
                        positions=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
                        heads_attribute="num_attention_heads",
                    ),
                ),
                (FfnSite(("intermediate.dense",), "output.dense"),),
            ),
        ),
        word_table="deberta.embeddings.word_embeddings",
        embeddings="deberta.embeddings",
        head=("pooler", "classifier"),
        classifier="classifier",
        unsupported=("position_biased_input", "conv_kernel_size", "type_vocab_size"),
        attention_function=False,
        read_by_all_blocks="deberta.encoder.rel_embeddings",
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _QWEN3,
    "gemma2": replace(_LLAMA, scaled_word_table=True, unsupported=("use_bidirectional_attention",)),
    "gemma3_text": replace(_QWEN3, scaled_word_table=True, unsupported=_GEMMA_VARIANTS),
}


def family_of(network: PreTrainedModel) -> Family:
    """Return the family of a network.

    Raises:
        InputError: the model type is not in `FAMILIES`.
    """
    model_type = network.config.model_type
    if model_type not in FAMILIES:
        raise InputError(f"models of type {model_type!r} are not known; known: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]


def check_variant(config: PreTrainedConfig) -> None:
    """Raise `InputError` if a config asks for a variant of its family that lissom does not support."""
    unsupported = [name for name in FAMILIES[config.model_type].unsupported if getattr(config, name, False)]
    if unsupported:
        raise InputError(
            f"this {config.model_type} is configured with {', '.join(unsupported)}, which lissom does not support"
        )
