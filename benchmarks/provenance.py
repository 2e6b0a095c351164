"""Where a measurement comes from: commit, digests of code and data, machine, versions, date.

A row of a result is old when the digest of the code that it measures differs from that of the present tree.
"""

import ast
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lissom.machine import describe_machine, describe_versions
from lissom.pipelines.imports import FRAME, FRAME_MODULES, imports

ROOT = Path(__file__).parents[1]

_RECORDING = {f"benchmarks.{name}" for name in ("claims", "pages", "provenance", "readme", "results")}
_TELLING = {"claims", "figure", "main", "NOTES"}
"""Definitions of a benchmark's script that tell what was measured, and do not measure."""
_MEASURED_FRAME = FRAME - {"emissions"}


def code_digest(
    script: Path, stages: Iterable[str], settings: Any, root: Path = ROOT, *, part: Path | None = None
) -> str:
    """Return a digest of the code that a benchmark measures, comments, docstrings and formatting left out.

    The files are the script, the work of the pipeline's stages that it runs, and all modules of the project that
    these import, except the frame (console, params and so on) and what only records results.

    Args:
        script: the benchmark's file, of which definitions that only tell what was measured do not count.
        stages: names of stages that are run as commands, not imported.
        settings: further values that the row depends on, as JSON; other rows of the same script may have others.
        root: the tree.
        part: file that measures a row by itself, in place of the script.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in _files(part or script, tuple(stages), root):
        leave_out = _TELLING if path == script else set()
        digest.update(f"{path.relative_to(root)} {_structure_digest(path, frozenset(leave_out))}\n".encode())
    return digest.hexdigest()[:16]


def data_digest(folder: Path) -> str:
    """Return a digest of the names and bytes of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def environment() -> dict[str, Any]:
    """Return machine and versions; with an accelerator, its name too."""
    machine = describe_machine()
    if torch.cuda.is_available():
        machine["accelerator"] = torch.cuda.get_device_name()
    return {"machine": machine, "versions": describe_versions()}


def environment_id(values: Mapping[str, Any]) -> str:
    """Return the name under which a result file keeps an environment."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def today() -> str:
    """Return the date, in UTC."""
    return datetime.now(UTC).date().isoformat()


@cache
def commit(root: Path = ROOT) -> tuple[str, bool | None]:
    """Return the commit of the tree when first asked, and whether the tree differed, results and README left out.

    Where there is no git repository, LISSOM_COMMIT names the commit, and nothing is known about differences.
    """
    try:
        head = _git(root, "rev-parse", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "--", ".", ":!benchmarks/results", ":!README.md")
    except (OSError, subprocess.CalledProcessError):
        named = os.environ.get("LISSOM_COMMIT", "")
        if not named:
            sys.exit(
                f"{root} is no git repository: set LISSOM_COMMIT to the commit of this tree, for the results to name it"
            )
        return named, None
    return head, bool(changed.strip())


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout


@cache
def _files(script: Path, stages: tuple[str, ...], root: Path) -> list[Path]:
    queue = [script, *(root / "lissom" / "components" / stage / "work.py" for stage in stages)]
    files: set[Path] = set()
    while queue:
        path = queue.pop()
        if path in files:
            continue
        files.add(path)
        for name in imports(path, root):
            parts = name.split(".")
            in_frame = name in FRAME_MODULES or (parts[0] == "lissom" and parts[1:] and parts[1] in _MEASURED_FRAME)
            if in_frame or name in _RECORDING:
                continue
            module = root / name.replace(".", "/")
            target = module.with_suffix(".py")
            queue.append(target if target.exists() else module / "__init__.py")
    return sorted(files)


@cache
def _structure_digest(path: Path, leave_out: frozenset[str]) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not leave_out & _defined(node)]
    return hashlib.sha256(json.dumps(_structure(tree)).encode()).hexdigest()


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _structure(node: Any) -> Any:
    """Return a syntax tree as JSON, without texts that stand alone (docstrings) and without empty fields.

    `ast.dump` writes other texts in other versions of Python.
    """
    if isinstance(node, list):
        return [_structure(item) for item in node if not _is_docstring(item)]
    if isinstance(node, ast.AST):
        fields = {name: _structure(value) for name, value in ast.iter_fields(node) if value not in (None, [])}
        return [type(node).__name__, fields]
    return node if isinstance(node, str | int | bool) else repr(node)


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
