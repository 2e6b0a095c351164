"""Names of the files that stages read and write, and atomic writing of files and folders."""

import glob
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lissom.storage import followed, locked, naming, recover, replace_folder, write_durably

MANIFEST = "lissom.json"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TARGET_TOKENIZER = "target_tokenizer.json"

SPLITS = ("train", "dev", "test")
TRANSFER = "transfer"
DATA_CARD = "data.json"

ONNX = "model.onnx"
SERVING = "serving.json"
EXPORT_RECORD = "export.json"
OLLAMA = "ollama"
TEACHER_OUTPUTS = "logits.safetensors"

METRICS = "metrics.json"
EMISSIONS = "emissions.json"
HISTORY = "history.json"
CHANGES = "changed_answers.csv"
LEDGER_MARKDOWN = "ledger.md"
LEDGER_JSON = "ledger.json"
REPORT_PAGE = "report.html"
SCI_JSON = "sci.json"
BOAMPS_TRAINING, BOAMPS_INFERENCE = "boamps_training.json", "boamps_inference.json"
SUMMARY = "summary.json"
POINTS = "points.json"
CONFUSION = "confusion.json"
MODEL_CARD = "model_card.md"

Step = Literal["teacher", "distill", "prune", "factorize", "quantize"]
STEPS: tuple[Step, ...] = ("teacher", "distill", "prune", "factorize", "quantize")
"""Stages that produce a model, in order; `variants` of the params are those that are exported and evaluated."""
TEACHER, FINAL = STEPS[0], STEPS[-1]
"""The two variants that are compared; the final one is registered."""


def read_json(path: Path) -> Any:
    """Return the parsed content of a UTF-8 JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically; raises `ValueError` for NaN, in place of which null must be used."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically and durably.

    Raises:
        OSError: the place cannot be written; the old content is unchanged.
    """
    write_durably(path, text.encode())


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `target` when the block ends without error.

    If the process dies inside the block, `target` is unchanged; if it dies while the folders are exchanged, the next
    call keeps the new one. A `target` that is a link is followed.

    Raises:
        InputError: another process writes the folder.
        OSError: the place cannot be written; `target` is unchanged.
    """
    target = followed(target)
    with naming(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            recover(target)
            temporary = target.with_name(f".{target.name}.tmp")
            try:
                temporary.mkdir()
                yield temporary
                replace_folder(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def recover_folder(target: Path) -> None:
    """Finish or undo the exchange of a folder that a killed process has begun, before the folder is read.

    Raises:
        InputError: another process writes the folder.
        OSError: what was left over cannot be renamed or removed.
    """
    target = followed(target)
    if any(target.parent.glob(f".{glob.escape(target.name)}.*")):
        with locked(target):
            recover(target)
