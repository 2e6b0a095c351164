"""Numbers of parameters of a network by part; imports no torch."""

from lissom.section import Section


class BlockAnatomy(Section):
    """Sizes of one Transformer block."""

    name: str
    """Such as `block 0`, or `decoder block 0` in a network with several stacks."""
    heads: int
    neurons: int
    attention: int
    """Parameters of attention projections, biases included, norms not."""
    ffn: int
    """Parameters of FFN projections, biases included, norms not."""


class Anatomy(Section):
    """Numbers of parameters by part; tied parameters are counted once."""

    total: int
    embeddings: int
    word_table: int
    attention: int
    ffn: int
    other: int
    """Norms, pooler and classifier."""
    vocabulary: int
    blocks: tuple[BlockAnatomy, ...]
