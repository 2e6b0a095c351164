"""A copy of the repository in which a benchmark runs the pipeline as a user would: `dvc repro` with other params.

Kept below benchmarks/work (git ignores it), so that a benchmark that was stopped goes on where it was.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.provenance import ROOT
from lissom.params import load_params
from lissom.pipelines.dvc import write_dvc

WORK = ROOT / "benchmarks" / "work"


def open_workspace(name: str, params: Mapping[str, Any]) -> Path:
    """Return a folder with the repository's files and the given params, as a git repository of its own."""
    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for file in listed.splitlines():
        if file.startswith(("lissom/", ".dvc/")) or file in ("pyproject.toml", ".dvcignore"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, folder / file)
    (folder / "params.yaml").write_text(yaml.safe_dump(dict(params), sort_keys=False), encoding="utf-8")
    write_dvc(load_params(folder / "params.yaml"), folder / "dvc.yaml", folder)
    if not (folder / ".git").exists():
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def read_params(path: Path) -> dict[str, Any]:
    """Return a params file as plain values."""
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return values


def with_seed(params: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return params in which every training has a seed; the data stays the same."""
    return {
        name: _seeded(value, seed) if name == "teacher" or _is_training(name) else
        with_seed(value, seed) if isinstance(value, Mapping) else
        [with_seed(item, seed) if isinstance(item, Mapping) else item for item in value] if isinstance(value, list) else
        value
        for name, value in params.items()
    }  # fmt: skip


def reproduce(folder: Path, *arguments: str) -> None:
    """Run `dvc repro` in a workspace, its output passed on."""
    _call(folder, "dvc", "repro", *arguments)


def compress(folder: Path) -> None:
    """Run `lissom compress` in a workspace, its output passed on."""
    _call(folder, "lissom", "compress")


def _call(folder: Path, *command: str) -> None:
    environment = os.environ | {
        "DVC_NO_ANALYTICS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    subprocess.run(command, cwd=folder, env=environment, check=True)


def _is_training(name: str) -> bool:
    return name == "training" or name.endswith("_training")


def _seeded(training: Mapping[str, Any], seed: int) -> dict[str, Any]:
    return {**training, "seed": seed}
