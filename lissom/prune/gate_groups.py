"""What gates act on: the units of sites, blocks and network, what they cost in parameters, and which of them stay.

Hidden channels are one group of the whole network: the cost of everything else is proportional to their number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.models.capabilities import check_technique
from lissom.models.families import family_of
from lissom.models.family import AttentionSite, FfnSite
from lissom.models.sites import (
    attention_sites,
    blocks_at,
    ffn_sites,
    first_blocks,
    head_groups,
    head_size,
    sites_of_kind,
)
from lissom.prune.config import GatedUnits, GatesPruning


@dataclass(frozen=True)
class GateGroup:
    """The units of one site, one block, or the hidden channels."""

    kind: GatedUnits
    path: str
    """Path of the output projection, or of the block; empty for the channels."""
    units: int
    is_gated: bool
    width: int = 1
    """Number of columns of the projection's input that belong to a unit."""
    cost: float = 0
    """What a unit costs: its parameters; 0 if no gate can remove them, and for blocks and channels, whose sites count.
    Or a share of the model's operations or latency (`gate_costs`), of a block without its units."""
    multiple: int = 1
    """Number of units that are kept or removed together."""
    block: str = ""
    """Path of the block of a site; of a block that has a cost, its own."""


def groups_of(network: PreTrainedModel, params: GatesPruning) -> list[GateGroup]:
    """Return the groups of all attention sites, feed-forward sites and blocks, in this order, then of gated channels.

    Raises:
        InputError: the network has no blocks, its heads cannot be removed, or it has no attention of the wanted kind.
    """
    first_blocks(network)  # says what to do about a model without blocks
    wanted, width, grouped = params.units, head_size(network), head_groups(network)
    if "heads" in wanted:
        check_technique(network, "heads", "prune.method: gates")
    groups: list[GateGroup] = []
    chosen = sites_of_kind(network, params.attention)
    for number, site in enumerate(attention_sites(network)):
        is_gated = "heads" in wanted and number in chosen
        paths = [site.query, site.key, site.value, *site.positions]
        units = network.get_submodule(site.key).out_features // width
        groups.append(_site("heads", network, site, paths, units, width * grouped, is_gated, 1, params))
    for place in ffn_sites(network):
        units = network.get_submodule(place.output).in_features
        is_gated = "neurons" in wanted
        groups.append(
            _site("neurons", network, place, place.inputs, units, 1, is_gated, params.neuron_multiple, params)
        )
    for stack in family_of(network).stacks:
        for number in range(len(blocks_at(network, stack))):
            is_gated = "blocks" in wanted and not (stack.first_block_read and number == 0)
            groups.append(GateGroup("blocks", f"{stack.blocks}.{number}", 1, is_gated))
    if "channels" in wanted:
        width = int(network.config.hidden_size)
        groups.append(GateGroup("channels", "", width, True, multiple=min(params.channel_multiple, width)))
    return groups


def channels_of(groups: Sequence[GateGroup]) -> GateGroup | None:
    """Return the group of the hidden channels, if they have gates."""
    return next((group for group in groups if group.kind == "channels"), None)


def open_units(groups: Sequence[GateGroup], log_alpha: Mapping[str, Tensor], params: GatesPruning) -> dict[str, Tensor]:
    """Return 1 for every unit that stays and 0 for the others, a tensor `[units]` for every gated group.

    Without a budget, those stay whose gates are above 1/2. With one, the highest gates stay, heads and neurons ranked
    together, until the share `params.keep` of the parameters is spent. Every site keeps its best unit, every stack its
    best block. Of the channels those stay whose gates are above 1/2, or fewer if nothing else can meet the budget.
    """
    budget = None if params.keep is None else params.keep * sum(group.units * group.cost for group in groups) + 1e-6
    result = {group.path: torch.zeros(group.units) for group in groups if group.is_gated}
    if (channels := channels_of(groups)) is not None:
        result[channels.path] = _open_channels(groups, channels, log_alpha[channels.path], budget)
        if budget is not None:  # all units are as much smaller as there are fewer channels
            budget *= channels.units / float(result[channels.path].sum())
    blocks = _open_blocks(groups, log_alpha, budget)
    candidates: list[tuple[float, int, str, Tensor, float]] = []
    spent = 0.0
    for group in groups:
        if group.kind == "channels":
            continue
        if group.kind == "blocks":
            if group.is_gated:
                result[group.path].fill_(group.path in blocks)
            spent += group.cost if group.path in blocks else 0
        elif group.block in blocks:
            if not group.is_gated:
                spent += group.units * group.cost
                continue
            values = log_alpha[group.path]
            first, *others = torch.split(torch.argsort(values, descending=True, stable=True), group.multiple)
            result[group.path][first] = 1
            spent += len(first) * group.cost
            for number, chunk in enumerate(others):
                candidates.append((-float(values[chunk].mean()), number, group.path, chunk, len(chunk) * group.cost))
    for falling, _, path, chunk, cost in sorted(candidates, key=lambda candidate: candidate[:3]):
        is_last = falling >= 0 if budget is None else spent + cost > budget
        if is_last:
            break
        result[path][chunk] = 1
        spent += cost
    return result


