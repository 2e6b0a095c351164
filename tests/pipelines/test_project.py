"""A stranger's way: pip install, `lissom init`, `lissom compress MODEL DATA`; nobody has to clone."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

from lissom.components.pipeline_run import check_watched, unfitting_sections
from lissom.components.specs import spec_of
from lissom.errors import InputError
from lissom.params import check_params, load_params
from lissom.pipelines.dvc import write_dvc
from lissom.pipelines.init import INSTALL, files_of_project, init, template
from tests.pipelines.conftest import PARAMS, ROOT, Workspace, write_base, write_data


def test_the_template_is_what_the_repository_uses():
    assert template("params.yaml") == (ROOT / "params.yaml").read_text()
    workflow = (ROOT / ".github/workflows/retrain.yml").read_text()
    own = "--constraint constraints.txt --editable '.[pipeline,kubeflow,s3]'"
    assert template("retrain.yml").replace(INSTALL, own) == workflow
    for plot in (ROOT / ".dvc/plots").iterdir():
        assert files_of_project()[f".dvc/plots/{plot.name}"] == plot.read_text()


def test_what_exists_is_not_overwritten(tmp_path):
    (tmp_path / "params.yaml").write_text("mine: true\n")
    with pytest.raises(InputError, match=r"params\.yaml exist"):
        init(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh virtual environment with lissom's wheel; what it needs is read from this one."""
    folder = tmp_path_factory.mktemp("stranger")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "dist", ROOT], check=True
    )
    (wheel,) = (folder / "dist").iterdir()
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    (packages,) = (folder / "venv/lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return wheel, folder / "venv/bin"


def call(tools: Path, folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess:
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "CI": "true", "COLUMNS": "200", "DVC_NO_ANALYTICS": "1"}
    for name in ("PYTHONPATH", "MLFLOW_TRACKING_URI"):
        env.pop(name, None)
    done = subprocess.run([tools / command[0], *command[1:]], cwd=folder, env=env, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def test_the_wheel_holds_one_package(installed):
    names = {name.partition("/")[0] for name in zipfile.ZipFile(installed[0]).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"lissom"}


def test_an_initialised_project_runs(installed, tmp_path):
    _, tools = installed
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    call(tools, tmp_path, "lissom", "init")
    stages = yaml.safe_load((tmp_path / "dvc.yaml").read_text())["stages"]
    assert all(not dep.startswith("lissom") for stage in stages.values() for dep in stage.get("deps", ()))
    call(tools, tmp_path, "lissom", "params", "check")
    call(tools, tmp_path, "python", "-m", "dvc", "repro", "prepare")
    status = call(tools, tmp_path, "python", "-m", "dvc", "status", "prepare").stdout
    assert "up to date" in status
    ignored = subprocess.run(["git", "status", "--short", "artifacts"], cwd=tmp_path, capture_output=True, text=True)
    assert not ignored.stdout


def test_names_of_folders_are_no_variables_to_dvc(tmp_path):
    """Nor are spaces, quotes and brackets anything but themselves, in a template or in a shell."""
    workspace = Workspace(tmp_path)
    name = "bob's ${data} [new] #1"
    (tmp_path / "data").rename(tmp_path / name)
    data = {"source": f"files:{name}", "text": "left", "text_pair": "right", "transfer": f"{name}/unlabelled.tsv"}
    workspace.write_params(PARAMS | {"data": data})
    assert "Running stage 'prepare'" in workspace.run("dvc", "repro", "prepare").stdout
    assert "up to date" in workspace.run("dvc", "repro", "prepare").stdout
    with (tmp_path / name / "train.tsv").open("a") as file:
        file.write("the film was long\tgood movie\tmatch\n")
    assert "Running stage 'prepare'" in workspace.run("dvc", "repro", "prepare").stdout


@pytest.mark.slow
def test_a_model_and_a_folder_of_data_are_enough(installed, tmp_path):
    _, tools = installed
    write_base(tmp_path / "my base")
    write_data(tmp_path / "my data")
    (tmp_path / "my data" / "unlabelled.tsv").unlink()
    quick = ["evaluate.seconds=0.2", "evaluate.retries=0", "emissions.seconds=0.3", "gates.min_speedup={}",
             "gates.max_score_drop=1", "prune.neuron_multiple=8", "variants=[teacher, quantize]"]  # fmt: skip
    options = [word for item in quick for word in ("--set", item)]
    done = call(tools, tmp_path, "lissom", "compress", "my base", "my data", *options)
    assert "data.text: 'left', data.text_pair: 'right'" in done.stdout
    assert "data.label: 'label', 2 classes (data.task: classification)" in done.stdout
    answer = call(tools, tmp_path, "lissom", "predict", "the film was very long", "--pair", "good movie").stdout
    assert "match" in answer
    again = call(tools, tmp_path, "lissom", "compress", "my base", "my data", *options).stderr
    assert again.count("up to date") == 13


def test_a_new_project_s_workflow_needs_no_file_that_it_lacks():
    steps = yaml.safe_load(files_of_project()[".github/workflows/retrain.yml"])["jobs"].values()
    setups = [step["with"] for job in steps for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert setups and all(set(setup) == {"python-version"} for setup in setups)


@pytest.mark.parametrize("change", ["gain", "loss"])
def test_a_section_that_comes_or_goes_is_noticed(change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init(tmp_path)
    params = load_params(tmp_path / "params.yaml")
    monkeypatch.setenv("DVC_STAGE", "prepare")
    check_watched(spec_of("prepare"), params)
    values = yaml.safe_load((tmp_path / "params.yaml").read_text())
    shorter = check_params({name: section for name, section in values.items() if name != "prune"})
    if change == "gain":
        write_dvc(shorter, tmp_path / "dvc.yaml", None)
    with pytest.raises(InputError, match=r"\(prune: stage prune\)"):
        check_watched(spec_of("prepare"), params if change == "gain" else shorter)


def test_what_a_user_has_added_to_dvc_yaml_is_no_fault(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init(tmp_path)
    content = yaml.safe_load((tmp_path / "dvc.yaml").read_text())
    stages = content["stages"] | {"mine": {"cmd": "true"}}
    stages["teacher"]["params"] = ["teacher.epochs", {"params.yaml": ["base"]}, "parallel", "other.key", "gates"]
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    monkeypatch.setenv("DVC_STAGE", "prepare")
    params = load_params(tmp_path / "params.yaml")
    check_watched(spec_of("prepare"), params)
    (tmp_path / "dvc.yaml").write_text("")  # as is one that is not there, it is no fault of a section
    assert unfitting_sections(params) == []
    (tmp_path / "dvc.yaml").unlink()
    assert unfitting_sections(params) == []
