"""Every file name that a stage reads or writes, and the one way to write a file or a folder whole."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

MANIFEST = "lissom.json"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

SPLITS = ("train", "dev", "test")
TRANSFER = "transfer"
DATA_CARD = "data.json"

ONNX = "model.onnx"
SERVING = "serving.json"
EXPORT_RECORD = "export.json"
TEACHER_OUTPUTS = "logits.safetensors"

METRICS = "metrics.json"
EMISSIONS = "emissions.json"
HISTORY = "history.json"
LEDGER_MARKDOWN = "ledger.md"
LEDGER_JSON = "ledger.json"
REPORT_PAGE = "report.html"
MODEL_CARD = "model_card.md"

Step = Literal["teacher", "distill", "prune", "factorize", "quantize"]
STEPS: tuple[Step, ...] = ("teacher", "distill", "prune", "factorize", "quantize")
"""All stages that make a model, in their order; those that are exported and measured are `variants` of the params."""
TEACHER, FINAL = STEPS[0], STEPS[-1]
"""These two are compared, and the last is registered."""


def read_json(path: Path) -> Any:
    """Return the parsed content of a UTF-8 JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all. NaN is refused: a figure that is none must be null."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target` that takes its place when the block ends without error.

    A process that dies inside the block leaves `target` as it was; its temporary folder is swept away by
    the next run.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left_over in target.parent.glob(f".{target.name}.*.tmp"):
        shutil.rmtree(left_over)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
