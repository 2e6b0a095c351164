"""Where a network's parameters are."""

from torch import nn
from transformers import PreTrainedModel

from lissom.models.families import blocks_of, family_of, head_groups, head_size
from lissom.models.sizes import Anatomy, BlockAnatomy


def anatomy(network: PreTrainedModel) -> Anatomy:
    """Count the parameters of a network by part."""
    family = family_of(network)
    blocks = []
    for block in blocks_of(network) if family.blocks else ():
        output = block.get_submodule(family.attention_output)
        blocks.append(
            BlockAnatomy(
                heads=_width(output) // (head_size(network) * head_groups(network)),
                neurons=_width(block.get_submodule(family.ffn_out)),
                attention=sum(
                    _size(block, path) for path in (family.query, family.key, family.value, family.attention_output)
                ),
                ffn=sum(_size(block, path) for path in (*family.ffn_in, family.ffn_out, *family.more_ffn)),
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


def _size(root: nn.Module, path: str) -> int:
    return sum(parameter.numel() for parameter in root.get_submodule(path).parameters())


def _width(projection: nn.Module) -> int:
    assert isinstance(projection, nn.Linear)
    return projection.in_features
