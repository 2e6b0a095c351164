"""In place of `python` and `lissom` on PATH: hands a start over to the warm server, and is its process for others.

Signals and the exit code pass through; if this process is killed, the server kills the child.
"""

import os
import sys


def module(real: str, words: list[str]) -> str | None:
    """Return what the server is to run, or None for what it cannot."""
    if real.endswith("/lissom"):
        return "lissom"
    rest = words[1:] if words[:1] == ["-u"] else words
    ours = len(rest) > 1 and rest[0] == "-m" and rest[1].startswith(("lissom.components.", "lissom.pipelines"))
    return rest[1] if ours else None


def main(real: str, address: str) -> None:
    """Be the program `real`, with the server at `address` doing the work where it can."""
    words = sys.argv[1:]
    name = None if os.environ.get("LISSOM_TESTS_COLD") else module(real, words)
    if name is None:
        os.execv(real, [real, *words])
    import json
    import signal
    import socket

    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
    except OSError:
        os.execv(real, [real, *words])
    unbuffered = words[:1] == ["-u"]
    arguments = words if name == "lissom" else words[2 + unbuffered :]
    umask = os.umask(0)
    os.umask(umask)
    start = {
        "module": name, "arguments": arguments, "program": real, "unbuffered": unbuffered, "folder": os.getcwd(),  # noqa: PTH109
        "environment": dict(os.environ), "umask": umask, "pid": os.getpid(),
    }  # fmt: skip
    body = json.dumps(start).encode()
    socket.send_fds(connection, [len(body).to_bytes(4, "big")], [0, 1, 2])
    connection.sendall(body)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: connection.send(bytes([number])))
    answer = connection.recv(4)
    if len(answer) < 4:  # the server's side has died
        os.kill(os.getpid(), signal.SIGKILL)
    code = int.from_bytes(answer, "big", signed=True)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
