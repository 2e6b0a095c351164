"""One row of benchmarks/distillation.py: a student distilled by a recipe, and its accuracy on test."""

import copy
import importlib.util
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from benchmarks.provenance import ROOT
from benchmarks.teachers import Trained
from lissom.data.tables import write_table
from lissom.distill.config import DistillParams
from lissom.distill.material import DistillationResult, Material
from lissom.distill.run import distill
from lissom.emissions.meter import EnergyMeter
from lissom.models.base import load_base
from lissom.models.directory import load
from lissom.training.config import TrainingParams
from lissom.training.teacher import CachedLogits, load_logits

BATCH = 32

Further = Callable[[DistillationResult, Material, Material, Path], dict[str, Any]]
"""Takes a student, its material, the same with test in the place of dev, and a folder to write to."""


@cache
def recipes() -> dict[str, dict[str, Any]]:
    """Return the recipes of all methods."""
    text = (ROOT / "benchmarks" / "distillation.yaml").read_text(encoding="utf-8")
    methods: dict[str, dict[str, Any]] = yaml.safe_load(text)["methods"]
    return methods


def measure(teacher: Trained, name: str, updates: int, seed: int, further: Further | None = None) -> dict[str, Any]:
    """Distil with a method and return the row's figures.

    Args:
        teacher: the teacher, with its data.
        name: the recipe's name.
        updates: steps of a student that starts from a trained network; recipes may take several times as many.
        seed: seed of the trainings.
        further: measures more of the student, and adds its figures.
    """
    recipe = copy.deepcopy(recipes()[name])
    with tempfile.TemporaryDirectory() as folder:
        material = _material(teacher, Path(folder), with_transfer=recipe.pop("transfer", True))
        params = _params(recipe, material, updates, seed)
        started = time.perf_counter()
        student, kwh = _metered(params, material)
        seconds = time.perf_counter() - started
        test = _with_dev(material)
        figures: dict[str, Any] = {
            "accuracy_percent": 100 * test.scorer(student.model, TrainingParams(precision="float32"))(),
            "teacher_percent": 100 * teacher.accuracy,
            "updates": sum(fitted.steps for fitted in student.trainings.values()),
            "parameters_m": sum(parameter.numel() for parameter in student.model.network.parameters()) / 1e6,
            "seconds": seconds,
            "wh": None if kwh is None else 1000 * kwh,
        }
        return figures | ({} if further is None else further(student, material, test, Path(folder)))


def _metered(params: Any, material: Material) -> tuple[DistillationResult, float | None]:
    """Distil; return the energy in kWh, too, where CodeCarbon is installed."""
    if importlib.util.find_spec("codecarbon") is None:
        return distill(params, material), None
    with EnergyMeter("DEU") as meter:
        student = distill(params, material)
    return student, meter.reading.energy_kwh


def _with_dev(material: Material) -> Material:
    """Return the material with test in the place of dev."""
    return Material(**{**vars(material), "tables": {**material.tables, "dev": material.tables["test"]}})


def _material(teacher: Trained, folder: Path, *, with_transfer: bool) -> Material:
    tables = teacher.tables()
    logits = load_logits(teacher.folder / "logits", len(tables["train"]) + len(tables["transfer"]))
    if not with_transfer:
        tables["transfer"] = write_table(folder / "none.arrow", [])
        logits = CachedLogits(logits.values[: len(tables["train"])])
    model = load(teacher.folder / "model")
    task = model.manifest.task
    return Material(
        teacher=model,
        tables=tables,
        scratch=folder,
        logits=logits,
        base=lambda drawn: load_base(teacher.base, task, drawn),
    )


def _params(recipe: Mapping[str, Any], material: Material, updates: int, seed: int) -> Any:
    """Return the method's params with epochs such that all its trainings together make the wanted updates."""
    values = copy.deepcopy(dict(recipe))
    updates *= values.pop("times", 1)
    examples = len(material.tables["train"]) + len(material.tables["transfer"])
    if values["method"] == "lstm" and values.get("augmentation", {}) is not None:
        copies = max(1, updates * BATCH // (2 * examples))
        values["augmentation"] = {"copies": copies, "seed": seed}
        # More texts than the updates reach are of no use, and how many are duplicates is only known afterwards.
        examples += int(0.97 * copies * len(material.tables["train"]))
    for section, training in values.items():
        if section.endswith("training"):
            share = training.pop("share", 1.0)
            training |= {"epochs": share * updates * BATCH / examples, "seed": seed}
    for number, peer in enumerate(values.get("peers", ())):
        peer["seed"] = 2 * seed + number
    return TypeAdapter(DistillParams).validate_python(values)
