"""Keep some of the Transformer blocks."""

from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.surgery import check_indices
from lissom.models.families import family_of
from lissom.models.sites import blocks_of, exits_of, keep_layer_types, replace_module


class KeepBlocks(StructureEdit):
    """Drop all blocks but those in `kept`; their order does not change."""

    kind: Literal["keep_blocks"] = "keep_blocks"
    kept: tuple[int, ...]
    """Numbers of the kept blocks, 0-based, ascending."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; raises `InputError` for blocks that the network does not have."""
        stack, blocks = family_of(network).stack, blocks_of(network)
        check_indices("keep_blocks", self.kept, len(blocks))
        new_blocks = nn.ModuleList(blocks[index] for index in self.kept)
        for index, block in enumerate(new_blocks):
            for module in block.modules():
                if hasattr(module, "layer_idx"):  # index into a decoder's key/value cache
                    setattr(module, "layer_idx", index)  # noqa: B010  (a module's attributes are not typed)
        replace_module(network, stack.blocks, new_blocks)
        keep_layer_types(network.config, self.kept)
        setattr(network.config, stack.config_blocks, len(new_blocks))
        if (exits := exits_of(network)) is not None and len(exits) == len(blocks):
            network.exits = nn.ModuleList(exits[index] for index in self.kept)

    def is_plain(self, network: PreTrainedModel) -> bool:
        """Return whether a config can express it: the first block stays first where it differs from the others."""
        return not family_of(network).stack.first_block_differs or self.kept[0] == 0

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"kept blocks {', '.join(map(str, self.kept))}"
