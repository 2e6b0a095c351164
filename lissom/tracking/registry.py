"""The model registry: a version is registered, loaded and verified before any alias moves."""

import importlib.metadata
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import lissom
from lissom.artifacts import SERVING, read_json
from lissom.errors import GateError, InputError
from lissom.export.exported import read_record
from lissom.models.directory import file_sha256
from lissom.report.ledger import Ledger
from lissom.section import Section
from lissom.serving import classifier, pyfunc
from lissom.tracking.config import GatesParams

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"
TAGS = ("score", "score_drop", "speedup", "megabytes", "sha256", "task", "base")

_SERVED_WITH = ("mlflow", "numpy", "onnxruntime", "pandas", "tokenizers")
_TOLERANCE = 1e-6


class Registered(Section):
    """Result of a registration."""

    name: str
    version: str
    aliases: tuple[str, ...]
    champion_before: str | None
    reason: str
    """Why the version is champion, or why not."""


def failed_gates(ledger: Ledger, gates: GatesParams) -> list[str]:
    """Return a message for every gate that the final artefact fails."""
    teacher, final = ledger.rows[0], ledger.rows[-1]
    drop = ledger.metric.drop(teacher.score, final.score)
    failures = []
    if drop > gates.max_score_drop:
        failures.append(
            f"{ledger.metric.name} is worse than the teacher's by {drop:.4f}, gates.max_score_drop is "
            f"{gates.max_score_drop}"
        )
    if final.speedup < gates.min_speedup:
        failures.append(f"{final.speedup:.2f}x faster than the teacher, gates.min_speedup is {gates.min_speedup}")
    if final.megabytes > gates.max_megabytes:
        failures.append(f"{final.megabytes:.2f} MB, gates.max_megabytes is {gates.max_megabytes}")
    return failures


def register(exported: Path, name: str, card: str, tags: Mapping[str, str], sample: pd.DataFrame) -> str:
    """Log the exported folder as a pyfunc to the open run and register it; return the version.

    If the artefact is registered already, its version is returned, so that a rerun does not add versions.

    Args:
        exported: folder of the ONNX file.
        name: name of the registered model.
        card: description.
        tags: tags of the version.
        sample: some inputs, with columns `text` and, for pairs, `text_pair`.
    """
    import mlflow
    from mlflow.models import infer_signature

    client = mlflow.MlflowClient()
    version = _same_artifact(client, name, tags)
    if version is None:
        answers = _answers(exported, sample)
        with tempfile.TemporaryDirectory() as folder:
            model_info = mlflow.pyfunc.log_model(
                name="model",
                python_model=pyfunc.__file__,
                artifacts={pyfunc.ARTIFACT: str(exported)},
                code_paths=[str(_serving_code(Path(folder)))],
                signature=infer_signature(sample, answers, params=_params(exported)),
                input_example=sample.head(2),
                pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in _SERVED_WITH],
                registered_model_name=name,
            )
        version = str(model_info.registered_model_version)
    client.update_model_version(name, version, description=card)
    for key, value in tags.items():
        client.set_model_version_tag(name, version, f"lissom.{key}", value)
    return version


