"""Peak memory of `lissom serve` while 64 clients ask at once."""

import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

CLIENTS = 64

_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")
_SECONDS = 120


def peak_of_server(folder: Path, text: str, pair: str | None, texts: int) -> tuple[float, float]:
    """Return MiB of a server of an exported folder after one request with one text, and at most while 64 clients ask.

    Args:
        folder: the exported folder.
        text: the text that every client asks about.
        pair: the second text, for a model of pairs.
        texts: how many texts a request holds.

    Raises:
        AssertionError: an answer is neither 200 nor 503.
    """

    def body(count: int) -> bytes:
        return json.dumps({"texts": [text] * count} | ({} if pair is None else {"pairs": [pair] * count})).encode()

    with _running(folder) as (port, process):
        assert _ask(port, body(1)) == 200
        before = _peak_mib(process)
        with ThreadPoolExecutor(CLIENTS) as pool:
            statuses = list(pool.map(lambda _: _ask(port, body(texts)), range(CLIENTS)))
        assert set(statuses) <= {200, 503}, statuses
        return before, _peak_mib(process)


@contextmanager
def _running(folder: Path) -> Iterator[tuple[int, int]]:
    """Run `lissom serve` on a free port; yield the port and the number of the process."""
    lissom = Path(sys.executable).with_name("lissom")
    command = [str(lissom), "serve", "--model", str(folder), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = next(int(found[1]) for line in process.stdout if (found := _ADDRESS.search(line)))
            yield port, process.pid
        finally:
            process.terminate()


def _ask(port: int, body: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request("POST", "/predict", body, {"content-type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()


def _peak_mib(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024
