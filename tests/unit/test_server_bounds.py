"""The server in the open: bounded work, bounded connections, and nothing that a client sends is its failure."""

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import uvicorn
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.server_memory import peak_of_server
from lissom.export.onnx import export_onnx
from lissom.models.compressed import CompressedModel
from lissom.models.fused import separate
from lissom.serving import http as server
from lissom.serving.answers import NonFiniteOutputError
from lissom.serving.classifier import OnnxClassifier
from lissom.serving.connections import bounded_protocol
from tests.unit import tiny
from tests.waiting import free_port

LIMITS = server.Limits(running=2, waiting=3, connections=40, seconds=1.5, body_bytes=200_000)
TEXT = "the film was good"


class Slow:
    """Stands for a model: counts how many predictions run at the same time, and waits until it may answer."""

    def __init__(self):
        self.serving, self.lock, self.running, self.most, self.total = {}, threading.Lock(), 0, 0, 0
        self.go = threading.Event()

    def predict(self, texts, pairs, speed):
        with self.lock:
            self.running, self.total = self.running + 1, self.total + 1
            self.most = max(self.most, self.running)
        self.go.wait(20)
        with self.lock:
            self.running -= 1
        return [{"label": "good", "probabilities": {"good": 1.0}} for _ in texts]


@contextmanager
def running(classifier, limits=LIMITS):
    port = free_port()
    config = uvicorn.Config(
        server.create_app(classifier, "tiny", limits), port=port, access_log=False, ws="none", log_config=None,
        http=bounded_protocol(limits.connections, limits.seconds),
    )  # fmt: skip
    instance = uvicorn.Server(config)
    thread = threading.Thread(target=instance.run)
    thread.start()
    while thread.is_alive() and not instance.started:
        time.sleep(0.01)
    try:
        yield port
    finally:
        instance.should_exit = instance.force_exit = True
        thread.join(20)


def ask(port, body=None, path="/predict", timeout=20):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    body = json.dumps({"texts": [TEXT]}).encode() if body is None and path == "/predict" else body
    connection.request("POST" if body is not None else "GET", path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    result = answer.status, answer.headers, answer.read()
    connection.close()
    return result


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_64_clients_share_a_bounded_number_of_predictions():
    """Two run, three wait, the others are asked to come again; health answers meanwhile."""
    model = Slow()
    with running(model, server.Limits(running=2, waiting=3)) as port, ThreadPoolExecutor(64) as pool:
        answers = [pool.submit(ask, port) for _ in range(64)]
        until(lambda: sum(answer.done() for answer in answers) == 59)
        assert ask(port, path="/health")[0] == 200 and model.running == 2
        model.go.set()
        results = [answer.result() for answer in answers]
    statuses = [status for status, _, _ in results]
    assert statuses.count(200) == 5 and statuses.count(503) == 59 and model.most == 2
    assert all(headers["retry-after"] for status, headers, _ in results if status == 503)


def test_64_clients_with_many_texts_take_the_memory_of_a_few_small_batches(tmp_path):
    """One batch of a request's size takes some 50 MB here; all requests at once, or each as a whole, would take GBs."""
    config = BertConfig(
        vocab_size=len(tiny.VOCABULARY), hidden_size=128, intermediate_size=1024, num_attention_heads=2,
        num_hidden_layers=1, max_position_embeddings=256, num_labels=len(tiny.TASK.labels),
    )  # fmt: skip
    task = tiny.TASK.model_copy(update={"max_length": 256})
    network = separate(BertForSequenceClassification(config)).eval()
    export_onnx(CompressedModel(network, tiny.tokenizer(), {}, tiny.model("bert", task=task).manifest), tmp_path)
    before, peak = peak_of_server(tmp_path, "the film was good " * 80, None, texts=32)
    assert peak - before < 250


def test_who_left_while_waiting_is_not_worked_for():
    model = Slow()
    with running(model) as port, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(ask, port) for _ in range(2)]
        until(lambda: model.running == 2)
        leaver = http.client.HTTPConnection("127.0.0.1", port)
        leaver.request("POST", "/predict", json.dumps({"texts": [TEXT]}), {"content-type": "application/json"})
        time.sleep(0.2)
        leaver.close()
        time.sleep(0.2)
        model.go.set()
        assert [answer.result()[0] for answer in answers] == [200, 200]
        assert ask(port)[0] == 200
    assert model.total == 3


