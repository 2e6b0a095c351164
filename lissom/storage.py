"""Durable replacement of files and folders, locks between writers, and the owners of temporary files.

A folder is replaced in steps: `.NAME.tmp` is written, renamed to `.NAME.complete`, the old folder to `.NAME.old`, the
complete one to `NAME`, the old one to `.NAME.trash`, which is deleted. `recover` finishes these steps after a kill.
"""

import errno
import fcntl
import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lissom.errors import InputError

_NO_LOCKS = {errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK}
"""Errors of file systems without locks, such as some network volumes; there, a second writer is not noticed."""
_OF_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file atomically; after a crash it has the old or the new content.

    Raises:
        OSError: the place cannot be written; the old content is unchanged and no temporary file is left.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside a file; what is written there replaces the file at the end, atomically.

    Raises:
        OSError: the place cannot be written; the old content is unchanged and no temporary file is left.
    """
    path = followed(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left_over in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if is_dead(left_over.name.removeprefix(f".{path.name}.").removesuffix(".tmp")):
            left_over.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{owner()}.tmp")
    try:
        with naming(path):
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def replace_folder(target: Path) -> None:
    """Replace `target` by the folder `.NAME.tmp` beside it; the caller holds the lock.

    Raises:
        OSError: a step failed; `target` is as before and the new folder is removed.
    """
    temporary, complete, old, _ = _steps(target)
    try:
        for path in [*temporary.rglob("*"), temporary]:
            sync(path)
        temporary.rename(complete)
        if target.exists():
            target.rename(old)
        complete.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(complete, ignore_errors=True)
        raise
    with suppress(OSError):  # the new folder is in place; after a power failure `recover` finishes what was not durable
        sync(target.parent)
    _discard(old, target)


def recover(target: Path) -> None:
    """Finish or undo what a killed process has begun; the caller holds the lock, so no other process is at work.

    Raises:
        OSError: what was left over cannot be renamed or removed.
    """
    temporary, complete, old, trash = _steps(target)
    for left_over in (temporary, trash):
        if left_over.exists():
            shutil.rmtree(left_over)
    if complete.exists():
        if target.exists():
            _discard(old, target)
            target.rename(old)
        complete.rename(target)
    elif old.exists() and not target.exists():
        old.rename(target)
    _discard(old, target)


def remove_folder(target: Path) -> None:
    """Remove a folder in one step, so that no part of it is ever read as the whole; what fails leaves all of it."""
    *_, trash = _steps(target)
    shutil.rmtree(trash, ignore_errors=True)
    with suppress(OSError):
        target.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of a folder's only writer; the kernel releases it when the process dies.

    Raises:
        InputError: another process writes the folder.
        OSError: the lock file cannot be written.
    """
    path = target.with_name(f".{target.name}.lock")
    while True:
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InputError(
                f"{target}: another process writes this folder; wait until it ends, or choose another output folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                file.close()
                raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # its owner removed the file between our calls
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        file.close()


def followed(path: Path) -> Path:
    """Return the target of a link, so that a rename stays on the target's disk; other paths are unchanged."""
    return path.resolve() if path.is_symlink() else path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the place to an `OSError` of a disk that has none, as those of `write` and `fsync`."""
    try:
        yield
    except OSError as error:
        if error.errno in _OF_STORAGE and not error.filename:
            error.filename = str(path)
        raise


def sync(path: Path) -> None:
    """Write a file or the entries of a folder to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def owner() -> str:
    """Return the name of this process: host, pid and start time, separated by `+`."""
    return f"{host()}+{os.getpid()}+{_started(os.getpid())}"


def host() -> str:
    """Return the name of this host, with its PID namespace where there is one: a pid means nothing in another."""
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}-{namespace.stat().st_ino}" if namespace.exists() else socket.gethostname()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new temporary folder, removed at the end; removes those that killed processes of this host left.

    Raises:
        OSError: the temporary folder cannot be written.
    """
    for left_over in Path(tempfile.gettempdir()).glob("lissom-*+*"):
        if is_dead(left_over.name.removeprefix("lissom-").rpartition("+")[0]):
            shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"lissom-{owner()}+") as folder:
        yield Path(folder)


def is_dead(name: str) -> bool:
    """Return whether `owner` named a process of this host that has ended; False if that is not known."""
    parts = name.rsplit("+", 2)
    if len(parts) < 3 or parts[0] != host() or not parts[1].isdigit():
        return False
    return parts[2] != _started(int(parts[1]))


def _started(process: int) -> str:
    """Return the start time of a process in clock ticks since boot, with the boot's id; empty if it does not run."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")[:8]
    except (FileNotFoundError, ProcessLookupError):
        return _without_proc(process)
    return "" if fields[0] in "ZX" else f"{boot}-{fields[19]}"


def _without_proc(process: int) -> str:
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "unknown"


def _steps(target: Path) -> tuple[Path, Path, Path, Path]:
    temporary, complete, old, trash = (
        target.with_name(f".{target.name}.{step}") for step in ("tmp", "complete", "old", "trash")
    )
    return temporary, complete, old, trash


def _discard(old: Path, target: Path) -> None:
    """Delete the old folder; a part of it that cannot be deleted is left to the next `recover`."""
    if old.exists():
        trash = target.with_name(f".{target.name}.trash")
        old.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)
