"""Writing of safetensors files, with the errors of a disk as Python has them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from lissom.storage import naming

_NUMBER = re.compile(r"\(os error (\d+)\)")


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors.

    Raises:
        OSError: the disk is full, fails or cannot be written; safetensors has only a text for it.
    """
    with naming(path):
        try:
            save_file(dict(tensors), path, metadata=dict(metadata) if metadata else None)
            _allow_as_others(path)
        except SafetensorError as error:
            match = _NUMBER.search(str(error))
            if not match:
                raise
            raise OSError(int(match[1]), str(error), str(path)) from None


def _allow_as_others(path: Path) -> None:
    """Give a file the permissions that `open` gives: safetensors writes for its owner, and pods run as others."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
