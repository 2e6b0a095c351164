"""Texts without the passwords that MLflow's settings hold; messages, logged params and tags go through here."""

import os
import re
from urllib.parse import unquote

STORE = "MLFLOW_TRACKING_URI"
_CREDENTIALS = re.compile(r"(?<=://)[^/\s'\"]*:[^/\s'\"]*@")
_PLACES = ("sqlite", "file")
"""Stores named by a path, in which an @ is no mark."""
_TOKENS = ("http", "https")
"""Stores whose user may be a token."""
_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def redacted(text: str) -> str:
    """Return a text without the credentials of URIs in it, nor those of the environment's MLflow settings."""
    secrets = [os.environ.get(name, "") for name in _SECRETS]
    scheme, _, rest = os.environ.get(STORE, "").partition("://")
    given, at, _ = rest.rpartition("@")  # a password may hold a slash, which ends those that the pattern finds
    if at and scheme not in _PLACES:
        user, colon, password = given.partition(":")
        if colon or scheme in _TOKENS:  # the name of a database's user alone is no secret, and may be a common word
            text = text.replace(f"{given}@", "***@")
            secrets += [password or user, unquote(password or user)]
    text = _CREDENTIALS.sub("***@", text)
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
