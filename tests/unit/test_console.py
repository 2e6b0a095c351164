"""Bars and messages on the terminal."""

from io import StringIO

from rich.console import Console

from lissom import console


def test_the_bar_of_a_training_that_ends_early_gives_the_terminal_back(monkeypatch):
    written = StringIO()
    monkeypatch.setattr(console, "console", Console(file=written, force_terminal=True))
    monkeypatch.delenv("CI", raising=False)
    bar = console.ProgressBar("teacher")
    bar.before_step(0, 10)
    bar.end()
    text = written.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is hidden, and shown again
