"""Keep the first rows of a learned position table; longer inputs do not occur in the task."""

from typing import Literal

from pydantic import Field
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.surgery import slice_rows
from lissom.models.families import family_of
from lissom.models.sites import replace_module, unused_positions


class KeepPositions(StructureEdit):
    """Drop the positions beyond `length`."""

    kind: Literal["keep_positions"] = "keep_positions"
    length: int = Field(ge=1)
    """Longest input in tokens."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; raises `InputError` if the table is missing or shorter."""
        family = family_of(network)
        if family.position_table is None:
            raise InputError(f"keep_positions: {network.config.model_type} models have no position table")
        table = network.get_submodule(family.position_table)
        rows = self.length + unused_positions(table)
        if rows > table.num_embeddings:
            raise InputError(f"keep_positions: {rows} rows asked for, the table has {table.num_embeddings}")
        replace_module(network, family.position_table, slice_rows(table, range(rows)))
        network.config.max_position_embeddings = rows

    def is_plain(self, network: PreTrainedModel) -> bool:  # noqa: ARG002
        """Return true: a config names the number of positions."""
        return True

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"kept {self.length} positions"
