"""llama.cpp's server in a process of its own: it ends when it is asked to, and with the process that started it."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from lissom.gguf.file import gguf_model, write_gguf
from lissom.gguf.file_types import FILE_TYPES
from lissom.serving.llama_server import LlamaServer
from tests.unit.test_gguf import model_of
from tests.waiting import free_port


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    result = tmp_path_factory.mktemp("server") / "model.gguf"
    write_gguf(gguf_model(model_of("llama")), result, FILE_TYPES["f32"])
    return result


def answers(address):
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def test_it_ends_at_any_time(path):
    """Also at once, while llama.cpp still starts its threads."""
    for _ in range(5):
        server = LlamaServer(path, context=24, threads=1)
        server.close()
        assert not answers(server.address)
        with pytest.raises(ValueError, match="does not answer"):
            server.post("/tokenize", {"content": "good"})


def test_it_ends_with_its_parent(path):
    code = f"""
from pathlib import Path
from lissom.serving.llama_server import LlamaServer
server = LlamaServer(Path({str(path)!r}), 24, 1)
print(server.address, flush=True)
input()
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    address = parent.stdout.readline().strip()
    assert answers(address)
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    end = time.monotonic() + 20
    while answers(address):
        assert time.monotonic() < end, "the server outlives the process that started it"
        time.sleep(0.05)


def test_a_port_that_is_taken_is_told(path):
    server = LlamaServer(path, context=24, threads=1, port=free_port())
    try:
        port = int(server.address.rsplit(":", 1)[1])
        with pytest.raises(ValueError, match=f"or 127.0.0.1:{port} is taken"):
            LlamaServer(path, context=24, threads=1, port=port)
    finally:
        server.close()
