"""Predictions of a model given by name: a folder or a registered version."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lissom.artifacts import MANIFEST, SERVING
from lissom.errors import InputError
from lissom.serving.classifier import Answer, OnnxClassifier, to_answers

PREFIX = "lissom-"
MODEL_TAG = "lissom.version"
"""Tag of every registered model that lissom has made, whatever its name."""


def answer(
    texts: Sequence[str], pairs: Sequence[str] | None, model: str | None, speed: float | None = None
) -> tuple[str, list[Answer]]:
    """Return the name of the model that was used, and its answer to every text.

    Args:
        texts: the texts.
        pairs: the second texts, for tasks on pairs.
        model: an exported folder, a model directory, a `models:/` URI, or None for the registry's champion.
        speed: for a model with exits, the largest uncertainty at which an example leaves early.

    Raises:
        InputError: there is no such model, or the texts do not suit it.
    """
    if pairs is not None and len(pairs) != len(texts):
        raise InputError(f"{len(texts)} texts, but {len(pairs)} second texts; give --pair once for every text")
    model = model or champion()
    folder = Path(model)
    try:
        if model.startswith("models:/"):
            return model, _ask_registry(model, texts, pairs, speed)
        if (folder / SERVING).is_file():
            return model, OnnxClassifier(folder).predict(texts, pairs, speed)
        if (folder / MANIFEST).is_file():
            return model, _ask_torch(folder, texts, pairs, speed)
    except ValueError as error:
        raise InputError(str(error)) from None
    raise InputError(
        f"{model}: neither an exported folder ({SERVING}), a model directory ({MANIFEST}) nor models:/NAME@ALIAS"
    )


def _ask_registry(uri: str, texts: Sequence[str], pairs: Sequence[str] | None, speed: float | None) -> list[Answer]:
    import mlflow
    import pandas as pd
    from mlflow.exceptions import MlflowException

    from lissom.tracking.runs import use_store

    use_store()
    columns = {"text": list(texts)} | ({"text_pair": list(pairs)} if pairs is not None else {})
    try:
        table = mlflow.pyfunc.load_model(uri).predict(
            pd.DataFrame(columns), params=None if speed is None else {"speed": speed}
        )
    except MlflowException as error:
        hint = "; this model classifies pairs: give the second text with --pair" if "text_pair" in str(error) else ""
        raise InputError(f"{uri}: {str(error).splitlines()[0]}{hint}") from None
    return [_from_row(row) for row in table.to_dict("records")]


def _from_row(row: dict[str, Any]) -> Answer:
    """Convert a row of a registered model's output (`lissom.serving.pyfunc`) to an answer."""
    prefix = "probability_of_"
    answer = {name: value for name, value in row.items() if not name.startswith("probability")}
    probabilities = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
    return answer | ({"probabilities": probabilities} if probabilities else {})


def _ask_torch(folder: Path, texts: Sequence[str], pairs: Sequence[str] | None, speed: float | None) -> list[Answer]:
    import tempfile

    from lissom.data.tables import Row, write_table
    from lissom.models.directory import load
    from lissom.training.predicting import predict

    if speed is not None:
        raise InputError(f"{folder} is run by torch at full depth; give the exported folder to leave early")
    model = load(folder)
    task = model.manifest.task
    if task.pair != (pairs is not None):
        raise InputError(f"this model classifies {'pairs of texts: give --pair' if task.pair else 'single texts'}")
    with tempfile.TemporaryDirectory() as scratch:
        seconds: Sequence[str | None] = pairs or [None] * len(texts)
        rows = (Row(text, pair, None) for text, pair in zip(texts, seconds, strict=True))
        table = write_table(Path(scratch) / "texts.arrow", rows)
        data = task.encode([table], model.tokenizer, Path(scratch) / "tokens")
        return to_answers(predict(model.network, data, model.pad_id).numpy(), task.serving())


def champion() -> str:
    """Return the URI of the only registered model of lissom: its champion, or else its challenger.

    Raises:
        InputError: there is no registry, or not exactly one such model in it.
    """
    import mlflow

    from lissom.tracking.runs import DEFAULT_STORE, use_store

    use_store()
    store = os.environ["MLFLOW_TRACKING_URI"]
    if store == DEFAULT_STORE and not Path(store.removeprefix("sqlite:///")).exists():
        raise InputError(
            f"there is no registry in this folder ({store}); run `lissom compress` or `dvc repro` here first, set "
            "MLFLOW_TRACKING_URI, or name a folder with --model"
        )
    models = mlflow.MlflowClient().search_registered_models()
    candidates = [model for model in models if model.name.startswith(PREFIX) or MODEL_TAG in model.tags]
    if len(candidates) != 1:
        names = ", ".join(model.name for model in candidates) or "none"
        raise InputError(
            f"the registry has these models of lissom: {names}; name one with --model (a folder or models:/NAME@ALIAS)"
        )
    for alias in ("champion", "challenger"):
        if alias in candidates[0].aliases:
            return f"models:/{candidates[0].name}@{alias}"
    raise InputError(
        f"{candidates[0].name} has no champion and no challenger: its gates failed; name a version with --model"
    )
