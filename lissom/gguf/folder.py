"""What every folder for Ollama has: GGUF files, a Modelfile for each of them, and a README of commands."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from pydantic import BaseModel

from lissom.artifacts import write_text
from lissom.data.batches import collate
from lissom.data.encoding import Encoded
from lissom.gguf.card import CARD_MARKDOWN
from lissom.gguf.config import FileTypeName, GgufParams
from lissom.gguf.file import GgufModel, write_gguf
from lissom.gguf.file_types import FILE_TYPES, Importance
from lissom.gguf.importance import importance_of
from lissom.gguf.modelfile import MODELFILE, Modelfile, Value
from lissom.models.directory import file_sha256

README = "README.md"
F32: FileTypeName = "f32"
"""The type that is always written, to compare llama.cpp's arithmetic alone."""
PROOF = "lissom.proof.sha256"
"""Key in a file's metadata: digest of its comparison with torch, `agreement` in card.json."""
_NO_DIGEST = "0" * 64
_BATCH_SIZE = 8


def model_name(task: str, params: GgufParams) -> str:
    """Return the model's name in Ollama: that of the params, or the task's in the letters that Ollama allows."""
    return params.name or re.sub(r"[^a-z0-9._-]+", "-", task.lower()).strip("-._") or "model"


def write_files(
    source: GgufModel, folder: Path, name: str, train: Encoded, params: GgufParams
) -> dict[FileTypeName, Path]:
    """Write a file of float32 and of every type of the params, and return their paths."""
    importance = _importance(source, train, params.calibration_tokens)
    manifest = source.model.manifest
    metadata = {"general.name": name, "general.base_model.0.name": manifest.base}
    metadata |= {"lissom.base.sha256": manifest.base_sha256} if manifest.base_sha256 else {}
    metadata |= {"general.license": params.license} if params.license else {}
    metadata |= {"lissom.edits": "; ".join(edit.describe() for edit in manifest.edits)}
    metadata |= {PROOF: _NO_DIGEST}
    paths: dict[FileTypeName, Path] = {}
    for kind in dict.fromkeys((F32, *params.types)):
        file_type = FILE_TYPES[kind]
        paths[kind] = folder / f"{name}-{kind}.gguf"
        write_gguf(source, paths[kind], file_type, None if file_type.is_float else importance, metadata)
    return paths


def write_proof(path: Path, proof: BaseModel) -> None:
    """Write the SHA-256 digest of a proof, as JSON with sorted keys, into the metadata of its file, in place."""
    digest = hashlib.sha256(json.dumps(proof.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
    field = gguf.GGUFReader(path).fields[PROOF]
    with path.open("r+b") as file:
        file.seek(field.offset + sum(part.nbytes for part in field.parts[:-1]))
        file.write(digest.encode())


def file_facts(source: GgufModel, path: Path) -> dict[str, Any]:
    """Return name, size, bits per weight and digest of a file."""
    size = path.stat().st_size
    return {
        "file": path.name,
        "bytes": size,
        "sha256": file_sha256(path),
        "bits_per_weight": 8 * size / source.parameters,
    }


def write_modelfiles(
    folder: Path,
    files: Mapping[FileTypeName, str],
    parameters: Sequence[tuple[str, Value]],
    params: GgufParams,
    system: str | None = None,
    template: str | None = None,
) -> None:
    """Write a Modelfile for the file of every type; the first one is also the folder's."""
    for number, (kind, file) in enumerate(files.items()):
        text = Modelfile(
            f"./{file}", tuple(parameters), template=template, system=system, license=params.license,
            requires=params.requires,
        ).text()  # fmt: skip
        for name in (f"{MODELFILE}.{kind}", *([MODELFILE] if number == 0 else [])):
            write_text(folder / name, text)


def write_readme(folder: Path, name: str, use: str, types: Sequence[FileTypeName]) -> None:
    """Write the README: the commands that make the model and use it."""
    further = [f"ollama create {name}:{kind} -f {MODELFILE}.{kind}" for kind in types[1:]]
    lines = [
        f"# {name} in Ollama", "", "```", f"ollama create {name} -f {MODELFILE}", use, *further, "```", "",
        f"The proof of the files is in {CARD_MARKDOWN}.",
    ]  # fmt: skip
    write_text(folder / README, "\n".join(lines) + "\n")


def _importance(source: GgufModel, train: Encoded, tokens: int) -> Importance | None:
    """Return the importances from as many texts as have `tokens` tokens, evenly spaced."""
    if tokens == 0 or len(train) == 0:
        return None
    count = max(1, min(len(train), round(tokens / max(1.0, float(train.lengths.mean())))))
    members = np.linspace(0, len(train) - 1, count).round().astype(np.int64)
    batches = np.split(members, range(_BATCH_SIZE, count, _BATCH_SIZE))
    return importance_of(source, (collate(train, batch, source.model.pad_id) for batch in batches))
