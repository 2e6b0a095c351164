"""MLflow's store in trouble: one line, advice that fits, no password; and no code of the registry is run."""

import errno
import os
import shutil

import pytest

from lissom.ending import finish_with_message
from lissom.errors import InputError
from lissom.redaction import redacted
from lissom.tracking.answering import answer
from lissom.tracking.comparison import describe
from lissom.tracking.config import TrackingParams
from lissom.tracking.runs import open_run
from lissom.tracking.store import store_errors, store_message
from tests.waiting import free_port

SECRET = "p%40ss-word"


@pytest.fixture(autouse=True)
def no_retries(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def use(monkeypatch, uri):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(None)


@pytest.fixture
def nobody(monkeypatch):
    """A server that is down, with a password in its address."""
    use(monkeypatch, f"http://user:{SECRET}@127.0.0.1:{free_port()}")


@pytest.mark.parametrize("model", [None, "models:/lissom-x@champion"])
def test_predict_with_a_server_that_is_down(nobody, model):
    with pytest.raises(InputError, match="a server that is up") as error:
        answer(["a film"], None, model)
    message = str(error.value)
    assert "\n" not in message and "ss-word" not in message and "user" not in message and "127.0.0.1" in message


def test_a_stage_with_a_server_that_is_down(nobody):
    with pytest.raises(InputError, match="a server that is up") as error, open_run("teacher", TrackingParams(), {}):
        pass
    assert "ss-word" not in str(error.value) and "\n" not in str(error.value)


def test_the_end_of_a_command_never_shows_a_password(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://user:{SECRET}@mlflow.example.com")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another")

    def fail():
        raise RuntimeError(f"https://user:{SECRET}@mlflow.example.com/api: 401, sent p@ss-word and another")

    with pytest.raises(SystemExit) as end:
        finish_with_message("lissom", fail)
    assert (
        "ss-word" not in end.value.code and "another" not in end.value.code and "mlflow.example.com" in end.value.code
    )


def test_texts_without_credentials_are_left_alone(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    for text in ("http://host:5000/api", "a@b: c", "sqlite:///mlflow.db", "", "models:/lissom-x@champion"):
        assert redacted(text) == text
    assert redacted("postgresql://u:s@h/db") == "postgresql://***@h/db"


@pytest.mark.parametrize("model", [None, "models:/lissom-x@champion"])
def test_predict_with_a_damaged_database(monkeypatch, tmp_path, model):
    (tmp_path / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    use(monkeypatch, f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(InputError, match="database may be damaged") as error:
        answer(["a film"], None, model)
    assert "\n" not in str(error.value)


def test_a_deleted_experiment(monkeypatch, tmp_path):
    import mlflow

    use(monkeypatch, f"sqlite:///{tmp_path}/mlflow.db")
    experiment = mlflow.create_experiment("gone")
    mlflow.delete_experiment(experiment)
    with (
        pytest.raises(InputError, match="mlflow experiments restore"),
        open_run("teacher", TrackingParams(experiment="gone"), {}),
    ):
        pass


def test_predict_runs_no_code_of_the_registry(monkeypatch, tmp_path, plain_export):
    """The artefact of a version is read as data, although it holds Python code that pyfunc would run."""
    import mlflow

    use(monkeypatch, f"sqlite:///{tmp_path}/mlflow.db")
    version = tmp_path / "version"
    shutil.copytree(plain_export, version / "artifacts" / "exported")
    (version / "MLmodel").write_text("flavors: {python_function: {loader_module: evil, code: code}}")
    (version / "code").mkdir()
    (version / "code" / "evil.py").write_text("raise SystemExit('executed')")
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", lambda uri: str(version))
    monkeypatch.setattr(mlflow.pyfunc, "load_model", lambda uri: pytest.fail("pyfunc runs the registry's code"))
    name, answers = answer(["a film"], None, "models:/lissom-x@champion")
    assert name == "models:/lissom-x@champion" and answers[0]["label"]


def test_a_password_with_a_slash_and_a_token_are_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:pa/ss@db/mlflow")
    assert redacted("could not connect to postgresql://user:pa/ss@db/mlflow as pa/ss") == (
        "could not connect to postgresql://***@db/mlflow as ***"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://TOKEN@host")
    assert "TOKEN" not in redacted("GET http://TOKEN@host/api: refused")


@pytest.mark.parametrize(
    "store", ["postgresql://mlflow@db/mlflow", "sqlite:////home/ann@example.org/mlflow.db", "sqlite:///@mlflow.db"]
)
def test_what_is_no_secret_is_shown(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    text = f"mlflow at {store} fails, see /home/ann and @mlflow"
    assert redacted(text) == text


def test_a_full_disk_is_no_fault_of_the_store():
    with pytest.raises(OSError, match="No space left"), store_errors("downloading"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x")


@pytest.mark.parametrize(
    "message, says", [("database is locked", "run again"), ("attempt to write a readonly database", "the owner")]
)
def test_advice_on_a_database_fits(message, says, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    told = store_message("registering", RuntimeError(message))
    assert says in told and "damaged" not in told


@pytest.mark.parametrize(
    "look", [lambda: describe("models:/lissom-x/1"), lambda: answer(["a"], None, "models:/lissom-x/1")]
)
def test_looking_for_a_version_makes_no_registry(look, monkeypatch, tmp_path):
    use(monkeypatch, "sqlite:///mlflow.db")
    with pytest.raises(InputError, match="no registry in this folder"):
        look()
    assert not list(tmp_path.iterdir())
