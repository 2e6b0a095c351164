"""Names and texts from outside: labels, folders, brackets."""

import io
import itertools
import os
import subprocess
import sys

import pytest
from rich.console import Console

from lissom import cli, cli_models, console
from lissom.errors import ParamsError
from lissom.params import check_params
from lissom.tracking import answering, comparison
from lissom.tracking.registry import default_name
from lissom.tracking.runs import escaped, flatten, numbers_of, open_run

LABELS = [
    "Q&A", "Q-x26-A", "Q-x2d-x26-A", "C++", "C--", "50%", "a/b", "a//b", "/a", "a/", "..", "a.b", "a:b", "a_b", "a b", " a",
    "a ", "two\nlines", "tab\t", "😀", "😁", "ärger", "'quote'", '"quote"', "why?", "[/red]", "x" * 300, "x" * 299 + "y", "-", "--",
]  # fmt: skip


def test_any_label_is_a_name_in_mlflow_and_no_two_are_the_same(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    params = check_params({"base": {"model": "dir:x"}, "data": {"source": "files:bob's data"}})
    metrics = {"per_label": {label: number for number, label in enumerate(LABELS)}}
    with open_run("prepare", params.tracking.model_copy(update={"system_metrics": False}), {}) as run:
        run.log_metrics(metrics)
        run.log_params(metrics)
        run.log_dataset('bob\'s "data"' + "x" * 600, "files:bob's data", "digest", "compression")
    logged = mlflow.MlflowClient().get_run(run.id).data
    assert sorted(logged.metrics.values()) == list(range(len(LABELS)))
    assert logged.metrics["per_label.Q-x26-A"] == 0 and logged.metrics["per_label.ärger"] == LABELS.index("ärger")


def test_escaping_keeps_names_apart():
    """All short strings over the characters that escapes are made of."""
    texts = ["".join(letters) for size in range(1, 7) for letters in itertools.product("-x2&/", repeat=size)]
    assert len({escaped(text) for text in texts}) == len(texts)
    assert len({name for name, _ in flatten({"a.b": 1, "a": {"b": 2}, "a-x2e-b": 3})}) == 3


@pytest.mark.parametrize("name", ["my data", "bob's data", "a/b", "data:x", "what?", "50%", "y" * 400])
def test_registered_models_have_names_that_mlflow_finds(name, tmp_path, monkeypatch):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    registered = default_name(name)
    client.create_registered_model(registered)
    assert [model.name for model in client.search_registered_models(f"name = '{registered}'")] == [registered]
    assert default_name("my-data") == "lissom-my-data" != default_name("my data")


@pytest.mark.parametrize("name", ["a/b", "a:b", "it's", "", " a", "what?"])
def test_a_name_that_mlflow_cannot_address_is_refused(name):
    values = {"base": {"model": "dir:x"}, "data": {"source": "files:my data"}, "tracking": {"registered_model": name}}
    with pytest.raises(ParamsError, match=r"tracking.registered_model is .*letters, digits"):
        check_params(values)
    values["tracking"]["registered_model"] = "my model_1.0-b"
    assert check_params(values).tracking.registered_model == "my model_1.0-b"


HOSTILE = ["a [/b] b", "good [red]film", "[link=x]y[/link]", ":smile: 12:30", "[bold]", "\\[x]"]


def printed(monkeypatch) -> io.StringIO:
    file = io.StringIO()
    for out in (cli.out, cli_models.out):
        monkeypatch.setattr(out, "file", file)
        monkeypatch.setattr(out, "_width", 200)
    return file


def test_texts_are_printed_as_they_are(monkeypatch):
    answers = [{"label": f"L{text}", "probabilities": {f"L{text}": 0.5}} for text in HOSTILE]
    monkeypatch.setattr(answering, "answer", lambda *_: ("models:/[b]x[/b]", answers))
    file = printed(monkeypatch)
    cli.predict(HOSTILE)
    lines = file.getvalue().splitlines()[1:]
    assert all(f"L{text} " in line and line.rstrip().endswith(text) for text, line in zip(HOSTILE, lines, strict=True))


def test_descriptions_and_notes_are_printed_as_they_are(monkeypatch, tmp_path):
    monkeypatch.setattr(comparison, "describe", lambda name: {text: text for text in HOSTILE})
    file = printed(monkeypatch)
    cli_models.inspect(str(tmp_path))
    cli_models.compare("[x]", "[/y]")
    assert all(file.getvalue().count(text) == 5 for text in HOSTILE[:3]) and "[/y]" in file.getvalue()
    file = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=file, width=200))
    for text in HOSTILE:
        console.note(text)
    assert file.getvalue().splitlines() == HOSTILE


def test_characters_that_the_terminal_lacks_end_no_command():
    code = "import lissom.cli as c; c.app = lambda: c.out.print('gut 😀'); c.main()"
    env = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"gut \\U0001f600\n"), done.stderr


def test_what_disturbed_a_measurement_is_1_in_the_store():
    metrics = {"speed": 2.5, "disturbed": "threads waited", "latency": {"disturbed": None, "method": "pinned"}}
    assert dict(numbers_of(metrics)) == {"speed": 2.5, "disturbed": 1.0, "latency.disturbed": 0.0}
