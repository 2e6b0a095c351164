"""Keep some of the attention heads of every block (SPECS: "Prune A", Michel et al. 2019, arXiv:1905.10650)."""

from typing import Literal

from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.edits.surgery import check_kept, cut_linear
from lissom.models.families import blocks_of, family_of, head_groups, head_size, replace_module
from lissom.section import Section


class KeepHeads(Section):
    """Drop all heads but these; where query heads share a key/value head, a unit is such a group."""

    kind: Literal["keep_heads"] = "keep_heads"
    kept: tuple[tuple[int, ...], ...]
    """For every block, the numbers of the kept heads (groups), 0-based, ascending."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; raises `InputError` where it does not fit the network."""
        family, blocks, width = family_of(network), blocks_of(network), head_size(network)
        if len(self.kept) != len(blocks):
            raise InputError(f"keep_heads: {len(self.kept)} blocks in the edit, {len(blocks)} in the network")
        shared = head_groups(network)
        for number, kept in enumerate(self.kept):
            block = f"{family.blocks}.{number}"
            units = network.get_submodule(f"{block}.{family.key}").out_features // width
            check_kept(f"keep_heads, block {number}", kept, units)
            key_rows = _rows(kept, width)
            query_rows = _rows(kept, width * shared)
            for path, rows, columns in (
                (family.query, query_rows, None),
                (family.key, key_rows, None),
                (family.value, key_rows, None),
                (family.attention_output, None, query_rows),
            ):
                replace_module(network, f"{block}.{path}", cut_linear(network, f"{block}.{path}", rows, columns))

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"kept {' + '.join(str(len(kept)) for kept in self.kept)} attention heads"


def _rows(units: tuple[int, ...], width: int) -> list[int]:
    return [unit * width + offset for unit in units for offset in range(width)]
