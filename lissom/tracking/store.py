"""Failures of MLflow's store, reported in one line with fitting advice."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from lissom.ending import ADVICE
from lissom.errors import InputError
from lissom.redaction import STORE, redacted

_OF_DATABASE = {
    "database is locked": "another process writes to the database: run again when it has ended",
    "readonly database": "the database cannot be written: change the owner or the mode of its file and folder",
    "database or disk is full": ADVICE[errno.ENOSPC],
    "unable to open database file": "its folder is missing or cannot be read: create it or change its mode",
}
"""Advice by what SQLite says (sqlite.org/rescode.html)."""


@contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Convert errors of MLflow, its database and the network to `InputError`, in one line with advice.

    Args:
        doing: what the block does, for the message.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        if isinstance(error, OSError) and error.errno in ADVICE:
            raise  # a full disk, say, is no fault of the store
        raise InputError(store_message(doing, error)) from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("sqlalchemy", "alembic", "sqlite3"):
            raise  # sqlalchemy is no dependency where only MLflow's client is installed, as in the serve image
        raise InputError(store_message(doing, error)) from None


def store_message(doing: str, error: Exception) -> str:
    """Return what failed, at which store, why, and what to do."""
    store = redacted(os.environ.get(STORE, ""))
    lines = redacted(str(error)).strip().splitlines() or [type(error).__name__]
    return f"{doing}: MLflow at {store} fails: {lines[0][:300]}; {_advice(store, str(error))}"


def _advice(store: str, message: str) -> str:
    if "deleted state" in message or "deleted experiment" in message or "lifecycle_stage" in message:
        return "restore it with `mlflow experiments restore`, or set tracking.experiment to another name"
    if "RESOURCE_DOES_NOT_EXIST" in message or "not found" in message:
        return "look up names, versions and aliases in the registry"
    for words, advice in _OF_DATABASE.items():
        if words in message:
            return advice
    if store.startswith("sqlite:"):
        return f"the database may be damaged or of another version of MLflow: restore it, or set {STORE} to another"
    return f"set {STORE} to a server that is up, or unset it for a local mlflow.db"
