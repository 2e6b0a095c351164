"""Where a network can be cut: its blocks and sites, looked up in the table of families, and replacing what is there."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from lissom.errors import InputError
from lissom.models.families import family_of
from lissom.models.family import AttentionSite, FfnSite, Stack


def blocks_of(network: PreTrainedModel) -> nn.ModuleList:
    """Return the blocks of a network that has one stack of them.

    Raises:
        InputError: the network is no Transformer, or has several stacks.
    """
    family = family_of(network)
    if not family.stacks:
        raise InputError(f"a {network.config.model_type} has no Transformer blocks; set method: none for this stage")
    return blocks_at(network, family.stack)


def first_blocks(network: PreTrainedModel) -> nn.ModuleList:
    """Return the blocks of the only stack, or of the encoder where there is a decoder too.

    Raises:
        InputError: the network is no Transformer.
    """
    family = family_of(network)
    return blocks_at(network, family.stacks[0]) if family.has_encoder_and_decoder else blocks_of(network)


def blocks_at(network: PreTrainedModel, stack: Stack) -> nn.ModuleList:
    """Return the blocks of one stack."""
    blocks = network.get_submodule(stack.blocks)
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def stack_of(network: PreTrainedModel, title: str) -> Stack:
    """Return the stack with a title; an empty one stands for the only stack.

    Raises:
        InputError: there is no such stack, or there are several and none is named.
    """
    family = family_of(network)
    stacks = [stack for stack in family.stacks if stack.title == title]
    return stacks[0] if stacks else family.stack


def attention_sites(network: PreTrainedModel) -> list[AttentionSite]:
    """Return all attention sites, stack by stack and block by block, with paths from the network's root."""
    return [
        replace(
            site,
            module=f"{block}.{site.module}",
            query=f"{block}.{site.query}",
            key=f"{block}.{site.key}",
            value=f"{block}.{site.value}",
            output=f"{block}.{site.output}",
            positions=tuple(f"{block}.{path}" for path in present(network.get_submodule(block), site.positions)),
            norms=tuple(f"{block}.{path}" for path in site.norms),
            name=place if site.kind == "self" else f"{place}, cross-attention",
            block=block,
            stack=stack.title,
        )
        for stack, block, place in _block_paths(network)
        for site in stack.attention
    ]


def sites_of_kind(network: PreTrainedModel, attention: str) -> list[int]:
    """Return the numbers of attention sites among `attention_sites`: `all`, `cross`, or the title of a stack.

    Raises:
        InputError: the network has none.
    """
    numbers = [
        number
        for number, site in enumerate(attention_sites(network))
        if attention in ("all", "cross" if site.kind == "cross" else site.stack)
    ]
    if not numbers:
        raise InputError(f"attention: {attention}: a {network.config.model_type} has no such attention")
    return numbers


def ffn_sites(network: PreTrainedModel) -> list[FfnSite]:
    """Return all feed-forward sites, stack by stack and block by block, with paths from the network's root."""
    return [
        FfnSite(
            tuple(f"{block}.{path}" for path in present(network.get_submodule(block), site.inputs)),
            f"{block}.{site.output}",
            place,
            block,
        )
        for stack, block, place in _block_paths(network)
        for site in stack.ffn
    ]


def projections_of(network: PreTrainedModel, part: Literal["attention", "ffn"]) -> list[str]:
    """Return the paths of the projections of all attentions, or of all feed-forward networks."""
    if part == "ffn":
        return [path for ffn in ffn_sites(network) for path in (*ffn.inputs, ffn.output)]
    return [path for site in attention_sites(network) for path in (site.query, site.key, site.value, site.output)]


def sharing_inputs(network: PreTrainedModel, paths: Collection[str]) -> list[list[str]]:
    """Return paths of layers in groups that read the same input: of one attention, one feed-forward network, or alone.

    Args:
        network: the network.
        paths: the layers.
    """
    same = [
        [site.query, site.key, site.value] if site.kind == "self" else [site.key, site.value]
        for site in attention_sites(network)
    ]
    same += [list(site.inputs) for site in ffn_sites(network)]
    groups = [[path for path in group if path in paths] for group in same]
    grouped = {path for group in groups for path in group}
    return [group for group in groups if group] + [[path] for path in paths if path not in grouped]


def _block_paths(network: PreTrainedModel) -> Iterator[tuple[Stack, str, str]]:
    """Yield every block's stack, its path, and its name for messages."""
    for stack in family_of(network).stacks:
        for number in range(len(blocks_at(network, stack))):
            yield stack, f"{stack.blocks}.{number}", block_name(stack, number)


