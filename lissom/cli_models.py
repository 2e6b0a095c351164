"""Commands that look at models: `lissom inspect`, `lissom compare`, `lissom sensitivity`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lissom.errors import InputError

if TYPE_CHECKING:
    from lissom.models.block_sizes import Part

out = Console(markup=False, emoji=False, highlight=False)
_BLOCKS = typer.Option(help="Show in MiB where the bytes lie: embeddings, attention and FFN of every block.")


def inspect(
    model: Annotated[
        str, typer.Argument(help="A model directory; with --blocks also hub:NAME, package:NAME/FOLDER or any folder.")
    ],
    blocks: Annotated[bool, _BLOCKS] = False,
) -> None:
    """Show edits, sizes and lineage of a model directory."""
    from lissom.tracking.comparison import describe

    if blocks:
        _show_blocks([model])
        return
    for title, value in describe(model).items():
        out.print(title, style="bold")
        out.print(value or Text("none", style="dim"), soft_wrap=True)


def compare(
    first: Annotated[str, typer.Argument(help="Model directory or models:/NAME/VERSION.")],
    second: Annotated[str, typer.Argument(help="Model directory or models:/NAME/VERSION.")],
    blocks: Annotated[bool, _BLOCKS] = False,
) -> None:
    """Set two models side by side."""
    from lissom.tracking.comparison import describe

    if blocks:
        _show_blocks([first, second])
        return
    left, right = describe(first), describe(second)
    table = Table(show_lines=True)
    for name in ("", first, second):
        table.add_column(name, overflow="fold")
    for title in {**left, **right}:
        table.add_row(title, left.get(title, "-"), right.get(title, "-"))
    out.print(table)


def sensitivity(
    model: Annotated[Path, typer.Argument(help="A model directory of floats.")] = Path("artifacts/teacher"),
    data: Annotated[Path, typer.Option(help="The prepared data set.")] = Path("artifacts/prepare"),
    change: Annotated[list[str] | None, typer.Option(help="Names of changes; all if none is named.")] = None,
    examples: Annotated[int, typer.Option(min=1, help="Labelled training examples, drawn at random.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of that draw.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Write the figures here as JSON.")] = None,
) -> None:
    """Change one layer at a time, and show how far the model's answers move: which layers are friendly to what."""
    from lissom.artifacts import write_json
    from lissom.evaluate.sensitivity import CHANGES, measure

    unknown = [name for name in change or () if name not in CHANGES]
    if unknown:
        raise InputError(f"no change {', '.join(unknown)}; there are: {', '.join(CHANGES)}")
    names = list(change or CHANGES)
    table = Table(
        caption="KL divergence from the model's own answers in nats, of numbers the squared distance, times 1,000 "
        "(loss: its change, times 1,000)"
    )
    for name in ("layer", *names):
        table.add_column(name, justify="left" if name == "layer" else "right", overflow="fold")
    found = measure(model, data, names, examples, seed)
    for layer, effects in found.items():
        table.add_row(
            layer, *(f"{1000 * effects[name].divergence:.3g} ({1000 * effects[name].loss:+.2g})" for name in names)
        )
    out.print(table)
    if output is not None:
        write_json(output, [
            {"layer": effect.layer, "change": effect.change, "divergence": effect.divergence, "loss": effect.loss}
            for effects in found.values() for effect in effects.values()
        ])  # fmt: skip


COMMANDS = (inspect, compare, sensitivity)


def _show_blocks(models: list[str]) -> None:
    """Print a table of parts; of two models, with both figures in every cell."""
    from lissom.models.block_sizes import Part, parts_at

    tables = [{part.name: part for part in parts_at(model)} for model in models]
    sums = [
        Part("all", *(sum(getattr(part, name) for part in parts.values()) for name in ("attention", "ffn", "other")))
        for parts in tables
    ]
    table = Table(caption="MiB as stored, and share of the whole" + (", before and after" if len(models) > 1 else ""))
    table.add_column("")
    for title in ("attention", "FFN", "all", "share"):
        table.add_column(title, justify="right", overflow="fold")
    for name in dict.fromkeys(name for parts in tables for name in parts):
        parts = [parts.get(name) for parts in tables]
        table.add_row(name, *_cells(parts, [whole.all for whole in sums]))
    table.add_row(*("all", *_cells(sums, [whole.all for whole in sums])), style="bold")
    out.print(table)


def _cells(parts: Sequence["Part | None"], totals: Sequence[int]) -> list[str]:
    """Return attention, FFN, all and share of a part in every model."""
    rows = [
        ("-", "-", "-", "-") if part is None
        else (_mib(part.attention), _mib(part.ffn), _mib(part.all), f"{part.all / total:.1%}")
        for part, total in zip(parts, totals, strict=True)
    ]  # fmt: skip
    return [" → ".join(column) for column in zip(*rows, strict=True)]


def _mib(size: int) -> str:
    return f"{size / 2**20:.2f}" if size else ""
