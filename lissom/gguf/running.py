"""Running a GGUF file with the settings of its Modelfile, as Ollama would: texts, conversations, a server."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lissom.artifacts import OLLAMA
from lissom.errors import InputError, advice_for
from lissom.gguf.modelfile import MODELFILE, Modelfile, parse
from lissom.models.source import GGUF
from lissom.serving.cores import usable_cores
from lissom.serving.llama_server import LlamaServer

DEFAULT = f"artifacts/export/quantize/{OLLAMA}"
_CONTEXT = 2048
_OPTIONS = ("temperature", "repeat_penalty", "repeat_last_n", "seed", "top_k", "top_p", "min_p")
"""Parameters that llama.cpp's server takes by the same names."""


@dataclass(frozen=True)
class Runnable:
    """A GGUF file and its Modelfile; without one, the defaults of Ollama."""

    path: Path
    modelfile: Modelfile

    def start(self, threads: int | None = None, host: str = "127.0.0.1", port: int = 0) -> LlamaServer:
        """Start llama.cpp's server.

        Raises:
            InputError: the file cannot be loaded, the port is taken or the package is missing.
        """
        context = int(dict(self.modelfile.parameters).get("num_ctx", _CONTEXT))
        try:
            return LlamaServer(self.path, context, threads or usable_cores(), host, port)
        except ModuleNotFoundError as error:
            raise InputError(f"{self.path}: {advice_for(error)}") from None
        except ValueError as error:
            raise InputError(str(error)) from None

    def options(self, most: int | None) -> dict[str, Any]:
        """Return the settings of a request; with `most`, the most tokens of an answer."""
        values = dict(self.modelfile.parameters)
        options: dict[str, Any] = {name: values[name] for name in _OPTIONS if name in values}
        options["stop"] = [value for name, value in self.modelfile.parameters if name == "stop"]
        limit = most or int(values.get("num_predict", -1))
        return options if limit < 0 else {**options, "max_tokens": limit}

    def continuation(self, server: LlamaServer, text: str, most: int | None = None) -> Iterator[str]:
        """Yield the pieces of a text's continuation."""
        for part in _stream(server, "/v1/completions", {"prompt": text, **self.options(most)}):
            yield part["choices"][0].get("text") or ""

    def reply(self, server: LlamaServer, messages: Sequence[dict[str, str]], most: int | None = None) -> Iterator[str]:
        """Yield the pieces of the answer to a conversation, which the Modelfile's system prompt begins."""
        system = self.modelfile.system
        first = [] if system is None or (messages[:1] and messages[0]["role"] == "system") else [("system", system)]
        earlier = [{"role": role, "content": content} for role, content in (*first, *self.modelfile.messages)]
        body = {"messages": [*earlier, *messages], **self.options(most)}
        for part in _stream(server, "/v1/chat/completions", body):
            if part["choices"]:
                yield part["choices"][0]["delta"].get("content") or ""


def find(model: str) -> Runnable:
    """Find a GGUF file: by its path, by the folder for Ollama, or by the exported folder that holds it.

    Raises:
        InputError: there is none.
    """
    place = Path(model)
    if place.suffix == GGUF and place.is_file():
        return Runnable(place, Modelfile(place.name))
    for folder in (place, place / OLLAMA):
        file = folder / MODELFILE if folder.is_dir() else folder
        if file.is_file() and file.suffix != GGUF:
            modelfile = parse(file.read_text(encoding="utf-8"))
            path = file.parent / modelfile.source
            if not path.is_file():
                raise InputError(f"{file}: FROM {modelfile.source}: no such file")
            return Runnable(path, modelfile)
    raise InputError(
        f"{model}: no GGUF file, and no folder with a Modelfile; export.formats: [onnx, gguf] makes {DEFAULT}"
    )


def is_gguf_model(model: str) -> bool:
    """Return whether a name is that of a GGUF file, or of a folder for Ollama."""
    place = Path(model)
    return place.suffix == GGUF or place.name.startswith(MODELFILE) or (place / MODELFILE).is_file()


def _stream(server: LlamaServer, path: str, body: dict[str, Any]) -> Iterator[Any]:
    try:
        yield from server.stream(path, body)
    except ValueError as error:
        raise InputError(str(error)) from None
