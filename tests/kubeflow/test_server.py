"""Runs and schedules, as a person asks for them on the command line, against a stub of Kubeflow's API."""

import json

import pytest
import yaml
from typer.testing import CliRunner

import lissom.pipelines.__main__ as commands
from lissom.errors import InputError
from lissom.pipelines import compiling, server
from tests.kubeflow.stub import PipelinesApi
from tests.kubeflow.test_pipeline import PARAMS


@pytest.fixture
def api():
    outcome = PipelinesApi()
    yield outcome
    outcome.close()


@pytest.fixture(scope="module")
def compile_once():
    """The compiler, whose seconds are spent once for the same pipeline."""
    outcome = {}

    compile_really = compiling.compile_pipeline

    def compile_pipeline(params, images, package, *rest):
        asked = (params.model_dump_json(), repr(images), rest)
        if asked not in outcome:
            compile_really(params, images, package, *rest)
            outcome[asked] = package.read_text()
        package.write_text(outcome[asked])

    return compile_pipeline


@pytest.fixture
def run(api, compile_once, tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(compiling, "compile_pipeline", compile_once)

    def invoke(*words: str) -> str:
        result = CliRunner().invoke(commands.app, [*words, "--host", api.host])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    return invoke


def test_a_run_carries_the_params_and_the_overrides(api, run):
    output = run("submit", "--name", "try", "--set", "teacher.epochs=5", "--experiment", "team")
    ((identity, sent),) = api.kept["runs"].items()
    assert f"run {identity}" in output and sent["display_name"] == "try"
    spec = sent["pipeline_spec"].get("pipeline_spec", sent["pipeline_spec"])
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert json.loads(parameters["teacher"]["defaultValue"])["epochs"] == 5
    assert json.loads(parameters["distill"]["defaultValue"])["blocks"] == [0, 2]
    assert [item["display_name"] for item in api.kept["experiments"].values()] == ["team"]


def test_waiting_ends_with_the_run_and_fails_with_it(api, run):
    api.states = ["PENDING", "RUNNING", "SUCCEEDED"]
    assert "SUCCEEDED" in run("submit", "--wait")
    api.states = ["RUNNING", "FAILED"]
    api.tasks = [
        {"display_name": "root", "state": "FAILED", "create_time": "2026-01-01T00:00:00Z"},
        {
            "display_name": "distill",
            "state": "FAILED",
            "create_time": "2026-01-01T00:02:00Z",
            "error": {"message": "no such folder"},
        },
        {"display_name": "teacher", "state": "SUCCEEDED", "create_time": "2026-01-01T00:01:00Z"},
    ]
    with pytest.raises(InputError, match="FAILED"):
        run("submit", "--wait")
    shown = run("status", next(iter(api.kept["runs"])))
    assert shown.index("teacher") < shown.index("distill") and "no such folder" in shown and "root" not in shown


def test_a_schedule_of_the_same_name_is_replaced_and_others_stay(api, run):
    for name in ("weekly", "a", "b", "c"):
        run("schedule", "--name", name, "--cron", "0 0 3 * * 1")
    output = run("schedule", "--name", "weekly", "--every", "3600")
    assert "in place of 1 before" in output
    kept = {item["display_name"]: item for item in api.kept["recurringruns"].values()}
    assert len(api.kept["recurringruns"]) == 4 and kept.keys() == {"weekly", "a", "b", "c"}
    assert kept["weekly"]["trigger"]["periodic_schedule"]["interval_second"] == 3600
    assert kept["a"]["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"


def test_a_schedule_that_is_refused_leaves_the_old_one(api, run):
    run("schedule", "--name", "weekly", "--every", "3600")
    before = dict(api.kept["recurringruns"])
    api.refuse = (400, "the cron is wrong")
    with pytest.raises(InputError, match=r"answered 400: .*the cron is wrong"):
        run("schedule", "--name", "weekly", "--every", "60")
    assert api.kept["recurringruns"] == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["schedule", "--name", "x"], "either --cron or --every"),
        (["schedule", "--name", "x", "--cron", "0 3 * * 1"], "5 fields, six are needed"),
        (["submit", "--set", "teacher.epoch=1"], "did you mean 'epochs'"),
        (["status", "id-99"], "answered 404: .*not found"),
    ],
)
def test_mistakes_are_told_in_one_message(words, message, run):
    with pytest.raises(InputError, match=message):
        run(*words)


def test_a_server_that_is_not_there_is_named(api, run):
    api.close()
    with pytest.raises(InputError, match=r"connect: http://127\.0\.0\.1:\d+ is not reached"):
        run("submit")
