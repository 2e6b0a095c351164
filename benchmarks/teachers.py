"""Teachers of the benchmarks, made by the library alone: no DVC, no MLflow, and on an accelerator if there is one.

Kept below benchmarks/work, for each data set and seed, and made anew when code or params have changed.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.data import write_data
from benchmarks.provenance import ROOT, code_digest, data_digest
from lissom.artifacts import atomic_folder, read_json, write_json
from lissom.data.config import DataParams
from lissom.data.prepare import load_card, load_table, prepare
from lissom.data.tables import Table
from lissom.models.base import load_base
from lissom.models.config import BaseParams
from lissom.models.directory import save
from lissom.tasks.kinds import task_of
from lissom.training.config import TrainingParams
from lissom.training.lesson import Lesson
from lissom.training.loop import autocast_type
from lissom.training.losses import against_targets
from lissom.training.predicting import score
from lissom.training.teacher import cache_logits, save_logits

_SPLITS = ("train", "transfer", "dev", "test")
_RECORD = "teacher.json"


@dataclass(frozen=True)
class Trained:
    """A fine-tuned teacher with its data."""

    folder: Path
    """Holds `model`, `logits` (of train and transfer) and `data`, the prepared splits."""
    base: BaseParams
    accuracy: float
    """On test."""
    data: str
    """Digest of the data."""

    def tables(self) -> dict[str, Table]:
        """Return the splits."""
        return {split: load_table(self.folder / "data", split) for split in _SPLITS}


def params_of(name: str) -> dict[str, Any]:
    """Return the params of a data set's teacher."""
    values = yaml.safe_load((ROOT / "benchmarks" / "params" / f"{name}.yaml").read_text(encoding="utf-8"))
    return {section: values[section] for section in ("base", "data", "teacher")}


def teacher_of(name: str, seed: int, *, base: str | None = None, rehearse: bool = False) -> Trained:
    """Return the teacher of a data set and seed; it is fine-tuned first if there is none.

    Args:
        name: the data set, one of `benchmarks.data.SETS`.
        seed: seed of the fine-tuning.
        base: where the base model is, if not where the params say; its digest must be the same.
        rehearse: take a few texts and steps only.
    """
    params = params_of(name)
    suffix = "-rehearsed" if rehearse else ""
    places = ROOT / "benchmarks" / "work" / "data" / f"{name}{suffix}"
    write_data(name, places, rehearse=rehearse)
    texts = {**params["data"], "source": f"files:{places}"}
    if "transfer" in texts:
        texts["transfer"] = str(places / Path(texts["transfer"]).name)
    training = TrainingParams.model_validate({**params["teacher"], "seed": seed})
    if rehearse:
        texts |= {"transfer_examples": None}
        training = training.model_copy(update={"epochs": 0.2})
    base_params = BaseParams.model_validate(params["base"] | ({} if base is None else {"model": base}))
    digest = data_digest(places)
    wanted = {
        "code": code_digest(Path(__file__), (), params), "data": digest, "training": training.model_dump(mode="json"),
        "texts": json.loads(DataParams.model_validate(texts).model_dump_json()),
    }  # fmt: skip
    folder = ROOT / "benchmarks" / "work" / "teachers" / f"{name}-{seed}{suffix}"
    if not (folder / _RECORD).is_file() or read_json(folder / _RECORD)["of"] != wanted:
        with atomic_folder(folder) as target:
            accuracy = _fine_tune(DataParams.model_validate(texts), base_params, training, target)
            write_json(target / _RECORD, {"of": wanted, "accuracy": accuracy})
    return Trained(folder, base_params, float(read_json(folder / _RECORD)["accuracy"]), digest)


def _fine_tune(texts: DataParams, base: BaseParams, training: TrainingParams, target: Path) -> float:
    """Write data, model and logits; return the accuracy on test."""
    scratch = target / "scratch"
    for folder in (scratch, target / "data", target / "logits"):
        folder.mkdir()
    prepare(texts, target / "data")
    lesson = Lesson(tables={split: load_table(target / "data", split) for split in _SPLITS}, scratch=scratch)
    task = task_of(load_card(target / "data"), base.max_length)
    model = load_base(base, task, training.seed)
    lesson.train(
        "training", model.network, lesson.encode(model, "train"), model.pad_id, against_targets(task), training,
        identity="fine_tune", score=lesson.scorer(model, training),
    )  # fmt: skip
    precision = autocast_type(training.precision)
    save_logits(
        cache_logits(model.network, lesson.texts(model), model.pad_id, precision, model.manifest.task),
        target / "logits",
    )
    accuracy = score(model.network, lesson.encode(model, "test"), model.pad_id, task, autocast_type("float32"))
    save(model, target / "model")
    shutil.rmtree(scratch)
    return accuracy
