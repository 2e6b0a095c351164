"""The model that is meant when none is named: the registry's champion."""

import os
from pathlib import Path

from lissom.errors import InputError
from lissom.redaction import STORE

PREFIX = "lissom-"
MODEL_TAG = "lissom.version"
"""Tag of every registered model that lissom has made, whatever its name."""


def use_registry() -> None:
    """Make MLflow use the store of the environment, or else that of the working folder.

    Raises:
        InputError: there is none in the working folder; MLflow would create it.
    """
    from lissom.tracking.runs import DEFAULT_STORE, use_store

    use_store()
    store = os.environ[STORE]
    if store == DEFAULT_STORE and not Path(store.removeprefix("sqlite:///")).exists():
        raise InputError(
            f"there is no registry in this folder ({store}); run `lissom compress` or `dvc repro` here first, set "
            "MLFLOW_TRACKING_URI, or name a folder with --model"
        )


def champion() -> str:
    """Return the URI of the only registered model of lissom: its champion, or else its challenger.

    Raises:
        InputError: there is no registry, or not exactly one such model in it.
    """
    import mlflow

    from lissom.tracking.store import store_errors

    use_registry()
    with store_errors("the registry's champion"):
        client = mlflow.MlflowClient()
        models = found = client.search_registered_models()
        while found.token:  # a page has a hundred
            found = client.search_registered_models(page_token=found.token)
            models = [*models, *found]
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
