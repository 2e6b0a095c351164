"""Reading an exported folder whose files may be damaged: digests first, then parsers, one line per failure.

`serving.json` holds the SHA-256 of the graph and of the tokenizer, so that a damaged file is found before a parser
sees it. A file whose digest was changed with it may still be hostile; parsers' errors are reported the same way.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SERVING, TOKENIZER = "serving.json", "tokenizer.json"
DECODER = "decoder.onnx"
"""The second graph of an encoder-decoder."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_LONGEST_SERVING = 4_000_000
_LONGEST_INPUT = 1_000_000
_MOST_BEAMS = 64
_LARGEST = 1e30


class DamagedFolderError(ValueError):
    """An exported folder is incomplete, damaged or of another version; the message names the file."""


def file_digest(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_serving(folder: Path) -> dict[str, Any]:
    """Return the checked contents of serving.json.

    Raises:
        DamagedFolderError: it is missing, too long, no JSON, or an entry is missing or of a wrong type.
    """
    path = folder / SERVING
    try:
        if path.stat().st_size > _LONGEST_SERVING:
            raise DamagedFolderError(f"{path}: longer than {_LONGEST_SERVING} bytes; export the model again")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedFolderError(f"{path}: no such file; export the model again") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, DamagedFolderError):
            raise
        raise DamagedFolderError(f"{path}: not JSON: {_first_line(error)}; export the model again") from None
    if not isinstance(values, dict):
        raise DamagedFolderError(f"{path}: an object is expected, found {type(values).__name__}; export again")
    for name, (is_right, expected) in _ENTRIES.items():
        if not is_right(values.get(name)):
            given = repr(values[name])[:60] if name in values else "nothing"
            raise DamagedFolderError(f"{path}: {name} must be {expected}, given is {given}; export the model again")
    for kind, name in (
        ("classification", "labels"),
        ("regression", "scale"),
        ("token_classification", "labels"),
        ("language_modeling", "end_ids"),
        ("language_modeling", "new_tokens"),
        ("translation", "beams"),
        ("translation", "end_ids"),
        ("translation", "start_id"),
    ):
        if values["kind"] == kind and values.get(name) is None:
            raise DamagedFolderError(f"{path}: {name} is missing, which {kind} needs; export the model again")
    return values


def check_digests(folder: Path, serving: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Compare files with the digests of serving.json.

    Raises:
        DamagedFolderError: a file or its digest is missing, or they differ.
    """
    for name in names:
        expected = serving["sha256"].get(name)
        if expected is None:
            raise DamagedFolderError(f"{folder / SERVING}: sha256 has no entry {name}; export the model again")
        try:
            actual = file_digest(folder / name)
        except FileNotFoundError:
            raise DamagedFolderError(f"{folder / name}: no such file; copy or export the model again") from None
        if actual != expected:
            raise DamagedFolderError(
                f"{folder / name}: sha256 {actual[:12]}..., {SERVING} says {expected[:12]}...: the file is truncated "
                "or was changed; copy or export the model again"
            )


@contextmanager
def parsing(path: Path, library: str, action: str = "read") -> Iterator[None]:
    """Convert every error of a library that reads or runs a file to `DamagedFolderError`.

    A panic of Rust code, as of `tokenizers`, is a BaseException that cannot be imported, so it is known by its name.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DamagedFolderError(
            f"{path}: {library} cannot {action} it: {_first_line(error)}; export it again"
        ) from None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _is_int(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _are_labels(value: Any) -> bool:
    if value is None:
        return True
    texts = isinstance(value, list) and bool(value) and all(isinstance(label, str) for label in value)
    return texts and len(set(value)) == len(value)


def _are_inputs(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(name in INPUTS for name in value)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(_is_int(token, 0, 2**31 - 1) for token in value)


def _is_scale(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, dict) and all(_is_number(value.get(name)) for name in ("mean", "deviation"))


def _are_digests(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(digest, str) for digest in value.values())


_ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "format": (lambda value: isinstance(value, str), "a text"),
    "kind": (lambda value: isinstance(value, str), "a text"),
    "pair": (lambda value: isinstance(value, bool), "true or false"),
    "max_length": (lambda value: _is_int(value, 1, _LONGEST_INPUT), f"a whole number from 1 to {_LONGEST_INPUT}"),
    "pad_id": (lambda value: _is_int(value, 0, 2**31 - 1), "a whole number from 0"),
    "inputs": (_are_inputs, f"a list of names out of {', '.join(INPUTS)}"),
    "answers_empty_texts": (lambda value: isinstance(value, bool), "true or false"),
    "labels": (_are_labels, "a list of different texts"),
    "end_ids": (lambda value: value is None or _are_ids(value), "a list of token ids"),
    "beams": (lambda value: value is None or _is_int(value, 1, _MOST_BEAMS), f"a whole number from 1 to {_MOST_BEAMS}"),
    "start_id": (lambda value: value is None or _is_int(value, 0, 2**31 - 1), "a whole number from 0"),
    "new_tokens": (lambda value: value is None or _is_int(value, 1, _LONGEST_INPUT), "a whole number from 1"),
    "scale": (_is_scale, "an object with the finite numbers mean and deviation"),
    "speed": (lambda value: value is None or _is_number(value), "a finite number"),
    "sha256": (_are_digests, "an object with the SHA-256 of every file"),
}
