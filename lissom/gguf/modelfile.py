"""Ollama's Modelfile: writing and reading (https://docs.ollama.com/modelfile)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lissom.errors import InputError

MODELFILE = "Modelfile"
Kind = Literal["int", "float", "string"]
PARAMETERS: dict[str, Kind] = {
    "num_ctx": "int", "repeat_last_n": "int", "repeat_penalty": "float", "temperature": "float", "seed": "int",
    "stop": "string", "num_predict": "int", "top_k": "int", "top_p": "float", "min_p": "float",
}  # fmt: skip
"""Known parameters; `stop` may be given several times."""
_INSTRUCTIONS = ("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE", "REQUIRES")
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
                parameters.append((name, _read(name, _unquoted(value.strip()))))
            case "MESSAGE":
                role, _, message = rest.partition(" ")
                if role not in _ROLES:
                    raise InputError(f"Modelfile: MESSAGE {role}: allowed roles are {', '.join(_ROLES)}")
                messages.append((role, _unquoted(message.strip())))
            case _:
                texts[instruction] = _unquoted(rest)
    if not source:
        raise InputError("Modelfile: FROM is missing; it names the model's file")
    return Modelfile(
        source, tuple(parameters), texts.get("TEMPLATE"), texts.get("SYSTEM"), texts.get("LICENSE"), tuple(messages),
        texts.get("REQUIRES"),
    )  # fmt: skip


def _instructions(text: str) -> Sequence[tuple[str, str]]:
    """Return instructions in capitals with what follows them; texts in triple quotes may have several lines."""
    result, lines = [], iter(text.splitlines())
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        word, _, rest = line.strip().partition(" ")
        if word.upper() not in _INSTRUCTIONS:
            raise InputError(f"Modelfile: {word!r} is no instruction; allowed: {', '.join(_INSTRUCTIONS)}")
        while rest.count('"""') == 1:
            following = next(lines, None)
            if following is None:
                raise InputError(f'Modelfile: the text of {word} has no closing """')
            rest += f"\n{following}"
        result.append((word.upper(), rest.strip()))
    return result


def _quoted(text: str) -> str:
    """Return a text on one line as it is, or in triple quotes, which it must not contain."""
    if '"""' in text:
        raise InputError('Modelfile: a text must not contain """, which ends texts there')
    plain = "\n" not in text and text == text.strip() and text and '"' not in text
    return text if plain else f'"""{text}"""'


def _unquoted(text: str) -> str:
    for mark in ('"""', '"'):
        if len(text) >= 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            inner = text[len(mark) : -len(mark)]
            return re.sub(r'\\(["\\])', r"\1", inner) if mark == '"' else inner
    return text


def _shown(name: str, value: Value) -> str:
    _read(name, str(value))
    if PARAMETERS[name] != "string":
        return f"{value:g}" if isinstance(value, float) else str(value)
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    if "\n" in escaped:
        raise InputError(f"Modelfile: {name} must be on one line: {value!r}")
    return f'"{escaped}"'


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
