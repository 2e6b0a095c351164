"""Cheap checks before hours of work; one function per check. Imports no torch."""

import shutil
from pathlib import Path

from lissom.errors import InputError
from lissom.storage import followed

_COPIES = 9
"""Two checkpoints (old and new) of weights, best weights and the two moments of Adam, and the output."""


def check_disk_space(places: list[Path], model_bytes: int) -> None:
    """Compare the free space where a stage writes with an estimate for a model of this size.

    Args:
        places: folders that the stage writes, which need not exist yet.
        model_bytes: size of the base model's weights.

    Raises:
        InputError: a disk has less free space than a training needs.
    """
    needed = _COPIES * model_bytes
    for place in places:
        existing = followed(place).absolute()
        while not existing.exists():
            existing = existing.parent
        free = shutil.disk_usage(existing).free
        if free < needed:
            raise InputError(
                f"{place}: {free / 1e6:,.0f} MB are free, about {needed / 1e6:,.0f} MB are needed, "
                f"{(needed - free) / 1e6:,.0f} MB are missing; free some space, or choose an output on another disk"
            )
