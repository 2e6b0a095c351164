"""What differs between the families of Transformers, as one table.

Techniques work on this table, never on a class name. Paths are relative to the network (`blocks`,
`word_table`) or to one block (everything else).
"""

from dataclasses import dataclass, replace

from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models import gpt2


@dataclass(frozen=True)
class Family:
    """Where the parts of a family's networks are."""

    blocks: str
    """The ModuleList of Transformer blocks; empty for a network that is no Transformer."""
    word_table: str
    """The embedding of tokens."""
    attention: str
    """The module that attention functions are given; it reads hidden states."""
    query: str
    key: str
    value: str
    attention_output: str
    """The projection behind the concatenated heads: its input columns belong to heads."""
    ffn_in: tuple[str, ...]
    """Projections whose output rows belong to FFN neurons (gate and up in a gated FFN)."""
    ffn_out: str
    """The projection whose input columns belong to FFN neurons."""
    config_blocks: str
    """Name of the number of blocks in the config."""
    config_neurons: str
    """Name of the number of FFN neurons in the config."""
    embeddings: str
    """The module that token ids go into; for decoders the word table itself."""
    head: tuple[str, ...]
    """First parts of the names of task-head parameters, which a pre-trained model may lack."""
    classifier: str
    """The last projection, to the labels."""
    config_width: str = "hidden_size"
    """Name of the width of all heads together in the config."""
    more_ffn: tuple[str, ...] = ()
    """Further feed-forward layers of a block, which no technique cuts."""
    final_norm: str | None = None
    """The norm behind the last block, where there is one."""
    position_table: str | None = None
    """The embedding of positions, where they are learned."""
    embedding_dropout: str | None = None
    """The dropout in front of the first block, where it is outside of `embeddings`."""
    token_types: bool = False
    """Whether the network reads token_type_ids."""
    grouped: bool = False
    """Whether several query heads may share a key/value head."""
    decoder: bool = False
    """Whether tokens see those before them only, and the network is pre-trained to predict the next."""


BILSTM = "lissom_bilstm"
"""Model type of the one network here that is no Transformer."""

_ENCODER = Family(
    blocks="{}.encoder.layer",
    word_table="{}.embeddings.word_embeddings",
    attention="attention.self",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    ffn_in=("intermediate.dense",),
    ffn_out="output.dense",
    config_blocks="num_hidden_layers",
    config_neurons="intermediate_size",
    head=("classifier",),
    classifier="classifier",
    embeddings="{}.embeddings",
    position_table="{}.embeddings.position_embeddings",
)
_LLAMA = Family(
    blocks="model.layers",
    word_table="model.embed_tokens",
    attention="self_attn",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    attention_output="self_attn.o_proj",
    ffn_in=("mlp.gate_proj", "mlp.up_proj"),
    ffn_out="mlp.down_proj",
    config_blocks="num_hidden_layers",
    config_neurons="intermediate_size",
    head=("score",),
    classifier="score",
    embeddings="model.embed_tokens",
    final_norm="model.norm",
    grouped=True,
    decoder=True,
)


_PREFIXED = ("blocks", "word_table", "embeddings", "position_table")


def _below(prefix: str, family: Family) -> Family:
    """Fill the name of the network's trunk into a family's paths."""
    paths = {name: getattr(family, name).format(prefix) for name in _PREFIXED}
    return replace(family, **paths)


FAMILIES: dict[str, Family] = {
    "bert": replace(_below("bert", _ENCODER), head=("classifier", "bert.pooler"), token_types=True),
    "roberta": replace(_below("roberta", _ENCODER), classifier="classifier.out_proj"),
    "distilbert": Family(
        blocks="distilbert.transformer.layer",
        word_table="distilbert.embeddings.word_embeddings",
        attention="attention",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        ffn_in=("ffn.lin1",),
        ffn_out="ffn.lin2",
        config_blocks="n_layers",
        config_neurons="hidden_dim",
        head=("pre_classifier", "classifier"),
        classifier="classifier",
        embeddings="distilbert.embeddings",
        position_table="distilbert.embeddings.position_embeddings",
    ),
    "mobilebert": replace(
        _below("mobilebert", _ENCODER),
        head=("classifier", "mobilebert.pooler"),
        token_types=True,
        config_width="true_hidden_size",
        more_ffn=("ffn",),
    ),
    BILSTM: Family(
        blocks="",
        word_table="embeddings.word_embeddings",
        attention="",
        query="",
        key="",
        value="",
        attention_output="",
        ffn_in=(),
        ffn_out="",
        config_blocks="",
        config_neurons="",
        head=("classifier",),
        classifier="classifier",
        embeddings="embeddings",
        token_types=True,
    ),
    gpt2.MODEL_TYPE: Family(
        blocks="transformer.h",
        word_table="transformer.wte",
        attention="attn",
        query="attn.c_attn.query",
        key="attn.c_attn.key",
        value="attn.c_attn.value",
        attention_output="attn.c_proj",
        ffn_in=("mlp.c_fc",),
        ffn_out="mlp.c_proj",
        config_blocks="num_hidden_layers",
        config_neurons="n_inner",
        head=("score",),
        classifier="score",
        embeddings="transformer.wte",
        final_norm="transformer.ln_f",
        position_table="transformer.wpe",
        embedding_dropout="transformer.drop",
        decoder=True,
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
}


def family_of(network: PreTrainedModel) -> Family:
    """Return the row of the table for a network.

    Raises:
        InputError: lissom does not know the family.
    """
    model_type = network.config.model_type
    if model_type not in FAMILIES:
        raise InputError(f"models of type {model_type!r} are not known; known: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]


def blocks_of(network: PreTrainedModel) -> nn.ModuleList:
    """Return the network's list of blocks.

    Raises:
        InputError: the network is no Transformer.
    """
    path = family_of(network).blocks
    if not path:
        raise InputError(f"a {network.config.model_type} has no Transformer blocks; set method: none for this stage")
    blocks = network.get_submodule(path)
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def exits_of(network: nn.Module) -> nn.ModuleList | None:
    """Return the exits that `AddExits` put behind the blocks, the last one being the answer; None without them."""
    return getattr(network, "exits", None)


def head_size(network: PreTrainedModel) -> int:
    """Return d_h, the width of one attention head; pruning never changes it."""
    config = network.config
    width = getattr(config, family_of(network).config_width)
    return int(getattr(config, "head_dim", None) or width // config.num_attention_heads)


def head_groups(network: PreTrainedModel) -> int:
    """Return how many query heads share one key/value head; the removable unit is such a group."""
    if not family_of(network).grouped:
        return 1
    return int(network.config.num_attention_heads // network.config.num_key_value_heads)


def replace_module(root: nn.Module, path: str, module: nn.Module | None) -> None:
    """Put `module`, or nothing, at `path` below `root`."""
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


def replace_entry(network: PreTrainedModel, entry: nn.Module) -> None:
    """Let hidden states come in: `entry` answers instead of the embeddings, and nothing more is done to its answer."""
    family = family_of(network)
    replace_module(network, family.embeddings, entry)
    table = family.position_table
    if table is not None and not table.startswith(f"{family.embeddings}."):  # the network itself adds positions
        replace_module(network, table, _NoPositions())
    if family.embedding_dropout is not None:
        replace_module(network, family.embedding_dropout, nn.Identity())


class _NoPositions(nn.Module):
    def forward(self, positions: Tensor) -> Tensor:
        """Map `[batch, n]` to one zero, an integer, so that a sum with it keeps its precision."""
        return positions.new_zeros(())
