"""llama.cpp's server, the engine that Ollama runs: an OpenAI-compatible endpoint for a GGUF file.

Needs the package xllamacpp alone: no torch, no transformers. The server has a process of its own
(`python -m lissom.serving.llama_server SETTINGS`), which can be ended at any time: inside of this one, ending it while
it still starts would wait forever.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lissom.serving.memory import peak_bytes

_OF_SAMPLING = {
    "temperature": "temp", "repeat_penalty": "penalty_repeat", "repeat_last_n": "penalty_last_n", "seed": "seed",
    "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "typical_p": "typ_p", "presence_penalty": "penalty_present",
    "frequency_penalty": "penalty_freq", "mirostat": "mirostat", "mirostat_eta": "mirostat_eta",
    "mirostat_tau": "mirostat_tau",
}  # fmt: skip
"""llama.cpp's names of how a Modelfile draws the next token."""
_OF_SERVER = {"stop": "antiprompt", "num_predict": "n_predict", "num_keep": "n_keep", "num_batch": "n_batch"}
"""llama.cpp's names of other settings of a Modelfile."""
DEFAULTS = (*_OF_SAMPLING, *_OF_SERVER)


class ContextError(ValueError):
    """A request is longer than the server's context."""


class LlamaServer:
    """A GGUF file behind HTTP: /v1/chat/completions, /v1/completions, /apply-template, /tokenize, /health.

    It runs until `close`, or until this process ends.

    Args:
        path: path of the file.
        context: the longest conversation in tokens.
        threads: number of threads of an answer.
        host: address to listen on.
        port: port; 0 takes a free one.
        name: the model's name in answers.
        embeds: whether it answers texts with embeddings, at /v1/embeddings; the file says how they are pooled.
        defaults: settings of requests that name none, by their names in a Modelfile, and `stop`, a list of texts.
        chat_template: the template of conversations in Jinja; None takes the file's.

    Raises:
        ValueError: llama.cpp cannot load the file, or the port is taken.
        ModuleNotFoundError: the package xllamacpp is missing.
    """

    def __init__(
        self, path: Path, context: int, threads: int, host: str = "127.0.0.1", port: int = 0, name: str = "",
        embeds: bool = False, defaults: Mapping[str, Any] | None = None, chat_template: str | None = None,
    ) -> None:  # fmt: skip
        if importlib.util.find_spec("xllamacpp") is None:
            raise ModuleNotFoundError("No module named 'xllamacpp'", name="xllamacpp")
        settings = {
            "path": str(path), "context": context, "threads": threads, "host": host, "port": port,
            "name": name or path.stem, "embeds": embeds, "defaults": dict(defaults or {}),
            "chat_template": chat_template,
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lissom.serving.llama_server", json.dumps(settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.address: str = self._process.stdout.readline().strip()
        if not self.address:
            self.close()
            where = f", or {host}:{port} is taken" if port else ""
            raise ValueError(f"{path}: llama.cpp cannot load it{where}")

    @property
    def is_alive(self) -> bool:
        """Return whether the server's process runs."""
        return self._process.poll() is None

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the answer in JSON to a request in JSON.

        Raises:
            ValueError: the server refuses the request, with its own message, or has ended.
        """
        with self._open(path, body) as answer:
            return json.load(answer)

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
        """Yield the parts of an answer, in JSON, as they arrive."""
        with self._open(path, {**body, "stream": True}) as answer:
            for line in answer:
                text = line.decode().removeprefix("data:").strip()
                if line.startswith(b"data:") and text != "[DONE]":
                    yield json.loads(text)

    def peak_bytes(self) -> int:
        """Return the peak resident set size of the server's process so far."""
        return peak_bytes(self._process.pid)

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.communicate()

    def _open(self, path: str, body: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            return urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            message = error.read().decode()[:500]
            kind = ContextError if "exceed_context_size_error" in message else ValueError
            raise kind(f"llama.cpp refuses the request: {message}") from None
        except OSError as error:
            raise ValueError(f"llama.cpp's server does not answer: {error}") from None


def main(settings: Mapping[str, Any]) -> None:
    """Serve until standard input ends, as it does when the parent process ends; print the address first."""
    import xllamacpp

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the parent
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what llama.cpp prints is no address
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = settings["path"], {settings["name"]}
    params.n_ctx, params.n_parallel = settings["context"], 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.hostnames, params.port = [settings["host"]], settings["port"]
    params.use_jinja, params.warmup, params.verbosity = True, False, 0
    for given, value in settings["defaults"].items():
        if given in _OF_SERVER:
            setattr(params, _OF_SERVER[given], value)
        else:
            # Seeds are unsigned in llama.cpp, and -1 draws one.
            setattr(params.sampling, _OF_SAMPLING[given], value % 2**32 if given == "seed" else value)
    if settings["chat_template"] is not None:
        params.chat_template = settings["chat_template"]
    if settings["embeds"]:
        params.embedding, params.n_batch, params.n_ubatch = True, settings["context"], settings["context"]
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        os._exit(1)
    print(server.listening_address, file=answer, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
