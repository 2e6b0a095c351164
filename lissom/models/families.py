"""Table of the Transformer families: the module paths of their attention and feed-forward sites.

Techniques iterate over sites instead of testing for classes.
"""

from dataclasses import replace
from typing import Literal

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from lissom.errors import InputError
from lissom.models.family import AttentionSite, Family, FfnSite, FusedLayer, Stack

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
    token_classifier="score",
    final_norm="model.norm",
    rotary="model.rotary_emb",
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


def _t5_attention(module: str, kind: Literal["self", "cross"] = "self") -> AttentionSite:
    return AttentionSite(module, f"{module}.q", f"{module}.k", f"{module}.v", f"{module}.o", kind)


def _t5_ffn(layer: int) -> FfnSite:
    place = f"layer.{layer}.DenseReluDense"
    return FfnSite((f"{place}.wi", f"{place}.wi_0", f"{place}.wi_1"), f"{place}.wo")


def _bart_attention(module: str, kind: Literal["self", "cross"] = "self") -> AttentionSite:
    return AttentionSite(module, f"{module}.q_proj", f"{module}.k_proj", f"{module}.v_proj", f"{module}.out_proj", kind)


def _bart_stack(side: str, *attention: AttentionSite) -> Stack:
    """Return one stack of an encoder-decoder with BART's structure, `encoder` or `decoder`."""
    ffn = (FfnSite(("fc1",), "fc2"),)
    return Stack(f"model.{side}.layers", attention, ffn, f"{side}_layers", f"{side}_ffn_dim", title=side)


_BART = Family(
    stacks=(
        _bart_stack("encoder", _bart_attention("self_attn")),
        _bart_stack("decoder", _bart_attention("self_attn"), _bart_attention("encoder_attn", "cross")),
    ),
    word_table="model.shared",
    embeddings="model.shared",
    head=(),
    classifier="lm_head",
    token_classifier=None,
    needed=("share_encoder_decoder_embeddings", "tie_word_embeddings"),
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
    "bart": _BART,
    "marian": _BART,
    "t5": Family(
        stacks=(
            Stack(
                "encoder.block",
                (_t5_attention("layer.0.SelfAttention"),),
                (_t5_ffn(1),),
                config_blocks="num_layers",
                config_neurons="d_ff",
                first_block_differs=True,
                first_block_read=True,
                title="encoder",
            ),
            Stack(
                "decoder.block",
                (_t5_attention("layer.0.SelfAttention"), _t5_attention("layer.1.EncDecAttention", "cross")),
                (_t5_ffn(2),),
                config_blocks="num_decoder_layers",
                config_neurons="d_ff",
                first_block_differs=True,
                first_block_read=True,
                title="decoder",
            ),
        ),
        word_table="shared",
        embeddings="shared",
        head=(),
        classifier="lm_head",
        token_classifier=None,
        shared_bias=True,
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _QWEN3,
    "gemma2": replace(_LLAMA, scaled_word_table=True, unsupported=("use_bidirectional_attention",)),
    "gemma3_text": replace(
        _QWEN3, scaled_word_table=True, unsupported=_GEMMA_VARIANTS, token_classifier=None, rotary=None
    ),
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


def classifier_of(network: PreTrainedModel) -> str | None:
    """Return the path of the projection that returns the logits; None for a network without one."""
    family = family_of(network)
    modules = dict(network.named_modules())
    paths = (family.classifier, family.token_classifier or family.classifier, "lm_head")
    return next((path for path in paths if isinstance(modules.get(path), nn.Linear)), None)


def check_variant(config: PreTrainedConfig) -> None:
    """Raise `InputError` if a config asks for a variant of its family that lissom does not support."""
    family = FAMILIES[config.model_type]
    missing = [name for name in family.needed if not getattr(config, name, True)]
    if missing:
        raise InputError(f"this {config.model_type} is configured without {', '.join(missing)}, which lissom needs")
    unsupported = [name for name in family.unsupported if getattr(config, name, False)]
    if unsupported:
        raise InputError(
            f"this {config.model_type} is configured with {', '.join(unsupported)}, which lissom does not support"
        )