def test_large_requests_are_computed_in_small_batches(plain_export, monkeypatch):
    classifier, sizes = OnnxClassifier(plain_export), []
    whole = classifier.logits(classifier.encode([TEXT] * 64))
    compute = classifier.logits
    monkeypatch.setattr(
        classifier,
        "logits",
        lambda inputs, speed=None: sizes.append(len(inputs["input_ids"])) or compute(inputs, speed),
    )
    answers = classifier.predict([TEXT] * 60 + ["dull"])
    assert len(answers) == 61 and max(sizes) <= 8 and len(whole) == 64


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /health HTTP/1.1\r\nhost: x\r\n",
        b'POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n{"texts"',
        b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /health HTTP/1.1\r\nho",
    ],
    ids=["nothing", "half the headers", "half the body", "half a second request"],
)
def test_half_sent_requests_are_cut_off(sent, caplog):
    with running(Slow()) as port, socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(sent)
        client.settimeout(15)
        with pytest.raises(ConnectionResetError):
            while client.recv(1000):
                pass
            raise ConnectionResetError  # closed in peace
        assert ask(port, path="/health")[0] == 200
    assert "Exception" not in caplog.text


def test_a_slow_drip_of_headers_does_not_lengthen_the_time():
    def drip(client):
        client.sendall(b"GET /health HTTP/1.1\r\nx: ")
        for _ in range(100):
            client.sendall(b"a")
            time.sleep(0.1)

    with running(Slow()) as port, socket.create_connection(("127.0.0.1", port)) as client, pytest.raises(OSError):
        drip(client)


def test_health_answers_beside_more_idle_connections_than_the_limit():
    with running(Slow(), server.Limits(connections=20, seconds=60)) as port:
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        for _ in range(5):
            assert ask(port, path="/health")[0] == 200
        for client in idle:
            client.close()


@pytest.fixture(scope="module")
def real(plain_export):
    with running(OnnxClassifier(plain_export)) as port:
        yield port


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 190_000,
        b'{"texts":' * 20_000,
        b'{"texts": ["a"], "\\ud800": 1}',
        b'{"texts": ["\\ud800"]}',
        b'{"texts": ["a"], "speed": 1e999}',
        b'{"texts": ["a"], "speed": ' + b"9" * 5000 + b"}",
        b'{"texts": ["a"], "' + b"k" * 100_000 + b'": 1}',
        b"\xff\xfe",
        b"\x00",
        b"null",
        b'{"texts": ["a"]',
    ],
)
def test_no_body_is_the_servers_failure(real, body):
    status, _, content = ask(real, body)
    assert 400 <= status < 500 and len(content) < 1000 and json.loads(content)["detail"]


def test_odd_texts_are_answered(real):
    texts = ["\x00", "\u202e", "e" + "\u0301" * 5000, "\U0001f600" * 3000, " " * 20_000, "a" * 20_000]
    assert ask(real, json.dumps({"texts": texts}).encode())[0] == 200


def test_bodies_in_progress_are_bounded_together():
    limits = server.Limits(total_bytes=1000, running=1, waiting=5)
    model = Slow()
    body = json.dumps({"texts": ["a" * 600]}).encode()
    with running(model, limits) as port, ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, port, body)
        until(lambda: model.running == 1)
        assert ask(port, body)[0] == 503
        model.go.set()
        assert first.result()[0] == 200 and ask(port, body)[0] == 200


def test_output_that_is_not_finite_is_an_error_of_its_own(plain_export, monkeypatch, caplog):
    classifier = OnnxClassifier(plain_export)
    monkeypatch.setattr(classifier, "logits", lambda inputs, speed=None: np.full((1, 3), np.nan, np.float32))
    with pytest.raises(NonFiniteOutputError, match="not finite"):
        classifier.predict(["a secret"])
    with running(classifier) as port:
        status, _, content = ask(port, json.dumps({"texts": ["a secret"]}).encode())
    assert status == 500 and "not finite" in json.loads(content)["detail"]
    assert "not finite" in caplog.text and "secret" not in caplog.text


def test_an_error_of_the_model_does_not_log_the_text(plain_export, monkeypatch, caplog):
    classifier = OnnxClassifier(plain_export)

    def fail(texts, pairs, speed):
        raise RuntimeError(f"cannot compute {texts}")

    monkeypatch.setattr(classifier, "predict", fail)
    with running(classifier) as port:
        status, _, content = ask(port, json.dumps({"texts": ["a secret"]}).encode())
    assert status == 500 and b"secret" not in content
    assert "RuntimeError" in caplog.text and "secret" not in caplog.text
