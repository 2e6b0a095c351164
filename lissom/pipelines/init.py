"""A new project: `lissom init` writes what a git repository needs to run the pipeline with an installed lissom."""

from importlib import resources
from pathlib import Path

from lissom import __version__
from lissom.artifacts import write_text
from lissom.errors import InputError
from lissom.params import load_params
from lissom.pipelines.dvc import write_dvc

INSTALL = "{install}"
"""Stands in the workflow for what pip installs."""
_PIP_CACHE = "          cache: pip\n          cache-dependency-path: constraints.txt\n"
"""The action fails where the file does not exist, as in a new project."""
_DVC_CONFIG = ""
_DVC_IGNORED = "/config.local\n/tmp\n/cache\n"


def template(name: str) -> str:
    """Return a file of the project's template, which the wheel carries."""
    return resources.files("lissom.pipelines").joinpath("project", name).read_text(encoding="utf-8")


def files_of_project() -> dict[str, str]:
    """Return the text of every file that a new project has, by its path; dvc.yaml follows from the params."""
    workflow = template("retrain.yml").replace(INSTALL, f"'lissom[pipeline,kubeflow,s3]=={__version__}'")
    workflow = workflow.replace(_PIP_CACHE, "")
    plots = resources.files("lissom.pipelines").joinpath("project", "plots")
    return {
        "params.yaml": template("params.yaml"),
        ".gitignore": template("gitignore"),
        "README.md": template("README.md"),
        ".github/workflows/retrain.yml": workflow,
        ".dvc/config": _DVC_CONFIG,
        ".dvc/.gitignore": _DVC_IGNORED,
        **{f".dvc/plots/{plot.name}": plot.read_text(encoding="utf-8") for plot in plots.iterdir()},
    }


def init(folder: Path) -> list[str]:
    """Write a new project into a folder, and return the paths of its files.

    Raises:
        InputError: one of the files exists with other contents; nothing is written then.
    """
    texts = files_of_project()
    existing = [name for name, text in texts.items() if _differs(folder / name, text)]
    existing += ["dvc.yaml"] * (folder / "dvc.yaml").exists()
    if existing:
        raise InputError(
            f"{folder}: {', '.join(existing)} exist; nothing is written. Take an empty folder or remove them"
        )
    for name, text in texts.items():
        write_text(folder / name, text)
    write_dvc(load_params(folder / "params.yaml"), folder / "dvc.yaml", None)
    return [*texts, "dvc.yaml"]


def _differs(path: Path, text: str) -> bool:
    return path.exists() and (not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text)
