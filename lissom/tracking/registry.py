"""The model registry: a version is registered, loaded and verified before any alias moves."""

import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import lissom
from lissom.artifacts import EXPORT_RECORD, MODEL_CARD, SERVING, read_json
from lissom.errors import GateError, InputError
from lissom.export.exported import read_record
from lissom.models.directory import file_sha256
from lissom.report.advice import advice
from lissom.report.ledger import Ledger
from lissom.section import Section
from lissom.serving import classifier, pyfunc
from lissom.tracking.champion import source_digest
from lissom.tracking.config import GatesParams
from lissom.tracking.naming import MODEL_TAG, PREFIX
from lissom.tracking.runs import escaped, shortened

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"

_SERVED_WITH = ("mlflow", "numpy", "onnxruntime", "pandas", "tokenizers")
_TOLERANCE = 1e-6
_LONGEST_NAME = 200
_LONGEST_DESCRIPTION = 5000
"""MLflow's column; SQLite takes more, PostgreSQL refuses it."""


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
    final, drop = ledger.rows[-1], ledger.headline.drop.value
    failures = []
    if drop > gates.max_score_drop:
        failures.append(
            f"{ledger.metric.name} is worse than the teacher's by {drop:.4f}, gates.max_score_drop is "
            f"{gates.max_score_drop}" + (f"; {lost}" if (lost := advice(ledger)) else "")
        )
    disturbed = ledger.headline.conditions.disturbed
    if gates.min_speedup and disturbed is not None:
        failures.append(
            f"the speed is uncertain, so that gates.min_speedup is not passed: {disturbed}; when the machine is "
            "quiet, remove the folder metrics/evaluate/quantize and run the pipeline again"
        )
    elif gates.min_speedup:
        failures += [
            f"{speedup.value:.2f}x faster than the teacher's baseline {baseline} (95 % interval {speedup.low:.2f} to "
            f"{speedup.high:.2f}), gates.min_speedup.{baseline} is {least}"
            for baseline, least in gates.min_speedup.items()
            if (speedup := ledger.headline.speedups[baseline]).low < least
        ]
    if final.megabytes > gates.max_megabytes:
        failures.append(f"{final.megabytes:.2f} MB, gates.max_megabytes is {gates.max_megabytes}")
    return failures


def default_name(data: str) -> str:
    """Return the name of the registered model for a data set: `lissom-` and the name of the data, escaped."""
    return shortened(PREFIX + escaped(data).replace("/", escaped("/")), _LONGEST_NAME)


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
                artifacts={pyfunc.ARTIFACT: os.path.relpath(exported)},  # MLmodel holds it as it is given
                code_paths=[str(_serving_code(Path(folder)))],
                signature=infer_signature(sample, answers, params=_params(exported)),
                input_example=sample.head(2),
                pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in _SERVED_WITH],
                registered_model_name=name,
            )
        version = str(model_info.registered_model_version)
    client.set_registered_model_tag(name, MODEL_TAG, lissom.__version__)
    client.update_model_version(name, version, description=description_of(card))
    for key, value in tags.items():
        client.set_model_version_tag(name, version, f"lissom.{key}", value)
    return version


def description_of(card: str) -> str:
    """Return what a registry's database holds of a model card: without the metadata for the hub, cut after a line.

    The whole card is a file of the run that registers the version.
    """
    _, separator, body = card.removeprefix("---\n").partition("---\n")
    text = body.lstrip() if separator else card
    if len(text) <= _LONGEST_DESCRIPTION:
        return text
    end = f"\n\n(cut; the whole card is {MODEL_CARD} of this version's run)\n"
    return text[: text.rindex("\n", 0, _LONGEST_DESCRIPTION - len(end))] + end


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
    texts = [name for name in ("label", "spans", "truncated", "continuation", "translation") if name in reference]
    numbers = reference.columns.drop(texts)
    texts_agree = all((answers[name] == reference[name]).all() for name in texts)
    if (
        not texts_agree
        or np.abs(answers[numbers].to_numpy() - reference[numbers].to_numpy()).max(initial=0) > _TOLERANCE
    ):
        raise InputError(f"{name} version {version} answers otherwise than the artefact that was registered")


