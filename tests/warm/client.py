"""In place of `python` and `lissom` on PATH: hands a start over to the warm server, and is its process for others.

Written into a session's folder with two lines before it: REAL, the program in whose place it is, and SOCKET. Signals and
the exit code pass through; if this process is killed, the server kills the child.
"""

import os
import sys


def module(words: list[str]) -> str | None:
    """Return what the server is to run, or None for what it cannot."""
    if os.path.basename(REAL) == "lissom":
        return "lissom"
    rest = words[1:] if words[:1] == ["-u"] else words
    ours = len(rest) > 1 and rest[0] == "-m" and rest[1].split(".")[0] in ("components", "pipelines")
    return rest[1] if ours else None


def main() -> None:
    words = sys.argv[1:]
    name = None if os.environ.get("LISSOM_TESTS_COLD") else module(words)
    if name is None:
        os.execv(REAL, [REAL, *words])
    import json
    import signal
    import socket

    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(SOCKET)
    except OSError:
        os.execv(REAL, [REAL, *words])
    unbuffered = words[:1] == ["-u"]
    arguments = words if name == "lissom" else words[2 + unbuffered :]
    umask = os.umask(0)
    os.umask(umask)
    start = {
        "module": name, "arguments": arguments, "program": REAL, "unbuffered": unbuffered, "folder": os.getcwd(),
        "environment": dict(os.environ), "umask": umask, "pid": os.getpid(),
    }
    body = json.dumps(start).encode()
    socket.send_fds(connection, [len(body).to_bytes(4, "big")], [0, 1, 2])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: connection.send(bytes([number])))
    connection.sendall(body)
    answer = connection.recv(4)
    if len(answer) < 4:  # the server's side has died
        os.kill(os.getpid(), signal.SIGKILL)
    code = int.from_bytes(answer, "big", signed=True)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


main()
