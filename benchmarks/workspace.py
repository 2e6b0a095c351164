"""A copy of the repository in which a benchmark runs the pipeline as a user would: `dvc repro` with other params.

Kept below benchmarks/work (git ignores it), so that a benchmark that was stopped goes on where it was.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from lissom.params import load_params
from pipelines.dvc import write_dvc

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
"""Public data sets that lie beside a developer's checkout; a user's lacks them."""


def require_data(name: str) -> Path:
    """Return the folder of a data set, or end with a message where there is none."""
    folder = DATA / name
    if not folder.is_dir():
        sys.exit(
            f"{folder} is missing: this benchmark needs the public data sets that developers keep beside the checkout"
        )
    return folder


def open_workspace(name: str, params: Path) -> Path:
    """Return a folder with the repository's files and the given params, as a git repository of its own."""
    folder = ROOT / "benchmarks" / "work" / name
    folder.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for file in listed.splitlines():
        if file.startswith(("lissom/", "components/", ".dvc/")) or file in ("pyproject.toml", ".dvcignore"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, folder / file)
    shutil.copy(params, folder / "params.yaml")
    write_dvc(load_params(params), folder / "dvc.yaml", folder)
    if not (folder / ".git").exists():
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def reproduce(folder: Path, *arguments: str) -> None:
    """Run `dvc repro` in a workspace, its output passed on."""
    environment = os.environ | {
        "DVC_NO_ANALYTICS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    subprocess.run(["dvc", "repro", *arguments], cwd=folder, env=environment, check=True)
