"""Keep some of the FFN neurons of every block (SPECS §2.8)."""

from typing import Literal

from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.edits.surgery import check_kept, cut_linear
from lissom.models.families import blocks_of, family_of, replace_module
from lissom.section import Section


class KeepNeurons(Section):
    """Drop all intermediate neurons but these."""

    kind: Literal["keep_neurons"] = "keep_neurons"
    kept: tuple[tuple[int, ...], ...]
    """For every block, the numbers of the kept neurons, 0-based, ascending."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; raises `InputError` where it does not fit the network."""
        family, blocks = family_of(network), blocks_of(network)
        if len(self.kept) != len(blocks):
            raise InputError(f"keep_neurons: {len(self.kept)} blocks in the edit, {len(blocks)} in the network")
        for number, kept in enumerate(self.kept):
            block = f"{family.blocks}.{number}"
            path_out = f"{block}.{family.ffn_out}"
            check_kept(f"keep_neurons, block {number}", kept, network.get_submodule(path_out).in_features)
            for path_in in (f"{block}.{name}" for name in family.ffn_in):
                replace_module(network, path_in, cut_linear(network, path_in, rows=kept))
            replace_module(network, path_out, cut_linear(network, path_out, columns=kept))
        counts = {len(kept) for kept in self.kept}
        if len(counts) == 1:
            setattr(network.config, family.config_neurons, counts.pop())

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"kept {' + '.join(str(len(kept)) for kept in self.kept)} FFN neurons"
