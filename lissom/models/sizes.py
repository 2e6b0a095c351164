"""Parameters of a network by part: the table of bottlenecks, as values, torch-free."""

from lissom.section import Section


class BlockAnatomy(Section):
    """One Transformer block."""

    heads: int
    neurons: int
    attention: int
    """Parameters of attention projections, biases included, norms not."""
    ffn: int
    """Parameters of FFN projections, biases included, norms not."""


class Anatomy(Section):
    """Parameters by part; tied ones are counted once."""

    total: int
    embeddings: int
    word_table: int
    attention: int
    ffn: int
    other: int
    """Norms, pooler and classifier."""
    vocabulary: int
    blocks: tuple[BlockAnatomy, ...]
