"""Measuring the parts of a network: parameters, or another size."""

from collections.abc import Callable

from torch import nn
from transformers import PreTrainedModel

from lissom.models.families import family_of
from lissom.models.family import Stack
from lissom.models.layers import Projection, Stored
from lissom.models.sites import block_name, blocks_at, head_groups, head_size, present
from lissom.models.sizes import Anatomy, BlockAnatomy

Measure = Callable[[nn.Module], int]


def count(module: nn.Module) -> int:
    """Return the number of weights of a module, tied ones once, whatever they are stored as."""
    stored = sum(layer.represented for layer in module.modules() if isinstance(layer, Stored))
    return stored + sum(parameter.numel() for parameter in module.parameters())


def anatomy(network: PreTrainedModel, measure: Measure = count) -> Anatomy:
    """Measure the parts of a network, by default in parameters."""
    family = family_of(network)
    blocks = [
        _block(network, stack, block, block_name(stack, number), measure)
        for stack in family.stacks
        for number, block in enumerate(blocks_at(network, stack))
    ]
    total = measure(network)
    tables = [family.word_table, *([family.position_table] if family.position_table else [])]
    embeddings = sum(measure(network.get_submodule(path)) for path in tables)
    attention, ffn = sum(block.attention for block in blocks), sum(block.ffn for block in blocks)
    return Anatomy(
        total=total,
        embeddings=embeddings,
        word_table=measure(network.get_submodule(family.word_table)),
        attention=attention,
        ffn=ffn,
        other=total - embeddings - attention - ffn,
        vocabulary=int(network.config.vocab_size),
        blocks=tuple(blocks),
    )


def _block(network: PreTrainedModel, stack: Stack, block: nn.Module, name: str, measure: Measure) -> BlockAnatomy:
    projections = [
        path
        for site in stack.attention
        for path in (site.query, site.key, site.value, site.output, *present(block, site.positions))
    ]
    layers = [path for site in stack.ffn for path in (*present(block, site.inputs), site.output)]
    columns = sum(_width(block.get_submodule(site.output)) for site in stack.attention)
    return BlockAnatomy(
        name=name,
        heads=columns // (head_size(network) * head_groups(network)),
        neurons=sum(_width(block.get_submodule(site.output)) for site in stack.ffn),
        attention=sum(measure(block.get_submodule(path)) for path in projections),
        ffn=sum(measure(block.get_submodule(path)) for path in (*layers, *stack.more_ffn)),
    )


def _width(projection: nn.Module) -> int:
    assert isinstance(projection, Projection)
    return projection.in_features
