"""Checks of a model directory before memory is allocated for it: its files may come from anybody."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from tokenizers import Tokenizer

from lissom.artifacts import MANIFEST, read_json
from lissom.errors import ModelFormatError
from lissom.models.families import FAMILIES
from lissom.serving.folder import DamagedFolderError, parsing

_LONGEST_JSON = 50_000_000
_LARGEST_NUMBER = 10**8
_MOST_BLOCKS = 1000
_MOST_PARAMETERS = 2**34
_DEEPEST = 20


def read_bounded_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        FileNotFoundError: there is none.
        ModelFormatError: it is too long, nested too deep, or no JSON in UTF-8.
    """
    if path.stat().st_size > _LONGEST_JSON:
        raise ModelFormatError(f"{path}: longer than {_LONGEST_JSON} bytes; the file is damaged, make the model again")
    try:
        values = read_json(path)
    except RecursionError:
        raise ModelFormatError(f"{path}: nested too deep; the file is damaged, make the model again") from None
    except ValueError as error:
        raise ModelFormatError(f"{path}: not JSON ({error}); the file is damaged, make the model again") from None
    if _depth(values) > _DEEPEST:
        raise ModelFormatError(f"{path}: nested deeper than {_DEEPEST}; the file is damaged, make the model again")
    return values


def check_config(config: Mapping[str, Any]) -> None:
    """Check a base config before a network is built from it.

    Raises:
        ModelFormatError: the model type is no family of lissom, or a size is out of bounds.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ModelFormatError(
            f"{MANIFEST}: base_config.model_type {str(model_type)[:60]!r} is not known; "
            f"known: {', '.join(sorted(FAMILIES))}"
        )
    blocks = {"num_hidden_layers", *(stack.config_blocks for stack in FAMILIES[model_type].stacks)}
    for name, value in config.items():
        most = _MOST_BLOCKS if name in blocks or name == "n_layer" else _LARGEST_NUMBER
        if isinstance(value, int) and not -_LARGEST_NUMBER <= value <= most:
            raise ModelFormatError(f"{MANIFEST}: base_config.{name} {str(value)[:20]} is out of bounds, at most {most}")


def check_parameters(count: int) -> None:
    """Check the number of parameters of the base network, as built without memory.

    Raises:
        ModelFormatError: there are more than any supported model has.
    """
    if count > _MOST_PARAMETERS:
        raise ModelFormatError(
            f"{MANIFEST}: base_config describes {count:,} parameters, at most {_MOST_PARAMETERS:,} are allowed"
        )


@contextmanager
def building() -> Iterator[None]:
    """Convert whatever transformers and torch raise for a config that does not work to `ModelFormatError`."""
    try:
        yield
    except ModelFormatError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise ModelFormatError(
            f"{MANIFEST}: no network can be built from base_config: {type(error).__name__}: {lines[0][:200]}"
        ) from None


def header_shapes(weights: Path) -> dict[str, list[int]]:
    """Return the shapes of all tensors of a safetensors file, without reading them.

    Raises:
        ModelFormatError: the header is damaged.
    """
    try:
        with parsing(weights, "safetensors"), safe_open(weights, framework="pt") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except DamagedFolderError as error:
        raise ModelFormatError(f"{error}: it cannot be read; make or copy the model again") from None


def read_tokenizer(path: Path) -> Tokenizer:
    """Return a tokenizer.

    Raises:
        ModelFormatError: the file is damaged.
    """
    try:
        with parsing(path, "tokenizers"):
            return Tokenizer.from_file(str(path))
    except DamagedFolderError as error:
        raise ModelFormatError(str(error)) from None


def _depth(value: Any) -> int:
    deepest, layer = 0, [value]
    while layer and deepest <= _DEEPEST:
        deepest += 1
        layer = [
            part
            for item in layer
            if isinstance(item, dict | list)
            for part in (item.values() if isinstance(item, dict) else item)
        ]
    return deepest