def verify(exported: Path, name: str, version: str, sample: pd.DataFrame) -> None:
    """Load a version from the registry and compare its answers with those of the exported folder.

    Raises:
        InputError: it does not load, or its answers differ.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        model = mlflow.pyfunc.load_model(f"models:/{name}/{version}")
        answers = model.predict(sample)
    except (MlflowException, OSError, ImportError, RuntimeError, ValueError) as error:
        raise InputError(f"{name} version {version} does not load from the registry: {error}") from error
    reference = _answers(exported, sample)
    numbers = reference.columns.drop("label", errors="ignore")
    labels_agree = "label" not in reference or (answers["label"] == reference["label"]).all()
    if not labels_agree or np.abs(answers[numbers].to_numpy() - reference[numbers].to_numpy()).max() > _TOLERANCE:
        raise InputError(f"{name} version {version} answers otherwise than the artefact that was registered")


def move_aliases(name: str, version: str, ledger: Ledger, gates: GatesParams) -> Registered:
    """Make the version challenger, and champion if it passes the gates and beats the present champion.

    Raises:
        GateError: a gate is not passed. No alias moves then.
    """
    import mlflow

    failures = failed_gates(ledger, gates)
    if failures:
        reasons = "\n".join(f"  {failure}" for failure in failures)
        raise GateError(f"{name} version {version} is registered without an alias:\n{reasons}")
    client = mlflow.MlflowClient()
    _set_alias(client, name, CHALLENGER, version)
    champion = client.get_registered_model(name).aliases.get(CHAMPION)
    if champion is None or str(champion) == version:
        better, reason = True, "the first version that passes the gates" if champion is None else "champion already"
    else:
        better, reason = _beats(client.get_model_version(name, champion).tags, ledger)
    if better:
        _set_alias(client, name, CHAMPION, version)
    return Registered(
        name=name,
        version=version,
        aliases=(CHALLENGER, CHAMPION) if better else (CHALLENGER,),
        champion_before=None if champion is None else str(champion),
        reason=reason,
    )


def _set_alias(client: "MlflowClient", name: str, alias: str, version: str) -> None:
    """Set an alias; retried once if another process sets it at the same time and the database refuses."""
    from mlflow.exceptions import MlflowException

    try:
        client.set_registered_model_alias(name, alias, version)
    except MlflowException as error:
        if "registered_model_alias" not in str(error):
            raise
        client.set_registered_model_alias(name, alias, version)


def version_tags(ledger: Ledger, exported: Path, base: str) -> dict[str, str]:
    """Return the tags by which versions are compared and searched."""
    teacher, final = ledger.rows[0], ledger.rows[-1]
    return {
        "score": f"{final.score:.6f}",
        "score_name": ledger.metric.name,
        "score_drop": f"{ledger.metric.drop(teacher.score, final.score):.6f}",
        "speedup": f"{final.speedup:.3f}",
        "megabytes": f"{final.megabytes:.6f}",
        "sha256": file_sha256(exported / next(iter(read_record(exported).files))),
        "speed": str(read_json(exported / SERVING).get("speed")),
        "task": ledger.task,
        "base": base,
        "lissom_version": lissom.__version__,
    }


def _beats(champion: Mapping[str, str], ledger: Ledger) -> tuple[bool, str]:
    """Return whether the final artefact replaces the champion, and why.

    It does if its score is not worse, and its score, speed or size is better.
    """
    final, metric = ledger.rows[-1], ledger.metric
    score, speedup, megabytes = (float(champion[f"lissom.{key}"]) for key in ("score", "speedup", "megabytes"))
    final_score = round(final.score, 6)  # rounded as in the tags, so that a version does not beat itself
    if metric.improves(score, final_score):
        return False, f"{metric.name} {final.score:.4f} is worse than the champion's {score:.4f}"
    better = [
        reason
        for reason, wins in (
            (f"better in {metric.name}", metric.improves(final_score, score)),
            ("faster", round(final.speedup, 3) > speedup),
            ("smaller", round(final.megabytes, 6) < megabytes),
        )
        if wins
    ]
    if better:
        return True, f"{' and '.join(better)} than the champion before, and not worse in {metric.name}"
    return False, "equal to the champion, but neither faster nor smaller"


def _same_artifact(client: Any, name: str, tags: Mapping[str, str]) -> str | None:
    for version in client.search_model_versions(f"name = '{name}'"):
        if all(version.tags.get(f"lissom.{key}") == tags[key] for key in ("sha256", "speed")):
            return str(version.version)
    return None


def _answers(exported: Path, sample: pd.DataFrame) -> pd.DataFrame:
    context = type("Context", (), {"artifacts": {pyfunc.ARTIFACT: str(exported)}})()
    model = pyfunc.TextClassifier()
    model.load_context(context)
    return model.predict(context, sample)


def _params(exported: Path) -> dict[str, float] | None:
    """Return the params of a request with their defaults: the speed of a model with exits, or None."""
    speed = read_json(exported / SERVING).get("speed")
    return None if speed is None else {"speed": speed}


def _serving_code(folder: Path) -> Path:
    """Copy the part of lissom that serving needs: `lissom/__init__.py` and `lissom.serving`."""
    package = folder / "lissom"
    package.mkdir()
    shutil.copy(Path(lissom.__file__), package)
    shutil.copytree(Path(classifier.__file__).parent, package / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    return package
