"""Keep some of the attention heads of every site (Michel et al. 2019, arXiv:1905.10650)."""

from typing import Literal

from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.capabilities import check_technique
from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.surgery import check_indices, slice_linear
from lissom.models.families import family_of
from lissom.models.patterned import keep_head_numbers
from lissom.models.shared_bias import keep_rows
from lissom.models.sites import attention_sites, head_groups, head_size, replace_module


class KeepHeads(StructureEdit):
    """Drop all heads but those in `kept`; with grouped-query attention, a unit is a group of query heads."""

    kind: Literal["keep_heads"] = "keep_heads"
    kept: tuple[tuple[int, ...], ...]
    """For every attention site, block by block, the numbers of the kept heads (groups), 0-based, ascending."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; raises `InputError` where it does not fit the network."""
        check_technique(network, "heads", self.kind)
        sites, width, group_size = attention_sites(network), head_size(network), head_groups(network)
        if len(self.kept) != len(sites):
            raise InputError(f"keep_heads: {len(self.kept)} sites in the edit, {len(sites)} in the network")
        for site, unit_ids in zip(sites, self.kept, strict=True):
            units = network.get_submodule(site.key).out_features // width
            check_indices(f"keep_heads, {site.name}", unit_ids, units)
            key_rows = _rows(unit_ids, width)
            query_rows = _rows(unit_ids, width * group_size)
            for path, rows, columns in (
                (site.query, query_rows, None),
                (site.key, key_rows, None),
                (site.value, key_rows, None),
                (site.output, None, query_rows),
                *((path, query_rows, None) for path in site.positions),
            ):
                replace_module(network, path, slice_linear(network, path, rows, columns))
            query_heads = [unit * group_size + member for unit in unit_ids for member in range(group_size)]
            keep_head_numbers(network.get_submodule(site.module), query_heads)
            if family_of(network).shared_bias:
                keep_rows(network, network.get_submodule(site.module), query_heads)
            if site.heads_attribute is not None:
                setattr(network.get_submodule(site.module), site.heads_attribute, len(unit_ids))

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"kept {' + '.join(str(len(heads)) for heads in self.kept)} attention heads"


def _rows(units: tuple[int, ...], width: int) -> list[int]:
    return [unit * width + offset for unit in units for offset in range(width)]
