"""What a row of the table of families says: where the attention and feed-forward sites of a network are.

A network is one or more stacks of blocks (an encoder, a decoder, or both); a block has attention sites (self-attention
or cross-attention) and feed-forward sites. Paths of sites are relative to a block; `lissom.models.sites` returns them
relative to the network.
"""

from dataclasses import dataclass
from typing import Literal

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
    block: str = ""
    """Path of the block; set by `attention_sites`."""
    stack: str = ""
    """Title of the block's stack; set by `attention_sites`."""


@dataclass(frozen=True)
class FfnSite:
    """One feed-forward network."""

    inputs: tuple[str, ...]
    """Projections whose output rows belong to neurons (gate and up in a gated one); of a family with both kinds, those
    that are there."""
    output: str
    """The projection whose input columns belong to neurons."""
    name: str = ""
    """Description for messages; set by `ffn_sites`."""
    block: str = ""
    """Path of the block; set by `ffn_sites`."""


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
    first_block_read: bool = False
    """Whether all blocks use what the first one computes, so that it must stay."""
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
    """The last projection, which returns the logits of a text."""
    token_classifier: str | None = "classifier"
    """The last projection of networks that classify tokens; None if transformers has no such networks."""
    config_width: str = "hidden_size"
    """Name of the width of all heads together in the config."""
    final_norm: str | None = None
    """The norm after the last block, if any."""
    position_table: str | None = None
    """The embedding of positions, if they are learned."""
    rotary: str | None = None
    """The module that rotates queries and keys by their positions, if all blocks share one."""
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
    needed: tuple[str, ...] = ()
    """Config flags that a network must have, since lissom does not support it without them."""
    attention_function: bool = True
    """Whether attention is computed by a function that can be exchanged, for its scores and for the exported kernel."""
    scaled_word_table: bool = False
    """Whether the word table multiplies its vectors by a constant."""
    answers_empty_texts: bool = False
    """Whether a text without any token has an answer."""
    shared_bias: bool = False
    """Whether all blocks of a stack share a bias of relative positions, which has a value for every head."""
    read_by_all_blocks: str | None = None
    """A module beside the blocks that every block reads, such as a table of relative positions."""

    @property
    def has_encoder_and_decoder(self) -> bool:
        """Return whether a decoder writes an answer to what an encoder has read."""
        return len(self.stacks) > 1

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
