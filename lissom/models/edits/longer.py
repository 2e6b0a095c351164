"""More positions, for inputs that are longer than those the base model was trained with.

A table of positions gets rows: copies of the table (Beltagy et al. 2020, arXiv:2004.05150, section 5), or the table
stretched by interpolation. Rotary positions are stretched by dividing them (Chen et al. 2023, arXiv:2306.15595), or
left as they are. A short fine-tuning follows.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.capabilities import check_technique
from lissom.models.config import Extension
from lissom.models.edits.edit import StructureEdit
from lissom.models.families import family_of
from lissom.models.sites import replace_module, unused_positions


class ExtendPositions(StructureEdit):
    """Let inputs have `length` tokens."""

    kind: Literal["extend_positions"] = "extend_positions"
    length: int = Field(ge=1)
    """Longest input in tokens."""
    how: Extension
    """`copy` repeats a table, and leaves rotary positions as they are; `interpolate` stretches both."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; raises `InputError` if the family has other positions, or as many already."""
        check_technique(network, "longer", self.kind)
        family = family_of(network)
        if family.position_table is None:
            self._stretch(network, family.rotary or "")
            return
        table = network.get_submodule(family.position_table)
        assert isinstance(table, nn.Embedding)
        first = unused_positions(table)
        old = table.weight.detach()[first:]
        if len(old) >= self.length:
            raise InputError(f"extend_positions: {self.length} positions asked for, the table has {len(old)}")
        rows = torch.cat([table.weight.detach()[:first], self._longer(old)]).contiguous()
        longer = nn.Embedding(len(rows), rows.shape[1], padding_idx=table.padding_idx, device="meta")
        longer.weight = nn.Parameter(rows, requires_grad=table.weight.requires_grad)
        replace_module(network, family.position_table, longer)
        network.config.max_position_embeddings = len(rows)
        # Some networks keep the numbers of positions, and types of tokens for as many.
        holder = network.get_submodule(family.position_table.rpartition(".")[0])
        for name in ("position_ids", "token_type_ids"):
            buffer = getattr(holder, name, None)
            if isinstance(buffer, Tensor):
                values = torch.arange(len(rows)) if name == "position_ids" else torch.zeros(len(rows), dtype=torch.long)
                setattr(holder, name, values[None].to(buffer.device))

    def is_plain(self, network: PreTrainedModel) -> bool:  # noqa: ARG002
        """Return true: a config names the number of positions, and the stretching of rotary ones."""
        return True

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"extended to {self.length} positions ({self.how})"

    def _longer(self, old: Tensor) -> Tensor:
        """Return `[length, d]` from the rows of a shorter table."""
        if self.how == "copy":
            return old[torch.arange(self.length, device=old.device) % len(old)]
        places = torch.linspace(0, len(old) - 1, self.length, device=old.device)
        below = places.floor().long().clamp(max=len(old) - 2)
        share = (places - below).unsqueeze(1)
        return old[below] * (1 - share) + old[below + 1] * share

    def _stretch(self, network: PreTrainedModel, rotary: str) -> None:
        config = network.config
        positions, parameters = config.max_position_embeddings, dict(config.rope_parameters or {})
        if positions >= self.length:
            raise InputError(f"extend_positions: {self.length} positions asked for, the model has {positions}")
        config.max_position_embeddings = self.length
        if self.how == "copy":
            return
        kind = parameters.get("rope_type", "default")
        if kind not in ("default", "linear"):
            raise InputError(
                f"extend_positions: the model's rotary positions are scaled already ({kind}); take `copy`, which "
                "leaves them as they are"
            )
        factor = float(parameters.get("factor", 1.0)) * self.length / positions
        config.rope_parameters = {**parameters, "rope_type": "linear", "factor": factor}
        old: Any = network.get_submodule(rotary)
        replace_module(network, rotary, type(old)(config).to(old.inv_freq.device))
