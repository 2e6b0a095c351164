"""Texts without the passwords that MLflow's settings hold; messages, logged params and tags go through here."""

import os
import re
from urllib.parse import unquote

STORE = "MLFLOW_TRACKING_URI"
_CREDENTIALS = re.compile(r"(?<=://)[^/\s'\"]*:[^/\s'\"]*@")
_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def redacted(text: str) -> str:
    """Return a text without the credentials of URIs in it, nor those of the environment's MLflow settings."""
    secrets = [os.environ.get(name, "") for name in _SECRETS]
    store = os.environ.get(STORE, "")
    given, at, _ = store.partition("://")[2].rpartition("@")  # a password may hold what ends others in a pattern
    if at:
        text = text.replace(f"{given}@", "***@")
        password = given.partition(":")[2] or given
        secrets += [password, unquote(password)]
    text = _CREDENTIALS.sub("***@", text)
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
