"""The whole DAG on a tiny config, looked at as a user would."""

import html
import json
import re
import shutil
import subprocess
import sys

import pytest

import lissom
from lissom.artifacts import STEPS
from lissom.emissions.sci import SciStatement, in_words
from lissom.evaluate.paired import read_changes
from lissom.models.anatomy import anatomy
from lissom.report.ledger import Ledger
from lissom.tracking.runs import PIPELINE
from tests.pipelines.conftest import ROOT, Workspace, lissom_predict, read
from tests.unit.test_boamps import problems

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_every_stage_tells_figures_cost_and_lineage(workspace):
    for stage in ("prepare", "teacher", "distill", "prune", "factorize", "quantize", "emissions", "report", "register"):
        cost = read(workspace, f"metrics/{stage}/emissions.json")
        assert cost["energy_kwh"] > 0 and cost["co2e_g"] > 0 and cost["method"] in ("measured", "model")
        assert cost["country"] == "DEU" and 100 < cost["intensity_g_per_kwh"] < 900
    manifest = lissom.load(workspace.folder / "artifacts/quantize").manifest
    assert [step.stage for step in manifest.steps] == ["teacher", "distill", "prune", "factorize", "quantize"]
    assert [edit.kind for edit in manifest.edits] == [
        "keep_blocks", "keep_heads", "keep_neurons", "keep_vocabulary", "factorize_word_table", "fake_quantize",
        "store_integers",
    ]  # fmt: skip
    assert len({step.run_id for step in manifest.steps}) == 5


def test_figures_are_those_of_the_files(workspace):
    ledger = Ledger.model_validate(read(workspace, "artifacts/report/ledger.json"))
    for row in ledger.rows:
        exported = workspace.folder / "artifacts/export" / row.step
        assert row.megabytes == (exported / "model.onnx").stat().st_size / 1e6
        model = lissom.load(workspace.folder / "artifacts" / row.step)
        assert row.parameters == anatomy(model.network).total
    assert ledger.rows[0].score > 0.8  # the task can be learnt
    # Two blocks with four products each (query, key and value are one), the table's projection, the pooler.
    assert read(workspace, "metrics/export/quantize/metrics.json")["integer_kernels"] == 10
    assert read(workspace, "metrics/export/teacher/metrics.json")["integer_kernels"] == 0
    spent = ledger.spent.compressing.value + ledger.spent.teacher_kwh + ledger.spent.measuring_kwh
    stages = [*STEPS, *(f"export/{v}" for v in STEPS), *(f"evaluate/{v}" for v in STEPS)]
    assert spent == pytest.approx(
        sum(read(workspace, f"metrics/{stage}/emissions.json")["energy_kwh"] for stage in stages)
    )


def test_nothing_to_do_does_nothing(workspace):
    assert "up to date" in workspace.run("dvc", "repro").stdout
    assert not list((workspace.folder / "checkpoints").glob("*"))
    assert not list(workspace.folder.glob("artifacts/.*")) and not list(workspace.folder.glob("metrics/.*"))


