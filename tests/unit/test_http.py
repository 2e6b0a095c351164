"""The server: the same answers as the classifier, and a 4xx for everything that is not a question."""

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
from starlette.testclient import TestClient

from lissom.serving.classifier import OnnxClassifier
from lissom.serving.http import Limits, create_app
from tests.waiting import free_port, wait_for

LISSOM = [sys.executable, "-c", "from lissom.cli import main; main()"]
LIMITS = Limits(body_bytes=2000, texts=3, characters=100)


@pytest.fixture(scope="module")
def exported(plain_export):
    return plain_export


@pytest.fixture(scope="module")
def client(exported):
    return TestClient(create_app(OnnxClassifier(exported), "tiny", LIMITS), raise_server_exceptions=False)


def ask(client, **body):
    return client.post("/predict", json=body)


def test_it_answers_what_the_classifier_answers(client, exported):
    texts = ["the film was good", "a dull story", ""]
    expected = OnnxClassifier(exported).predict(texts)
    answer = ask(client, texts=texts).json()["predictions"]
    assert [item["probabilities"] for item in answer] == [pytest.approx(actual["probabilities"]) for actual in expected]
    assert [item["label"] for item in answer] == [actual["label"] for actual in expected]


def test_health_model_and_schema(client, exported):
    assert client.get("/health").json() == {"status": "ok"}
    report = client.get("/model").json()
    assert (
        report["model"] == "tiny"
        and report["labels"] == list(OnnxClassifier(exported).serving["labels"])
        and report["pair"] is False
    )
    schema = client.get("/openapi.json").json()["components"]["schemas"]["Question"]
    assert schema["properties"]["texts"]["maxItems"] == LIMITS.texts


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "texts: Field required"),
        ({"texts": []}, "at least 1 item"),
        ({"texts": ["a"] * 4}, "at most 3 items"),
        ({"texts": ["a" * 101]}, "texts.0: String should have at most 100"),
        ({"texts": "a film"}, "valid list"),
        ({"texts": [3]}, "texts.0: Input should be a valid string"),
        ({"texts": [None]}, "texts.0"),
        ({"texts": ["a"], "pairs": ["b"]}, "single texts; pairs were given"),
        ({"texts": ["a"], "speed": 0.5}, "no exits"),
        ({"texts": ["a"], "speed": 2}, "less than or equal to 1"),
        ({"texts": ["a"], "text": "b"}, "Extra inputs"),
        ([], "body"),
    ],
)
def test_wrong_questions_are_told_what_is_wrong(client, body, says):
    answer = client.post("/predict", json=body)
    assert answer.status_code == 422 and says in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"texts": ["\xff\xfe"]}',  # not UTF-8
        b'{"texts": ["\\ud800"]}',  # half of a surrogate pair
        b'{"texts": ["a"], "speed": NaN}',
        b'{"texts": [',
        b"",
        b"[" * 1900,
        json.dumps({"texts": ["a"]}).encode("utf-16"),
    ],
)
def test_what_is_no_json_is_refused(client, body):
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500 and answer.json()["detail"]


def test_long_bodies_are_refused_with_and_without_a_length(client):
    for content in (b"x" * 3000, iter([b"x" * 1500, b"x" * 1500])):
        answer = client.post("/predict", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 413 and "2000 bytes" in answer.json()["detail"]


def test_other_ways_in_are_closed(client):
    assert client.get("/predict").status_code == 405
    assert client.get("/nothing").status_code == 404
    assert client.post("/predict", data={"texts": "a"}).status_code == 422


def test_a_pair_model_wants_pairs(exported, tmp_path):
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    serving = json.loads((tmp_path / "serving.json").read_text()) | {"pair": True}
    (tmp_path / "serving.json").write_text(json.dumps(serving))
    pairs = TestClient(create_app(OnnxClassifier(tmp_path), "pairs", LIMITS))
    assert ask(pairs, texts=["a"], pairs=["b"]).status_code == 200
    assert "no second texts" in ask(pairs, texts=["a"]).json()["detail"]
    assert ask(pairs, texts=["a", "b"], pairs=["b"]).status_code == 422


def test_the_command_serves_and_stops_in_peace(exported):
    """Twelve clients at once while SIGTERM comes: who was let in is answered, and the process ends with 0."""
    port = free_port()
    command = [*LISSOM, "serve", "--model", str(exported), "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    address = f"http://127.0.0.1:{port}"
    wait_for(f"{address}/health", process)
    statuses, refused = [], []

    def client():
        body = json.dumps({"texts": ["the film was good"] * 64}).encode()
        while not refused:
            request = urllib.request.Request(f"{address}/predict", body, {"content-type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    statuses.append((answer.status, len(json.load(answer)["predictions"])))
            except urllib.error.URLError as error:
                refused.append(error.reason)

    clients = [threading.Thread(target=client) for _ in range(12)]
    for item in clients:
        item.start()
    while len(statuses) < 20:
        time.sleep(0.01)
    process.terminate()
    for item in clients:
        item.join()
    assert process.wait(20) == 0, process.stderr.read()
    assert set(statuses) == {(200, 64)}
    assert all(isinstance(reason, ConnectionRefusedError) for reason in refused), refused


def test_without_torch(exported):
    code = (
        "import sys, lissom.serving.http, lissom.tracking.fetching, lissom.cli\n"
        "print([name for name in ('torch', 'transformers', 'pandas', 'mlflow') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("model", "says"),
    [("/nowhere", "neither an exported folder"), ("models:/nobody@x", "there is no registry in this folder")],
)
def test_a_model_that_is_not_there(model, says, tmp_path):
    done = subprocess.run(
        [*LISSOM, "serve", "--model", model], capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr
