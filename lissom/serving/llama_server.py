"""llama.cpp's server, the engine that Ollama runs: an OpenAI-compatible endpoint for a GGUF file.

Needs the package xllamacpp alone: no torch, no transformers.
"""

import json
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class LlamaServer:
    """A GGUF file behind HTTP: /v1/chat/completions, /v1/completions, /apply-template, /tokenize, /health.

    It runs in this process until `close`, or until the process ends.

    Args:
        path: path of the file.
        context: the longest conversation in tokens.
        threads: number of threads of an answer.
        host: address to listen on.
        port: port; 0 takes a free one.
        name: the model's name in answers.

    Raises:
        ValueError: llama.cpp cannot load the file, or the port is taken.
        ModuleNotFoundError: the package xllamacpp is missing.
    """

    def __init__(
        self, path: Path, context: int, threads: int, host: str = "127.0.0.1", port: int = 0, name: str = ""
    ) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.model_alias = {name or path.stem}
        params.n_ctx, params.n_parallel = context, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.hostnames, params.port = [host], port
        params.use_jinja, params.warmup, params.verbosity = True, False, 0
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError:
            where = f", or {host}:{port} is taken" if port else ""
            raise ValueError(f"{path}: llama.cpp cannot load it{where}") from None
        self.address: str = self._server.listening_address

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the answer in JSON to a request in JSON.

        Raises:
            ValueError: the server refuses the request; the message is its own.
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

    def close(self) -> None:
        """End the server."""
        del self._server

    def _open(self, path: str, body: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            return urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            raise ValueError(f"llama.cpp refuses the request: {error.read().decode()[:500]}") from None
