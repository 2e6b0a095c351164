"""Ollama's Modelfile: writing and reading (https://docs.ollama.com/modelfile)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lissom.errors import InputError

MODELFILE = "Modelfile"
Kind = Literal["int", "float", "string"]
PARAMETERS: dict[str, Kind] = {
    "num_ctx": "int", "repeat_last_n": "int", "repeat_penalty": "float", "temperature": "float", "seed": "int",
    "stop": "string", "num_predict": "int", "top_k": "int", "top_p": "float", "min_p": "float", "typical_p": "float",
    "presence_penalty": "float", "frequency_penalty": "float", "mirostat": "int", "mirostat_eta": "float",
    "mirostat_tau": "float", "num_keep": "int", "num_gpu": "int", "num_thread": "int", "num_batch": "int",
}  # fmt: skip
"""Ollama's parameters; `stop` may be given several times."""
_INSTRUCTIONS = ("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE", "REQUIRES")
_MARKS = ('"""', '"')
_WORD, _NAME = re.compile(r"\s*(\S+)[ \t]*"), re.compile(r"(\S+)[ \t]*")
_CLOSING = {mark: re.compile(mark + r"[ \t]*(?:[\r\n]|\Z)" if mark else r"[\r\n]|\Z") for mark in (*_MARKS, "")}
"""What ends a value: a closing quote at the end of a line, or the line, as Ollama's parser has it."""
_ROLES = ("system", "user", "assistant")
Value = int | float | str


@dataclass(frozen=True)
class Modelfile:
    """What Ollama makes a model of."""

    source: str
    """FROM: path of the GGUF file, relative to the Modelfile."""
    parameters: tuple[tuple[str, Value], ...] = ()
    template: str | None = None
    """A Go template; without one, Ollama takes the Jinja template in the file."""
    system: str | None = None
    license: str | None = None
    messages: tuple[tuple[str, str], ...] = ()
    """Role and text of earlier messages."""
    requires: str | None = None
    """The oldest version of Ollama that runs the model."""

    def text(self) -> str:
        """Return the file's content.

        Raises:
            InputError: a parameter is not known or has a value of another type, or a text cannot be quoted.
        """
        lines = [f"FROM {self.source}"]
        if self.requires is not None:
            lines.append(f"REQUIRES {self.requires}")
        for name, value in self.parameters:
            lines.append(f"PARAMETER {name} {_shown(name, value)}")
        texts = (("TEMPLATE", self.template), ("SYSTEM", self.system), ("LICENSE", self.license))
        lines += [f"{name} {_quoted(text)}" for name, text in texts if text is not None]
        lines += [f"MESSAGE {role} {_quoted(text)}" for role, text in self.messages]
        return "\n".join(lines) + "\n"


def parse(text: str) -> Modelfile:
    """Read a Modelfile.

    Raises:
        InputError: an instruction or parameter is not known, a value is of another type, or FROM is missing.
    """
    source, parameters, messages = None, [], []
    texts: dict[str, str] = {}
    for instruction, rest in _instructions(text):
        match instruction:
            case "FROM":
                source = rest
            case "PARAMETER":
                name, _, value = rest.partition(" ")
                parameters.append((name, _read(name, value)))
            case "MESSAGE":
                role, _, message = rest.partition(" ")
                if role not in _ROLES:
                    raise InputError(f"Modelfile: MESSAGE {role}: allowed roles are {', '.join(_ROLES)}")
                messages.append((role, message))
            case _:
                texts[instruction] = rest
    if not source:
        raise InputError("Modelfile: FROM is missing; it names the model's file")
    return Modelfile(
        source, tuple(parameters), texts.get("TEMPLATE"), texts.get("SYSTEM"), texts.get("LICENSE"), tuple(messages),
        texts.get("REQUIRES"),
    )  # fmt: skip


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield instructions in capitals with their value; of PARAMETER and MESSAGE, a name and a space stand before it.

    A value in quotes may have several lines. There are no escapes: a value ends at a quote that ends a line.
    """
    place = 0
    while match := _WORD.match(text, place):
        word, place = match[1], match.end()
        if word.startswith("#"):
            place = _end_of_line(text, match.start(1))
            continue
        if word.upper() not in _INSTRUCTIONS:
            raise InputError(f"Modelfile: {word!r} is no instruction; allowed: {', '.join(_INSTRUCTIONS)}")
        name = ""
        if word.upper() in ("PARAMETER", "MESSAGE") and (second := _NAME.match(text, place)):
            name, place = f"{second[1]} ", second.end()
        mark = next((mark for mark in _MARKS if text.startswith(mark, place)), "")
        end = _CLOSING[mark].search(text, place + len(mark))
        if end is None:
            raise InputError(f"Modelfile: the text of {word} has no closing {mark}")
        yield word.upper(), name + text[place + len(mark) : end.start()].strip("" if mark else " \t")
        place = end.end()


def _end_of_line(text: str, place: int) -> int:
    return min((found for mark in "\r\n" if (found := text.find(mark, place)) >= 0), default=len(text))


def _quoted(text: str) -> str:
    """Return a text on one line as it is, or in triple quotes, which it must not contain."""
    if '"""' in text:
        raise InputError('Modelfile: a text must not contain """, which ends texts there')
    plain = text and text == text.strip() and not text.startswith('"') and not set("\r\n") & set(text)
    return text if plain else f'"""{text}"""'


def _shown(name: str, value: Value) -> str:
    _read(name, str(value))
    if PARAMETERS[name] != "string":
        return f"{value:g}" if isinstance(value, float) else str(value)
    return _quoted(str(value))


def _read(name: str, value: str) -> Value:
    if name not in PARAMETERS:
        raise InputError(f"Modelfile: PARAMETER {name} is not known; allowed: {', '.join(PARAMETERS)}")
    try:
        match PARAMETERS[name]:
            case "int":
                return int(value)
            case "float":
                return float(value)
            case "string":
                return value
    except ValueError:
        raise InputError(f"Modelfile: PARAMETER {name} {value}: must be of type {PARAMETERS[name]}") from None
