"""Running a GGUF file with the settings of its Modelfile, as Ollama would: texts, conversations, a server."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lissom.artifacts import OLLAMA
from lissom.errors import InputError, advice_for
from lissom.gguf.modelfile import MODELFILE, Modelfile, parse
from lissom.models.source import GGUF, opened_gguf
from lissom.serving.cores import usable_cores
from lissom.serving.llama_server import DEFAULTS, ContextError, LlamaServer

DEFAULT = f"artifacts/export/quantize/{OLLAMA}"
_CONTEXT = 2048
_BEFORE = (
    "{{% set given = messages[0]['role'] == 'system' %}}"
    "{{% set messages = (messages[:1] if given else {first}) + {earlier} + (messages[1:] if given else messages) %}}"
)
"""What stands before a chat template to add a Modelfile's messages, in Jinja."""


class _TooLongError(InputError):
    """A text or a conversation is longer than the context."""


@dataclass(frozen=True)
class Runnable:
    """A GGUF file and its Modelfile; without one, the defaults of Ollama."""

    path: Path
    modelfile: Modelfile

    def start(self, threads: int | None = None, host: str = "127.0.0.1", port: int = 0) -> LlamaServer:
        """Start llama.cpp's server, where the Modelfile's settings hold for requests that name none.

        Raises:
            InputError: the file cannot be loaded, the port is taken or the package is missing.
        """
        values = dict(self.modelfile.parameters)
        stops = [value for name, value in self.modelfile.parameters if name == "stop"]
        defaults = {name: value for name, value in values.items() if name in DEFAULTS} | {"stop": stops}
        context, cores = int(values.get("num_ctx", _CONTEXT)), int(values.get("num_thread", usable_cores()))
        try:
            return LlamaServer(
                self.path, context, threads or cores, host, port, defaults=defaults, chat_template=self._template()
            )
        except ModuleNotFoundError as error:
            raise InputError(f"{self.path}: {advice_for(error)}") from None
        except ValueError as error:
            raise InputError(str(error)) from None

    def _template(self) -> str | None:
        """Return the file's template behind the Modelfile's messages; None if there are none, or no template.

        Requests hold what is said after them, as Ollama's do. A system prompt of a request takes the Modelfile's place.
        """
        system = self.modelfile.system
        if system is None and not self.modelfile.messages:
            return None
        field = opened_gguf(self.path).fields.get("tokenizer.chat_template")
        if field is None:
            return None
        first = [] if system is None else [{"role": "system", "content": system}]
        earlier = [{"role": role, "content": content} for role, content in self.modelfile.messages]
        return _BEFORE.format(first=_literal(first), earlier=_literal(earlier)) + str(field.contents())


def continuation(server: LlamaServer, text: str, most: int | None = None) -> Iterator[str]:
    """Yield the pieces of a text's continuation; with `most`, at most so many tokens."""
    for part in _stream(server, "/v1/completions", {"prompt": text, **_limit(most)}):
        yield part["choices"][0].get("text") or ""


def reply(server: LlamaServer, messages: list[dict[str, str]], most: int | None = None) -> Iterator[str]:
    """Yield the pieces of the answer to a conversation; with `most`, at most so many tokens.

    Where a conversation is longer than the context, the oldest messages are forgotten, as Ollama does: they are removed
    from `messages`.
    """
    while True:
        try:
            for part in _stream(server, "/v1/chat/completions", {"messages": messages, **_limit(most)}):
                if part["choices"]:
                    yield part["choices"][0]["delta"].get("content") or ""
            return
        except _TooLongError:
            if len(messages) < 3:  # a question, without an earlier one and its answer
                raise
            del messages[:2]


def _literal(messages: Sequence[Mapping[str, str]]) -> str:
    """Return messages as a literal of Jinja, which reads strings of JSON."""
    return json.dumps(messages, ensure_ascii=False)


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
            try:
                modelfile = parse(file.read_text(encoding="utf-8"))
            except UnicodeDecodeError:
                raise InputError(f"{file}: neither a GGUF file ({GGUF}) nor a Modelfile, which is text") from None
            path = file.parent / modelfile.source
            if not path.is_file():
                raise InputError(f"{file}: FROM {modelfile.source}: no such file")
            return Runnable(path, modelfile)
    raise InputError(f"{model}: no GGUF file, and no folder with a Modelfile; export.formats: [gguf] makes {DEFAULT}")


def is_gguf_model(model: str) -> bool:
    """Return whether a name is that of a GGUF file, or of a folder for Ollama."""
    place = Path(model)
    return place.suffix == GGUF or place.name.startswith(MODELFILE) or (place / MODELFILE).is_file()


def _limit(most: int | None) -> dict[str, int]:
    return {} if most is None else {"max_tokens": most}


def _stream(server: LlamaServer, path: str, body: dict[str, Any]) -> Iterator[Any]:
    try:
        yield from server.stream(path, body)
    except ContextError as error:
        raise _TooLongError(str(error)) from None
    except ValueError as error:
        raise InputError(str(error)) from None
