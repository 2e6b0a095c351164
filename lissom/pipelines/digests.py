"""Digests of files, folders and values, by which a finished stage is recognised as up to date."""

import hashlib
import json
from pathlib import Path
from typing import Any

import lissom


class Digests:
    """Computes digests; a file is read again only after its size or its time of change differs."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, int, int], str] = {}
        self._package = ""

    def of_value(self, value: Any) -> str:
        """Return the digest of a value that JSON can hold."""
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

    def of_path(self, path: Path) -> str:
        """Return the digest of a file, or of the names and contents in a folder; empty if there is neither."""
        if path.is_file():
            return self._of_file(path)
        files = sorted(item for item in path.rglob("*") if item.is_file())
        return self.of_value([[str(file.relative_to(path)), self._of_file(file)] for file in files]) if files else ""

    def of_package(self) -> str:
        """Return the digest of lissom's own code."""
        if not self._package:
            root = Path(str(lissom.__file__)).parent
            sources = sorted(root.rglob("*.py"))
            self._package = self.of_value([[str(path.relative_to(root)), self._of_file(path)] for path in sources])
        return self._package

    def _of_file(self, path: Path) -> str:
        status = path.stat()
        key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
        if key not in self._files:
            with path.open("rb") as file:
                self._files[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._files[key]
