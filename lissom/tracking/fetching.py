"""The exported folder of a model given by name, downloaded from the registry if necessary."""

from pathlib import Path

from lissom.artifacts import MANIFEST, SERVING
from lissom.errors import InputError
from lissom.tracking.naming import champion, use_registry


def exported_folder(model: str | None) -> tuple[str, Path]:
    """Return the model's full name and its exported folder, fetched from the registry if it is there.

    Args:
        model: an exported folder, a `models:/` URI, or None for the registry's champion.

    Raises:
        InputError: there is no such model, or it is not exported.
    """
    model = model or champion()
    if model.startswith("models:/"):
        return model, _fetched(model)
    folder = Path(model)
    if (folder / SERVING).is_file():
        return model, folder
    if (folder / MANIFEST).is_file():
        raise InputError(f"{model} is a model directory, which only torch runs; give the exported folder")
    raise InputError(f"{model}: neither an exported folder ({SERVING}) nor models:/NAME@ALIAS")


def _fetched(uri: str) -> Path:
    import mlflow

    from lissom.tracking.store import store_errors

    use_registry()
    with store_errors(uri):
        folder = Path(mlflow.artifacts.download_artifacts(uri))
    folders = [path.parent for path in folder.glob(f"artifacts/*/{SERVING}")]
    if len(folders) != 1:
        raise InputError(f"{uri} was not registered by lissom: it holds {len(folders)} exported folders, not one")
    return folders[0]
