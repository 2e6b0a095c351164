"""How long an edited model's exported file takes, as a share of the whole model's: the cost for budgets of latency.

What was measured is kept in a table of this machine, since a search for a budget, and every search after it, asks for
the same structures again: latency depends on the shapes of the weights and on the texts, and not on the values.
"""

import copy
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lissom.artifacts import read_json, write_json
from lissom.console import note
from lissom.data.encoding import Encoded
from lissom.evaluate.latency import measure_latency
from lissom.evaluate.variant import timed_batches
from lissom.export.exported import Exported
from lissom.export.onnx import export_onnx
from lissom.machine import describe_machine, describe_versions
from lissom.models.compressed import CompressedModel
from lissom.training.lesson import RelativeLatency

_SECONDS, _RETRIES = 1.5, 3


def table_path() -> Path:
    """Return the table's file: latency.json in the user's folder of caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lissom" / "latency.json"


def relative_latency(scratch: Path, table: Path) -> RelativeLatency:
    """Return a function that measures two models' files in turn: one text per call, on one CPU, as floats.

    Args:
        scratch: a folder for temporary files.
        table: the file of what was measured; None of it is used where machine, versions or texts differ.
    """

    exports: dict[str, Exported] = {}  # of whole models, which every candidate of a search is compared with

    def whole_file(whole: CompressedModel) -> Exported:
        place = _digest(_structure(whole))
        if place not in exports:
            exports[place] = _exported(whole, Path(tempfile.mkdtemp(dir=scratch)))
        return exports[place]

    def measure(whole: CompressedModel, edited: CompressedModel, texts: Encoded) -> float:
        lengths = [int(batch.mask.sum()) for batch in timed_batches(texts, 1, whole.pad_id)]
        place = _digest(_structure(whole), _structure(edited), lengths, describe_machine(), describe_versions())
        known: dict[str, float] = read_json(table) if table.is_file() else {}
        if place not in known:
            value, disturbed = _measured(whole_file(whole), edited, texts, scratch)
            if disturbed:
                note(f"the latency of a pruned model was measured while other processes ran ({disturbed})")
                return value
            known[place] = value
            try:
                table.parent.mkdir(parents=True, exist_ok=True)
                write_json(table, known)
            except OSError as error:
                note(f"{table}: latencies are not kept for later runs: {error.strerror}")
        return known[place]

    return measure


def _measured(whole: Exported, edited: CompressedModel, texts: Encoded, scratch: Path) -> tuple[float, str | None]:
    batches = timed_batches(texts, 1, edited.pad_id)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        files = {"whole": whole, "edited": _exported(edited, Path(folder))}
        runners = {name: file.runner(batches, 1) for name, file in files.items()}
        timing = measure_latency(runners, [1] * len(batches), threads=1, seconds=_SECONDS, retries=_RETRIES)
    return timing.ratio("edited", "whole").value, timing.conditions.disturbed


def _exported(model: CompressedModel, folder: Path) -> Exported:
    timed = copy.deepcopy(model)  # the export changes the tokenizer, and a training may have moved the weights
    timed.network.to("cpu")
    return export_onnx(timed, folder)


def _structure(model: CompressedModel) -> Mapping[str, Any]:
    """Return what a model's latency depends on besides its inputs."""
    return {
        "config": model.manifest.base_config,
        "shapes": {name: list(tensor.shape) for name, tensor in model.network.state_dict().items()},
        "edits": [edit.model_dump(mode="json", exclude={"kept"}) for edit in model.manifest.edits],
    }


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
