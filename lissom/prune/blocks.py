"""Remove whole Transformer blocks: by position, or those whose removal matters least on the training texts.

Block influence (Men et al. 2024, arXiv:2403.03853, equation 1) is 1 - E cos(x_l, x_(l+1)): how far block l turns the
hidden state of a token. Leave-one-out is the loss of the task with block l bypassed. Positions are those of Sajjad et
al. 2023, arXiv:2004.03844, section 3: the last blocks, the first ones, or every other one.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from lissom.data.batches import Batch, sorted_batches
from lissom.errors import InputError
from lissom.models.compressed import CompressedModel, logits_of
from lissom.models.edits import KeepBlocks
from lissom.models.families import family_of
from lissom.models.family import Stack
from lissom.models.sites import blocks_at, first_blocks
from lissom.models.students import evenly_spaced
from lissom.prune.config import BlocksPruning, LayerDropPruning
from lissom.training.budget import largest_within
from lissom.training.lesson import Lesson
from lissom.training.recipe import Recipe

_BATCH_SIZE = 16


def plan(model: CompressedModel, lesson: Lesson, params: BlocksPruning) -> Recipe:
    """Return the recipe that keeps `params.blocks` blocks of the only stack, or of the encoder, and of the decoder.

    Raises:
        InputError: the model has fewer blocks, no Transformer blocks, or exceeds the budget even with one block.
    """
    network = model.network
    first_blocks(network)  # says what to do about a model without blocks
    edits, scores = [], {}
    for stack, count in counts_of(model, lesson, params).items():
        blocks = blocks_at(network, stack)
        if count == len(blocks):
            continue
        if params.criterion in ("influence", "leave_one_out"):
            values = _scores(model, lesson, stack, params)
            scores[f"{stack.title or 'block'} scores"] = {str(place): value for place, value in enumerate(values)}
            kept = highest(values, count, keep_first=stack.first_block_read)
        else:
            kept = by_position(params.criterion, count, len(blocks), keep_first=stack.first_block_read)
        edits.append(KeepBlocks(kept=kept, stack=stack.title))
    return Recipe(edits=edits, facts={name.replace(" ", "_"): values for name, values in scores.items()})


def counts_of(model: CompressedModel, lesson: Lesson, params: BlocksPruning | LayerDropPruning) -> dict[Stack, int]:
    """Return how many blocks of every stack are to be kept.

    With a budget they are as many as it allows, the same share of every stack, whose blocks all have the same size.

    Raises:
        InputError: a stack has fewer blocks than are to be kept, or the budget cannot be reached.
    """
    stacks = family_of(model.network).stacks
    available = [len(blocks_at(model.network, stack)) for stack in stacks]
    if params.budget is not None:
        deepest = max(available)
        choices = [tuple(math.ceil(count * part / deepest) for count in available) for part in range(1, deepest + 1)]

        def edits(counts: Iterable[int]) -> list[KeepBlocks]:
            return [
                KeepBlocks(kept=tuple(range(count)), stack=stack.title)
                for stack, count in zip(stacks, counts, strict=True)
            ]

        return dict(zip(stacks, largest_within(model, lesson, choices, edits, params.budget), strict=True))
    wanted = (params.blocks, params.decoder_blocks)[: len(stacks)]
    for count, most in zip(wanted, available, strict=True):
        if count is not None and count > most:
            raise InputError(f"prune.method: {params.method}: {count} blocks are to be kept; the model has {most}")
    return {
        stack: most if count is None else count for stack, count, most in zip(stacks, wanted, available, strict=True)
    }


def by_position(criterion: str, count: int, available: int, *, keep_first: bool = False) -> tuple[int, ...]:
    """Return the kept ones of `available` blocks: without the top or the bottom ones, or evenly spaced.

    With `keep_first`, all blocks read something of the first one, which then stays in place of the next one.
    """
    match criterion:
        case "top":
            return tuple(range(count))
        case "bottom":
            last = range(available - count + keep_first, available)
            return (0, *last) if keep_first else tuple(last)
        case _:
            return evenly_spaced(count, available)


def highest(scores: Sequence[float], count: int, *, keep_first: bool) -> tuple[int, ...]:
    """Return the blocks with the highest scores in ascending order; the first of equal ones."""
    order = sorted(range(len(scores)), key=lambda place: (not (keep_first and place == 0), -scores[place], place))
    return tuple(sorted(order[:count]))


def block_influence(network: PreTrainedModel, blocks: nn.ModuleList, batches: Sequence[Batch]) -> list[float]:
    """Return 1 - E cos(input, output) of every block, averaged over the tokens of all texts, `[blocks]`.

    Args:
        network: in eval mode.
        blocks: its blocks, whose hidden states have a vector for every token.
        batches: the texts; padding does not count.
    """
    sums, counts = [0.0] * len(blocks), [0] * len(blocks)
    stacks = family_of(network).stacks
    writes = len(stacks) > 1 and blocks is blocks_at(network, stacks[1])
    mask = torch.empty(0)

    def observe(place: int) -> Callable[..., None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            before, after = arguments[0], output[0] if isinstance(output, tuple) else output
            cosines = F.cosine_similarity(before.float(), after.float(), dim=-1)
            sums[place] += float(cosines[mask].sum())
            counts[place] += int(mask.sum())

        return hook

    handles = [block.register_forward_hook(observe(place)) for place, block in enumerate(blocks)]
    device = next(network.parameters()).device
    try:
        with torch.inference_mode():
            for batch in batches:
                batch = batch.to(device)
                mask = batch.inputs["decoder_attention_mask" if writes else "attention_mask"].bool()
                logits_of(network, batch)
    finally:
        for handle in handles:
            handle.remove()
    return [1 - total / count for total, count in zip(sums, counts, strict=True)]


@contextmanager
def bypassed(block: nn.Module) -> Iterator[None]:
    """Let a block return its input within the context."""

    def hook(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        return (arguments[0], *output[1:]) if isinstance(output, tuple) else arguments[0]

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def weighed(weight: Callable[[], Tensor]) -> Callable[..., Any]:
    """Return a hook by which a block returns its input plus a share of the change that it makes to it.

    Args:
        weight: returns the share, of one element: 0 leaves the block out, 1 changes nothing.
    """

    def hook(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        before, after = arguments[0], output[0] if isinstance(output, tuple) else output
        mixed = before + weight().to(after.dtype) * (after - before)
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    return hook


def _scores(model: CompressedModel, lesson: Lesson, stack: Stack, params: BlocksPruning) -> list[float]:
    network, blocks = model.network.eval(), blocks_at(model.network, stack)
    data = lesson.texts(model)
    members = data.labelled(params.calibration_examples)
    batches = list(sorted_batches(data, _BATCH_SIZE, model.pad_id, members))
    if params.criterion == "influence":
        return block_influence(network, blocks, batches)
    return [_loss(model, block, batches) for block in blocks]


def _loss(model: CompressedModel, block: nn.Module, batches: Sequence[Batch]) -> float:
    """Return the mean loss with a block bypassed."""
    device, total, rows = next(model.network.parameters()).device, 0.0, 0
    with bypassed(block), torch.inference_mode():
        for batch in batches:
            batch = batch.to(device)
            loss = model.manifest.task.loss(logits_of(model.network, batch), batch.targets)
            total, rows = total + float(loss) * len(batch.targets), rows + len(batch.targets)
    return total / rows
