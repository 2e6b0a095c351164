"""Where a network's parameters are: the table of bottlenecks, and sizes in the file."""

from transformers import PreTrainedModel

from lissom.models.families import blocks_of, family_of, head_groups, head_size
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


def anatomy(network: PreTrainedModel) -> Anatomy:
    """Count the parameters of a network by part."""
    family = family_of(network)
    blocks = []
    for block in blocks_of(network):
        output = block.get_submodule(family.attention_output)
        blocks.append(
            BlockAnatomy(
                heads=output.in_features // (head_size(network) * head_groups(network)),  # type: ignore[operator]
                neurons=block.get_submodule(family.ffn_out).in_features,  # type: ignore[arg-type]
                attention=sum(
                    _size(block, path) for path in (family.query, family.key, family.value, family.attention_output)
                ),
                ffn=sum(_size(block, path) for path in (*family.ffn_in, family.ffn_out)),
            )
        )
    total = sum(parameter.numel() for parameter in network.parameters())  # parameters() yields tied ones once
    tables = [family.word_table, *([family.position_table] if family.position_table else [])]
    embeddings = sum(_size(network, path) for path in tables)
    attention, ffn = sum(block.attention for block in blocks), sum(block.ffn for block in blocks)
    return Anatomy(
        total=total,
        embeddings=embeddings,
        word_table=_size(network, family.word_table),
        attention=attention,
        ffn=ffn,
        other=total - embeddings - attention - ffn,
        vocabulary=int(network.config.vocab_size),
        blocks=tuple(blocks),
    )


def _size(root: object, path: str) -> int:
    return sum(parameter.numel() for parameter in root.get_submodule(path).parameters())  # type: ignore[attr-defined]