def move_aliases(
    name: str,
    version: str,
    ledger: Ledger,
    gates: GatesParams,
    source: str | None,
    differs: Callable[[str], str | None],
    duel: Callable[[str], tuple[bool, str]],
) -> Registered:
    """Make the version challenger, and champion if it passes the gates and beats the present champion.

    Args:
        name: name of the registered model.
        version: the version.
        ledger: its figures, for the gates.
        gates: the gates.
        source: the params' `data.source`; versions of another one do not compete. None if the model's name was chosen,
            which says that all its versions answer one question.
        differs: returns why the version and the champion, which is given by its `models:/` URI, answer different
            questions, or None; if they do, no alias moves.
        duel: compares the version with the champion, which is given by its `models:/` URI; returns whether it is
            better, and why.

    Raises:
        GateError: a gate is not passed. No alias moves then.
    """
    import mlflow

    failures = failed_gates(ledger, gates)
    if failures:
        reasons = "\n".join(f"  {failure}" for failure in failures)
        raise GateError(f"{name} version {version} is registered without an alias:\n{reasons}")
    client = mlflow.MlflowClient()
    champion = client.get_registered_model(name).aliases.get(CHAMPION)
    is_rival = champion is not None and str(champion) != version
    reason = None
    if is_rival:
        tags = client.get_model_version(name, str(champion)).tags
        reason = _other_source(name, tags, source) or differs(f"models:/{name}/{champion}")
    if reason is not None:
        return Registered(name=name, version=version, aliases=(), champion_before=str(champion), reason=reason)
    _set_alias(client, name, CHALLENGER, version)
    if not is_rival:
        better, reason = True, "the first version that passes the gates" if champion is None else "champion already"
    else:
        better, reason = duel(f"models:/{name}/{champion}")
    if better:
        _set_alias(client, name, CHAMPION, version)
    return Registered(
        name=name,
        version=version,
        aliases=(CHALLENGER, CHAMPION) if better else (CHALLENGER,),
        champion_before=None if champion is None else str(champion),
        reason=reason,
    )


def _other_source(name: str, champion: Mapping[str, str], source: str | None) -> str | None:
    if source is None or champion.get("lissom.source") in (None, source_digest(source)):
        return None
    return (
        f"the champion was made from other data of the same name, or from the same data at another place than "
        f"{source}; set tracking.registered_model to a name of its own, or to {name} if both are the same question"
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


def version_tags(ledger: Ledger, exported: Path, base: str, source: str) -> dict[str, str]:
    """Return the tags by which versions are searched; all but that of the source decide nothing."""
    final = ledger.rows[-1]
    kind, _, place = base.partition(":")
    return {
        "score": f"{final.score:.6f}",
        "score_name": ledger.metric.name,
        "score_drop": f"{ledger.headline.drop.value:.6f}",
        **{f"speedup_{name}": f"{speedup.value:.3f}" for name, speedup in ledger.headline.speedups.items()},
        "disturbed": str(ledger.headline.conditions.disturbed is not None).lower(),
        "megabytes": f"{final.megabytes:.6f}",
        "sha256": file_sha256(exported / next(iter(read_record(exported).files))),
        "files_sha256": _files_digest(exported),
        "task": ledger.task,
        "source": source_digest(source),
        "base": f"dir:{PurePath(place).name}" if kind == "dir" else base,  # not where it lies on this machine
        "lissom_version": lissom.__version__,
    }


def _same_artifact(client: Any, name: str, tags: Mapping[str, str]) -> str | None:
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get("lissom.files_sha256") == tags["files_sha256"]:
            return str(version.version)
    return None


def _files_digest(exported: Path) -> str:
    """Return a digest of all that is registered, the record of the export left out, which has times."""
    digest = hashlib.sha256()
    for path in sorted(path for path in exported.rglob("*") if path.is_file() and path.name != EXPORT_RECORD):
        digest.update(f"{path.relative_to(exported).as_posix()} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


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
