"""Commands of language models in llama.cpp: `lissom generate`, `lissom chat`, and `lissom serve` of a GGUF file."""

import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from lissom.gguf.running import Runnable


_SECONDS_BETWEEN_LOOKS = 1.0


def serve(model: str, threads: int | None, host: str, port: int) -> None:
    """Run llama.cpp's server until the process is asked to end, or the server ends by itself.

    Raises:
        InputError: the server ended by itself, for example for want of memory.
    """
    from lissom.errors import InputError
    from lissom.gguf.running import find

    runnable = find(model)
    server, is_asked = runnable.start(threads, host, port), threading.Event()
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, lambda *_: is_asked.set())
    print(f"{runnable.path.name}: {server.address}/v1", flush=True)
    while server.is_alive:
        if is_asked.wait(_SECONDS_BETWEEN_LOOKS):
            server.close()
            return
    raise InputError(f"{runnable.path}: llama.cpp's server ended by itself; start it again")


_GGUF_MODEL = Annotated[
    str, typer.Option(help="A GGUF file, a folder for Ollama, or the exported folder that holds one.")
]
_MOST_TOKENS = Annotated[int | None, typer.Option(min=1, help="The most tokens of an answer.")]


def generate(
    text: Annotated[str, typer.Argument(help="The text to continue; '-' reads it from standard input.")],
    model: _GGUF_MODEL = "artifacts/export/quantize",
    tokens: _MOST_TOKENS = 128,
) -> None:
    """Continue a text with a language model in llama.cpp, with the settings of its Modelfile, num_predict left out."""
    from lissom.gguf.running import continuation, find

    server = find(model).start()
    for piece in continuation(server, sys.stdin.read() if text == "-" else text, tokens):
        print(piece, end="", flush=True)
    print()
    server.close()


def chat(
    text: Annotated[str | None, typer.Argument(help="One message to answer; without it, a conversation.")] = None,
    model: _GGUF_MODEL = "artifacts/export/quantize",
    tokens: _MOST_TOKENS = None,
) -> None:
    """Talk to a language model in llama.cpp, with the settings of its Modelfile; an empty line ends it."""
    from lissom.errors import InputError
    from lissom.gguf.running import find, reply

    runnable = find(model)
    _check_chats(runnable)
    server = runnable.start()
    messages: list[dict[str, str]] = []
    if text is not None and not text.strip():
        raise InputError("the message is empty; leave it away for a conversation")
    while message := text or _ask():
        messages.append({"role": "user", "content": message})
        answer = ""
        for piece in reply(server, messages, tokens):
            print(piece, end="", flush=True)
            answer += piece
        print()
        messages.append({"role": "assistant", "content": answer})
        if text is not None:
            break
    server.close()


def harness(
    tasks: Annotated[list[str], typer.Argument(help="Names of tasks, or task files of your own (YAML).")],
    model: Annotated[
        list[str],
        typer.Option(help="Model directory, exported folder, folder for Ollama or GGUF file; several are compared."),
    ],
    shots: Annotated[int | None, typer.Option(min=0, help="Examples before every question.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions of every task; default: all.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the metrics here as JSON.")] = None,
) -> None:
    """Measure language models on tasks of lm-evaluation-harness, side by side."""
    from lissom.artifacts import write_json
    from lissom.evaluate.harness import run

    results = run(model, tasks, shots, limit)
    table = Table()
    for name in ("task", "metric", *model):
        table.add_column(name, overflow="fold")
    for task in results[model[0]]:
        for metric in results[model[0]][task]:
            table.add_row(task, metric, *(f"{results[each][task][metric]:.4g}" for each in model))
    Console(markup=False, emoji=False, highlight=False).print(table)
    if output is not None:
        write_json(output, results)


def _check_chats(runnable: "Runnable") -> None:
    """Raise `InputError` if a file has no chat template: an engine would make one up that the model never saw."""
    from lissom.errors import InputError
    from lissom.models.source import opened_gguf

    if "tokenizer.chat_template" not in opened_gguf(runnable.path).fields:
        raise InputError(
            f"{runnable.path}: the model has no chat template, it continues texts: use lissom generate, or a base "
            "model for chat"
        )


def _ask() -> str:
    """Return the next message from the terminal; empty at its end."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return ""