def block_name(stack: Stack, number: int) -> str:
    """Return the name of a block for readers."""
    return f"{stack.title} block {number}".strip()


def present(root: nn.Module, paths: Iterable[str]) -> list[str]:
    """Return those of `paths` below `root` at which there is a module."""
    known = {name for name, _ in root.named_modules()}
    return [path for path in paths if path in known]


def tied_head(network: PreTrainedModel) -> str | None:
    """Return the path of the output projection that is tied to the word table; None if there is none."""
    table = network.get_submodule(family_of(network).word_table)
    weight = getattr(table, "weight", None)
    matches: list[str] = [
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear) and weight is not None and module.weight is weight
    ]
    return matches[0] if matches else None


def reading_targets(network: PreTrainedModel) -> set[str]:
    """Return the paths of a decoder's layers whose inputs belong to the tokens that it writes, not to the text's."""
    family = family_of(network)
    if not family.has_encoder_and_decoder:
        return set()
    blocks = f"{family.stacks[-1].blocks}."
    of_text = {path for site in attention_sites(network) if site.kind == "cross" for path in (site.key, site.value)}
    return {path for path, _ in network.named_modules() if path.startswith(blocks) and path not in of_text}


def exits_of(network: nn.Module) -> nn.ModuleList | None:
    """Return the exits that `AddExits` added, one per block; None if there are none."""
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


def unused_positions(table: nn.Embedding) -> int:
    """Return how many rows of a position table precede the one of a text's first token.

    RoBERTa counts positions from `padding_idx + 1`; other families from 0.
    """
    return 0 if table.padding_idx is None else table.padding_idx + 1


def fixed_tokens(network: PreTrainedModel) -> int:
    """Return how many tokens of the vocabulary, from 0, must keep their numbers.

    RoBERTa derives positions from the number of the padding token, so that it and all tokens before it are fixed.
    """
    path = family_of(network).position_table
    if path is None:
        return 0
    table = network.get_submodule(path)
    assert isinstance(table, nn.Embedding)
    return unused_positions(table)


def position_vectors(network: PreTrainedModel) -> Tensor | None:
    """Return the learned vectors of positions 0, 1, 2, ... of a text, `[positions, d]`; None if none are learned."""
    path = family_of(network).position_table
    if path is None:
        return None
    table = network.get_submodule(path)
    assert isinstance(table, nn.Embedding)
    return table.weight[unused_positions(table) :]


def window_of(network: PreTrainedModel, block: int) -> int | None:
    """Return the size of a block's sliding attention window in tokens; None if the block has no window.

    A query sees the keys whose distance to it is less than the window. The config of an encoder has the largest
    distance instead, on both sides.
    """
    window = getattr(network.config, "sliding_window", None)
    types = getattr(network.config, "layer_types", None)
    if window is None or (types and types[block] != "sliding_attention"):
        return None
    return int(window) if family_of(network).decoder else int(window) + 1


def keep_layer_types(config: PreTrainedConfig, blocks: Sequence[int]) -> None:
    """Keep the entries of some blocks in a config that names the kind of attention of every block, in place."""
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[block] for block in blocks]


def replace_module(root: nn.Module, path: str, module: nn.Module | None) -> None:
    """Set the submodule at `path` below `root`; None removes it."""
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


def has_embedding_projection(network: PreTrainedModel) -> bool:
    """Return whether a projection outside the embeddings maps them to the hidden size."""
    path = family_of(network).embedding_projection
    return path is not None and bool(present(network, [path]))


def replace_entry(network: PreTrainedModel, entry: nn.Module) -> None:
    """Replace the embeddings by `entry`, and disable what would be applied after it: positions, projection, dropout."""
    family = family_of(network)
    replace_module(network, family.embeddings, entry)
    table = family.position_table
    if table is not None and not table.startswith(f"{family.embeddings}."):  # the network itself adds positions
        replace_module(network, table, _NoPositions())
    if has_embedding_projection(network):
        assert family.embedding_projection is not None
        replace_module(network, family.embedding_projection, nn.Identity())
    if family.embedding_dropout is not None:
        replace_module(network, family.embedding_dropout, nn.Identity())


class _NoPositions(nn.Module):
    def forward(self, positions: Tensor) -> Tensor:
        """Return an integer scalar 0, so that adding it does not change the dtype of the embeddings."""
        return positions.new_zeros(())
