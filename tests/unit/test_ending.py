"""Errors of libraries reach the user as one line with cause and advice."""

import errno
import os

import pytest

from lissom.ending import DEBUG, finish_with_message
from lissom.errors import InputError


def ending(error: BaseException, monkeypatch) -> str | int:
    monkeypatch.delenv(DEBUG, raising=False)

    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        finish_with_message("stage", command)
    return caught.value.code


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InputError("first\nsecond"), "stage: first\nsecond"),  # a message of lissom's own is told whole
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x"), "stage: /data/x: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), "stage: /root/x: permission is missing"),
        (OSError(errno.EROFS, "Read-only file system"), "stage: the place is read-only"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "stage: out of memory: take a smaller batch size"),
        (MemoryError(), "stage: out of memory"),
        (ModuleNotFoundError("no", name="mlflow.x"), "stage: this needs the package mlflow: pip install 'lissom[tracking]'"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "stage: No module named 'x' (set LISSOM_DEBUG=1"),
        (ValueError("one\ntwo\nthree"), "stage: ValueError: one (set LISSOM_DEBUG=1 for the traceback)"),
        (KeyError("x"), "stage: KeyError: 'x' (set LISSOM_DEBUG=1"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "stage: UnicodeDecodeError: 'utf-8' codec"),
    ],
)  # fmt: skip
def test_an_error_ends_with_a_line(error, expected, monkeypatch):
    message = ending(error, monkeypatch)
    assert message.startswith(expected)
    assert isinstance(error, InputError) or "\n" not in message


def test_an_interrupt_is_no_error(monkeypatch):
    assert ending(KeyboardInterrupt(), monkeypatch) == 130


def test_the_traceback_is_shown_on_demand(monkeypatch):
    monkeypatch.setenv(DEBUG, "1")

    def command() -> None:
        raise ValueError("one")

    with pytest.raises(ValueError, match="one"):
        finish_with_message("stage", command)


def test_success_is_silent():
    finish_with_message("stage", lambda: None)
