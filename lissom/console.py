"""Progress bars and messages on the terminal; no bars in CI and in pipes."""

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lissom.training.hooks import Hook

T = TypeVar("T")

console = Console(stderr=True)


def interactive() -> bool:
    """Return whether to show progress bars: the console is a terminal, outside CI, and this is the main process."""
    return console.is_terminal and not os.environ.get("CI") and _speaks()


def _speaks() -> bool:
    """Return whether this is the main process of a stage (rank 0 of torchrun)."""
    return os.environ.get("RANK", "0") == "0"


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not interactive(), transient=True,
    )  # fmt: skip


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield the items under a progress bar."""
    with _progress() as progress:
        task = progress.add_task(description, total=total, rate="")
        for item in items:
            yield item
            progress.advance(task)


class ProgressBar(Hook):
    """A bar over the steps of a training, with the last loss and the dev score."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._progress = _progress()
        self._task: TaskID | None = None
        self._notes: dict[str, float] = {}

    def before_step(self, step: int, total: int) -> None:
        """Advance the bar, which starts at the first step of this process."""
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task(self._description, total=total, completed=step, rate="")
        speed = self._progress.tasks[0].speed
        notes = [f"{speed:.1f} steps/s"] if speed else []
        notes += [f"{name.replace('_', ' ')} {value:.3f}" for name, value in self._notes.items()]
        self._progress.update(self._task, completed=step + 1, rate=", ".join(notes))

    def on_record(self, record: dict[str, float]) -> None:
        """Store the metrics that the bar shows."""
        self._notes |= {name: value for name, value in record.items() if name in ("loss", "dev_score")}

    def end(self) -> None:
        """Remove the bar, also of a training that ends early or fails."""
        self._progress.stop()


def note(text: str) -> None:
    """Print a message to the user, from the main process only."""
    if _speaks():
        console.print(text, markup=False, emoji=False, highlight=False)
