"""Students made of teachers."""

from collections.abc import Sequence

from lissom.errors import InputError
from lissom.models.edits import Edit, KeepBlocks


def block_student(available: int, blocks: Sequence[int]) -> list[Edit]:
    """Return the edits that make a student of some of the teacher's blocks; embeddings and head come along.

    Args:
        available: number of the teacher's blocks.
        blocks: 0-based numbers of the blocks to copy.

    Raises:
        InputError: the teacher has no such block.
    """
    beyond = [block for block in blocks if block >= available]
    if beyond:
        raise InputError(f"distill.blocks: {beyond} do not exist; the teacher has blocks 0 to {available - 1}")
    return [KeepBlocks(kept=tuple(blocks))]
