"""Keep some of the FFN neurons of every site."""

from typing import Literal

from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.surgery import check_indices, slice_linear
from lissom.models.families import family_of
from lissom.models.sites import ffn_sites, replace_module


class KeepNeurons(StructureEdit):
    """Drop all intermediate neurons but those in `kept`."""

    kind: Literal["keep_neurons"] = "keep_neurons"
    kept: tuple[tuple[int, ...], ...]
    """For every feed-forward site, block by block, the numbers of the kept neurons, 0-based, ascending."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; raises `InputError` where it does not fit the network."""
        sites = ffn_sites(network)
        if len(self.kept) != len(sites):
            raise InputError(f"keep_neurons: {len(self.kept)} sites in the edit, {len(sites)} in the network")
        for site, neurons in zip(sites, self.kept, strict=True):
            check_indices(f"keep_neurons, {site.name}", neurons, network.get_submodule(site.output).in_features)
            for path in site.inputs:
                replace_module(network, path, slice_linear(network, path, rows=neurons))
            replace_module(network, site.output, slice_linear(network, site.output, columns=neurons))
        if self.is_plain(network):
            for stack in family_of(network).stacks:
                setattr(network.config, stack.config_neurons, len(self.kept[0]))

    def is_plain(self, network: PreTrainedModel) -> bool:
        """Return whether all sites keep the same number and no other layer depends on that number."""
        extra_ffn = any(stack.more_ffn for stack in family_of(network).stacks)
        return not extra_ffn and len({len(neurons) for neurons in self.kept}) == 1

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"kept {' + '.join(str(len(neurons)) for neurons in self.kept)} FFN neurons"