def test_dvc_shows_metrics_and_plots(workspace):
    """How the plots look is tested in test_dvc_views.py."""
    shown = json.loads(workspace.run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    (figures,) = (entry["data"] for entry in shown.values())
    assert figures["times_smaller"] > 1 and len(figures) == 13 and figures.pop("disturbed") in (0, 1)
    assert figures.pop("energy_measured") in (0, 1)
    assert all(value is None or abs(round(value, 5) / value - 1) < 0.05 for value in figures.values())  # nothing is 0.0
    done = workspace.run("dvc", "plots", "show", "--out", "plots")
    assert "WARNING" not in done.stderr
    specs = re.findall(r"var spec = (\{.*\});\n", (workspace.folder / "plots" / "index.html").read_text())
    assert len(specs) == 4 and all(json.loads(spec)["data"]["values"] for spec in specs)


def test_the_report_is_told_by_standards_too(workspace):
    data = read(workspace, "artifacts/prepare/data.json")
    for name in ("boamps_training.json", "boamps_inference.json"):
        assert problems(read(workspace, f"artifacts/report/{name}")) == []
    training = read(workspace, "artifacts/report/boamps_training.json")
    measured = [measure["powerConsumption"] for measure in training["measures"]]
    assert measured == [read(workspace, f"metrics/{stage}/emissions.json")["energy_kwh"] for stage in STEPS]
    assert training["task"]["dataset"][0]["dataQuantity"] == data["rows"]["train"] + data["rows"]["transfer"]
    sci = SciStatement.model_validate(read(workspace, "artifacts/report/sci.json"))
    assert 0 < sci.artifact.sci_g.value < sci.teacher.sci_g.value
    line = in_words(sci)
    assert line in (workspace.folder / "artifacts/report/ledger.md").read_text()
    assert line in html.unescape((workspace.folder / "artifacts/report/report.html").read_text())


def test_one_run_per_stage_in_mlflow_below_one_for_the_pipeline(workspace):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{workspace.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs.pop(PIPELINE)
    singles = {"prepare", "teacher", "distill", "prune", "factorize", "quantize", "emissions", "report", "register"}
    assert set(runs) == singles | {f"{stage}@{variant}" for stage in ("export", "evaluate") for variant in STEPS}
    assert all(run.info.status == "FINISHED" for run in runs.values())
    distill = runs["distill"]
    assert distill.data.params["distill.training.learning_rate"] == "0.002"
    assert distill.data.tags["lissom.upstream_run"] == runs["teacher"].info.run_id
    assert len(client.get_metric_history(distill.info.run_id, "loss")) > 1
    assert {"metrics.json", "emissions.json"} <= {file.path for file in client.list_artifacts(distill.info.run_id)}
    assert distill.inputs.dataset_inputs[0].dataset.name == "data"
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert parent.info.status == "FINISHED" and parent.data.tags["lissom.registered"] == "models:/lissom-data/1"
    assert {"report.html", "ledger.json"} <= {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert parent.data.metrics["megabytes"] == read(workspace, "metrics/report/metrics.json")["megabytes"]


def test_the_registered_model_needs_neither_torch_nor_transformers(workspace):
    code = """
import sys
for name in ("torch", "transformers", "datasets"):
    sys.modules[name] = None
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model("models:/lissom-data@champion")
answer = model.predict(pd.DataFrame({"text": ["the film was good"], "text_pair": ["very good film"]}))
print(answer["label"][0], round(answer["probability"][0], 6))
assert model.metadata.signature.inputs.input_names() == ["text", "text_pair"]
assert "onnxruntime==" in open(mlflow.pyfunc.get_model_dependencies("models:/lissom-data@champion")).read()
"""
    env = workspace.env | {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", "PYTHONPATH": ""}
    outside = workspace.folder / "outside"
    outside.mkdir(exist_ok=True)
    code = code.replace(
        "import mlflow,", f"import os; os.chdir({str(workspace.folder)!r}); sys.path.pop(0)\nimport mlflow,"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=outside, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = lissom_predict(workspace, "the film was good", "very good film")
    assert done.stdout.split()[0] == answer


def test_predict_answers_the_same_from_everywhere(workspace):
    sources = (
        [],
        ["--model", "artifacts/export/quantize"],
        ["--model", "artifacts/quantize"],
        ["--model", "models:/lissom-data/1"],
    )
    assert len({lissom_predict(workspace, "the plot was dull", "very bad plot", *options) for options in sources}) == 1
    wrong = workspace.run("lissom", "predict", "only one text", "--model", "artifacts/export/quantize", check=False)
    assert wrong.returncode == 1 and "classifies pairs of texts" in wrong.stderr and "Traceback" not in wrong.stderr


def test_inspect_compare_and_report(workspace):
    shown = workspace.run("lissom", "inspect", "artifacts/quantize").stdout
    for part in ("kept blocks 0, 3", "word table at rank 16", "dir:base", "match, mismatch"):
        assert part in shown
    assert "kept blocks" in workspace.run("lissom", "compare", "artifacts/teacher", "artifacts/prune").stdout
    assert (
        "champion" in workspace.run("lissom", "compare", "models:/lissom-data/1", "models:/lissom-data@champion").stdout
    )
    report = workspace.run("lissom", "report").stdout
    assert "accuracy kept (95 % interval" in report and "report.html" in report
    assert "floor, TF-IDF" in report and "floor, static embeddings" in report
    assert "fine" in workspace.run("lissom", "params", "check").stdout


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(workspace, width, tmp_path):
    page = (workspace.folder / "artifacts/report/report.html").as_uri()
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--enable-logging=stderr",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * 0.0.0.0",
         f"--user-data-dir={tmp_path}", f"--window-size={width},900", "--virtual-time-budget=2000", "--dump-dom", page],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr
    figures = dict(re.findall(r'<data id="(\w+)" value="([^"]+)">', done.stdout))
    metrics = read(workspace, "metrics/report/metrics.json")
    for shown, name in (("score_kept", "kept"), ("speedup", "speedup_eager"), ("times_smaller", "times_smaller")):
        assert float(figures[shown]) == metrics[name]
    payback = metrics["payback_inferences"]
    assert figures["payback"] == ("never" if payback is None else str(payback))
    assert done.stdout.count("<svg") == 4  # the last one maps the heads
    ledger = read(workspace, "artifacts/report/ledger.json")
    assert f"{ledger['rows'][-1]['score']:.1%}" in done.stdout
    assert not re.search(r'(?:src|href)="(?!data:|#|changed_answers.csv)', done.stdout)  # nothing is fetched
    changes = list(read_changes(workspace.folder / "artifacts/report/changed_answers.csv"))
    assert done.stdout.count('class="down">lost') == min(20, sum(row["change"] == "lost" for row in changes))


def test_readme_commands_run(workspace):
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(
        r"^(?:\.venv/bin/)?(lissom .*)$", "\n".join(re.findall(r"```(?:sh|bash)\n(.*?)```", readme, re.S)), re.M
    )
    assert commands
    commands.remove("lissom compress MODEL DATA   # writes params.yaml, says what it assumed, and runs all stages")
    for command in commands:
        workspace.run("bash", "-c", command.split("  #")[0])
    targets = re.findall(r"^make (\w+)", readme, re.M)
    assert "compress" in targets
    for target in targets:
        workspace.run("make", "--dry-run", target)


def test_a_failed_gate_registers_without_an_alias(workspace):
    from lissom.tracking.config import GatesParams
    from lissom.tracking.registry import failed_gates

    ledger = Ledger.model_validate(read(workspace, "artifacts/report/ledger.json"))
    gates = GatesParams(max_score_drop=0.0, min_speedup={"eager": 1e6}, max_megabytes=0.001)
    assert [re.search(r"gates\.\w+", failure)[0] for failure in failed_gates(ledger, gates)[-2:]] == [
        "gates.min_speedup", "gates.max_megabytes",
    ]  # fmt: skip
    command = ["python", "-m", "lissom.components.register", "--data-input", "artifacts/prepare", "--model-input", "artifacts/teacher",
               "--export-input", "artifacts/export/teacher", "--evaluations-input", "metrics/evaluate", "--report-input", "artifacts/report",
               "--metrics-output", "metrics/other", "--set", "gates.max_megabytes=0.001"]  # fmt: skip
    done = workspace.run(*command, check=False)
    assert done.returncode == 1
    assert "registered without an alias" in done.stderr and "gates.max_megabytes is 0.001" in done.stderr
    assert "Traceback" not in done.stderr and not (workspace.folder / "metrics/other").exists()
    again = workspace.run(*command, check=False)
    assert "version 2 is registered" in done.stderr and "version 2 is registered" in again.stderr  # not a third


def test_mistakes_end_with_one_message(workspace):
    teacher = ["python", "-m", "lissom.components.teacher", "--data-input", "artifacts/prepare", "--model-output", "x", "--logits-output", "y",
               "--metrics-output", "z"]  # fmt: skip
    for options, message in (
        (["--set", "teacher.epoch=1", "--set", "prune.heads=7"], "2 errors"),
        (["--set", "base.model=dir:nowhere"], "no folder"),
        (["--set", f"base.sha256={'f' * 64}"], "expects ffff"),
        (["--set", "emissions.country=XXX"], "electricity mix is not known"),
        (["--set", "base.model=hub:no/such-model"], "Without network, name a folder"),
        (["--data-input", "nowhere"], "run the stage that makes it"),
    ):
        done = workspace.run(*teacher, *options, check=False)
        assert done.returncode == 1 and message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        assert not [name for name in ("x", "y", "z") if (workspace.folder / name).exists()]


@pytest.mark.slow
def test_killed_stages_resume_to_the_same_weights(workspace, tmp_path):
    """kill -9 while the data is prepared and in the middle of every training, then `dvc repro`."""
    other = Workspace(tmp_path)
    other.kill_when("artifacts/.prepare.tmp", "dvc", "repro", "quantize")
    assert not (other.folder / "artifacts/prepare").exists()
    for stage in STEPS:
        other.kill_when(f"checkpoints/{stage}/training/state.json", "dvc", "repro", "quantize")
        assert not (other.folder / "artifacts" / stage).exists()
    other.run("dvc", "repro", "quantize")
    for stage in STEPS:
        weights = [result.folder / "artifacts" / stage / "model.safetensors" for result in (workspace, other)]
        assert weights[0].read_bytes() == weights[1].read_bytes(), stage


@pytest.mark.slow
def test_methods_that_need_the_base_or_inner_signals_run_as_a_stage(workspace):
    short = "{epochs: 1, learning_rate: 0.002, precision: float32, freeze_word_table: false}"
    command = ["python", "-m", "lissom.components.distill", "--data-input", "artifacts/prepare", "--model-input", "artifacts/teacher",
               "--logits-input", "artifacts/teacher_logits", "--model-output", "x", "--metrics-output", "y"]  # fmt: skip
    peers = "[{blocks: [0, 1]}, {blocks: [0, 3], seed: 1}]"
    workspace.run(*command, "--set", f"distill={{method: mutual, peers: {peers}, training: {short}}}")
    reported = read(workspace, "y/metrics.json")
    assert set(reported["peers"]) == {"peer 0", "peer 1"} and reported["chosen_peer"] in (0, 1)
    shape = "{blocks: 2, hidden_size: 16, intermediate_size: 24}"
    tiny = f"{{method: tinybert, shape: {shape}, layers_training: {short}, training: {short}}}"
    workspace.run(*command, "--set", f"distill={tiny}")
    assert read(workspace, "y/metrics.json")["layer_map"] == {
        "student block 1": "teacher block 2",
        "student block 2": "teacher block 4",
    }
    assert lissom.load(workspace.folder / "x").network.config.hidden_size == 16
    shutil.rmtree(workspace.folder / "x")
    refused = workspace.run(
        *command, "--set", f"distill={{method: distilbert, pretraining: {{training: {short}}}}}", check=False
    )
    assert refused.returncode == 1 and "no language-model head" in refused.stderr and "Traceback" not in refused.stderr
    assert not (workspace.folder / "x").exists()


def test_the_examples_of_the_library_page_run(workspace, tmp_path):
    page = (ROOT / "docs/library.md").read_text()
    (tmp_path / "artifacts").symlink_to(workspace.folder / "artifacts")
    (tmp_path / "page.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", page, re.S)))
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, env=workspace.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "block 1 bert.encoder.layer.1.attention.self.query" in done.stdout and "'label': " in done.stdout
