"""Short descriptions of models for `lissom inspect` and `lissom compare`."""

from pathlib import Path

from lissom.artifacts import WEIGHTS
from lissom.errors import InputError
from lissom.models.anatomy import anatomy
from lissom.models.directory import build
from lissom.models.manifest import Manifest, Step, read_manifest
from lissom.tracking.naming import use_registry


def describe(model: str) -> dict[str, str]:
    """Return titles and texts for a model directory, or for a version in the registry, `models:/NAME/VERSION`.

    Raises:
        InputError: there is no such model.
    """
    return _describe_version(model) if model.startswith("models:/") else _describe_folder(Path(model))


def _describe_folder(folder: Path) -> dict[str, str]:
    if folder.is_file():
        raise InputError(f"{folder}: a file; name a model directory, or use --blocks for the sizes of a GGUF file")
    manifest = read_manifest(folder)
    parts = anatomy(build(manifest))
    sizes = [
        f"{parts.total:,} in all: {parts.embeddings:,} embeddings ({parts.vocabulary:,} tokens), "
        f"{parts.attention:,} attention, {parts.ffn:,} FFN, {parts.other:,} norms and head"
    ]
    sizes += [f"{block.name}: {block.heads} heads, {block.neurons} neurons" for block in parts.blocks]
    return {
        "base": manifest.base,
        "task": f"{manifest.task.name}: {manifest.task.describe()}; at most {manifest.task.max_length} tokens",
        "edits": "\n".join(f"{number}. {edit.describe()}" for number, edit in enumerate(manifest.edits, start=1)),
        "parameters": "\n".join(sizes),
        "file": f"{WEIGHTS}: {(folder / WEIGHTS).stat().st_size / 1e6:.2f} MB",
        "lineage": "\n".join(_lineage(manifest)),
        "energy": f"{sum(map(_watt_hours, manifest.steps)):.3g} Wh in all steps ({_methods(manifest)})",
    }


def _lineage(manifest: Manifest) -> list[str]:
    lines = []
    for step in manifest.steps:
        score = step.metrics.get("dev_score")
        score_text = f", dev {manifest.task.metric.name} {score:.3f}" if isinstance(score, float) else ""
        lines.append(
            f"{step.stage} ({step.method}){score_text}, {_watt_hours(step):.3g} Wh ({step.cost.get('method')}), "
            f"run {step.run_id}"
        )
    return lines


def _methods(manifest: Manifest) -> str:
    """Return whether the energy was measured or modelled; both if it differs between steps."""
    return " and ".join(sorted({str(step.cost.get("method")) for step in manifest.steps}))


def _watt_hours(step: Step) -> float:
    return float(step.cost.get("energy_kwh") or 0) * 1000


def _describe_version(uri: str) -> dict[str, str]:
    import mlflow

    from lissom.tracking.store import store_errors

    name, at, alias = uri.removeprefix("models:/").partition("@")
    number = "" if at else name.partition("/")[2]
    if not (alias if at else number):
        raise InputError(f"{uri}: write models:/NAME/VERSION or models:/NAME@ALIAS")
    use_registry()
    with store_errors(uri):
        client = mlflow.MlflowClient()
        if at:
            version = client.get_model_version_by_alias(name, alias)
        else:
            version = client.get_model_version(name.partition("/")[0], number)
    aliases = ", ".join(version.aliases) or "none"
    tags = {
        key.removeprefix("lissom."): value for key, value in sorted(version.tags.items()) if key.startswith("lissom.")
    }
    return {"version": f"{version.name} {version.version}", "aliases": aliases, "run": version.run_id, **tags}