def _open_channels(groups: Sequence[GateGroup], channels: GateGroup, values: Tensor, budget: float | None) -> Tensor:
    """Return 1 for every channel that stays; the rest of the network must be able to meet the budget with them."""
    chunks = torch.split(torch.argsort(values, descending=True, stable=True), channels.multiple)
    count = sum(bool(values[chunk].mean() > 0) for chunk in chunks)
    if budget is not None:
        others = smallest_share([group for group in groups if group.kind != "channels"])
        share = budget / (others * sum(group.units * group.cost for group in groups))
        most = int(share * channels.units / channels.multiple)
        count = min(count, most) if any(group.is_gated and group.kind != "channels" for group in groups) else most
    kept = torch.zeros(channels.units)
    for chunk in chunks[: max(1, count)]:
        kept[chunk] = 1
    return kept


def _open_blocks(groups: Sequence[GateGroup], log_alpha: Mapping[str, Tensor], budget: float | None) -> set[str]:
    """Return the paths of the blocks that stay; with a budget, no fewer than can hold it, no more than fit in it."""
    blocks = [group for group in groups if group.kind == "blocks"]
    values = {group.path: float(log_alpha[group.path]) if group.is_gated else float("inf") for group in blocks}
    stacks: dict[str, list[str]] = {}
    for path in values:
        stacks.setdefault(path.rpartition(".")[0], []).append(path)
    best = {max(paths, key=values.__getitem__) for paths in stacks.values()}
    kept = best | {path for path, value in values.items() if value > 0}
    if budget is None:
        return kept
    ranked = sorted(values, key=lambda path: -values[path])
    for path in ranked:
        if _size(groups, kept, whole=True) < budget:
            kept.add(path)
    for path in reversed(ranked):
        if _size(groups, kept, whole=False) > budget and path not in best:
            kept.discard(path)
    return kept


def _size(groups: Sequence[GateGroup], blocks: set[str], *, whole: bool) -> float:
    """Return the cost of some blocks: of all their units, or of the fewest that can stay."""
    return sum(
        (group.units if whole or not group.is_gated else min(group.multiple, group.units)) * group.cost
        for group in groups
        if group.block in blocks
    )


def smallest_share(groups: Sequence[GateGroup]) -> float:
    """Return the least share of the parameters that gates can leave."""
    gated = [group for group in groups if group.kind == "blocks" and group.is_gated]
    stacks = {group.path.rpartition(".")[0]: group.path for group in groups if group.kind == "blocks"}
    blocks = {group.path for group in groups if group.kind == "blocks"} - {group.path for group in gated}
    blocks |= {path for stack, path in stacks.items() if not any(kept.startswith(f"{stack}.") for kept in blocks)}
    share = _size(groups, blocks, whole=False) / sum(group.units * group.cost for group in groups)
    channels = channels_of(groups)
    return share if channels is None else share * channels.multiple / channels.units


def _site(
    kind: GatedUnits, network: nn.Module, site: AttentionSite | FfnSite, paths: Sequence[str], units: int, width: int,
    is_gated: bool, multiple: int, params: GatesPruning,
) -> GateGroup:  # fmt: skip
    """Return the group of a site whose inner projections are at `paths`."""
    inner = sum(parameter.numel() for path in paths for parameter in network.get_submodule(path).parameters())
    outer = network.get_submodule(site.output).get_parameter("weight").numel()
    counts = is_gated or bool({"blocks", "channels"} & set(params.units))
    cost = (inner + outer) // units if counts else 0
    return GateGroup(kind, site.output, units, is_gated, width, cost, multiple, site.block)
