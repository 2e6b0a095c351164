"""The end of a command that fails: one line with the cause and what to do, in place of a traceback."""

import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from lissom.errors import InputError, advice_for
from lissom.redaction import redacted
from lissom.serving.folder import DamagedFolderError

DEBUG = "LISSOM_DEBUG"
"""Environment variable; 1 shows the traceback of every error."""

ADVICE = {
    errno.ENOSPC: "the disk is full: free some space and run again, a training goes on from its last checkpoint",
    errno.EDQUOT: "the quota of the disk is used up: free some space and run again",
    errno.EROFS: "the place is read-only: run in a folder that can be written",
    errno.EACCES: "permission is missing: change the owner or the mode of the place, or run in another folder",
    errno.EPERM: "permission is missing: change the owner or the mode of the place, or run in another folder",
    errno.EIO: "the disk failed: check it, and run again",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.ENAMETOOLONG: "the name is too long: run in a folder with a shorter path",
}
"""What to do, by the number of an error of the system."""


def finish_with_message(name: str, command: Callable[[], object]) -> None:
    """Run a command; an error ends it with one message and exit code 1, and with its traceback if LISSOM_DEBUG is 1."""
    try:
        command()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if os.environ.get(DEBUG) == "1":
            raise
        sys.exit(f"{name}: {redacted(explain(error))}")


def explain(error: Exception) -> str:
    """Return an error as a user reads it: the cause and what to do."""
    if isinstance(error, InputError | DamagedFolderError):
        return str(error)
    debug = f"(set {DEBUG}=1 for the traceback)"
    if isinstance(error, ModuleNotFoundError):
        return advice_for(error) or f"{error} {debug}"
    if isinstance(error, OSError) and error.errno in ADVICE:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{ADVICE[error.errno]}{_free(error)}"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return f"out of memory: take a smaller batch size, a shorter max_length or a smaller model {debug}"
    from pydantic import ValidationError  # slow to load, and needed where a command fails alone

    if isinstance(error, ValidationError):
        details = "; ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())
        return f"{error.title}: {details} {debug}"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' + lines[0] if lines else ''} {debug}"


def _free(error: OSError) -> str:
    """Return how much of a full disk is free, where the error tells its place."""
    if error.errno != errno.ENOSPC or not error.filename:
        return ""
    place = Path(os.fsdecode(error.filename))
    place = next((folder for folder in (place, *place.absolute().parents) if folder.exists()), Path("/"))
    return f" ({shutil.disk_usage(place).free / 1e6:,.0f} MB are free)"
