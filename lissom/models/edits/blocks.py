"""Keep some of the Transformer blocks."""

from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from lissom.errors import InputError
from lissom.models.edits.edit import StructureEdit
from lissom.models.edits.surgery import check_indices
from lissom.models.sites import blocks_at, exits_of, keep_layer_types, replace_module, stack_of


class KeepBlocks(StructureEdit):
    """Drop all blocks but those in `kept`; their order does not change."""

    kind: Literal["keep_blocks"] = "keep_blocks"
    kept: tuple[int, ...]
    """Numbers of the kept blocks, 0-based, ascending."""
    stack: str = ""
    """Title of the stack of blocks, of a network with several."""

    def apply(self, network: PreTrainedModel) -> None:
        """Perform the edit in place; raises `InputError` for blocks that the network does not have, or cannot lose."""
        stack = stack_of(network, self.stack)
        blocks = blocks_at(network, stack)
        check_indices("keep_blocks", self.kept, len(blocks))
        if stack.first_block_read and self.kept[0] != 0:
            raise InputError(
                f"keep_blocks: kept {list(self.kept)}; block 0 of a {network.config.model_type} holds the positions "
                "that all blocks use, keep it"
            )
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
        return not stack_of(network, self.stack).first_block_differs or self.kept[0] == 0

    def describe(self) -> str:
        """Return the edit in a few words."""
        return f"kept {self.stack} blocks {', '.join(map(str, self.kept))}".replace("  ", " ")
