"""Replacing folders and files: a kill at any step loses nothing, one writer at a time, links are followed."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from lissom import storage
from lissom.artifacts import atomic_folder, recover_folder, write_text
from lissom.errors import InputError


def write(target: Path, text: str) -> None:
    with atomic_folder(target) as folder:
        write_text(folder / "a", text)
        write_text(folder / "b", text)


def content(target: Path) -> set[str]:
    assert {path.name for path in target.iterdir()} == {"a", "b"}
    return {path.read_text() for path in target.iterdir()}


def in_child(work) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_kill_at_any_rename_leaves_the_old_or_the_new_folder(tmp_path, monkeypatch):
    target, rename = tmp_path / "out", os.rename
    for number in range(4):
        write(target, "old")

        def dies(number=number):
            calls = iter(range(100))
            monkeypatch.setattr(os, "rename", lambda *paths: os._exit(9) if next(calls) == number else rename(*paths))
            write(target, "new")

        assert in_child(dies) == 9
        recover_folder(target)
        assert content(target) == ({"old"} if number == 0 else {"new"})
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["rename", "unlink", "rmdir"])
@pytest.mark.parametrize("failing", range(3))
@pytest.mark.parametrize("dies", [True, False])
def test_a_folder_is_removed_whole_or_not_at_all(tmp_path, name, failing, dies):
    target, real = tmp_path / "out", getattr(os, name)
    write(target, "old")

    def removes():
        calls = iter(range(100))

        def strikes(*given, **named):
            if next(calls) != failing:
                return real(*given, **named)
            if dies:
                os._exit(9)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        setattr(os, name, strikes)
        storage.remove_folder(target)

    assert in_child(removes) in (0, 9)
    assert not target.exists() or content(target) == {"old"}
    storage.remove_folder(target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_an_error_at_any_step_leaves_the_old_folder(tmp_path, monkeypatch, number):
    target = tmp_path / "out"
    write(target, "old")
    for name in ("rename", "fsync", "replace"):
        real, calls = getattr(os, name), []

        def fails(*given, real=real, calls=calls):
            calls.append(given)
            if len(calls) == 2:
                raise OSError(number, os.strerror(number))
            return real(*given)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, fails)
            with pytest.raises(OSError, match=os.strerror(number)) as caught:
                write(target, "new")
        assert caught.value.filename
        assert content(target) == {"old"} and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_second_writer_is_refused_and_the_first_one_ends(tmp_path):
    target = tmp_path / "out"
    with atomic_folder(target) as folder:
        for name in "ab":
            (folder / name).write_text("first")
        with pytest.raises(InputError, match="another process writes"):
            write(target, "second")
    assert content(target) == {"first"}


def test_a_link_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "place")
    for text in ("old", "new"):  # the first one through a dangling link
        write(tmp_path / "out", text)
    assert (tmp_path / "out").is_symlink() and content(tmp_path / "out") == {"new"}
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["place"]


def test_temporary_files_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path):
    dead = f"{storage.host()}+{os.getpid()}+0-0"  # the pid is in use again, by a process that started later
    living = f"{storage.host()}+{os.getppid()}+{storage._started(os.getppid())}"
    files = [tmp_path / f".x.{name}.tmp" for name in (dead, living, "elsewhere+1+0-0")]
    for file in files:
        file.touch()
    write_text(tmp_path / "x", "text")
    assert [file.exists() for file in files] == [False, True, True]


def test_scratch_folders_of_the_dead_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def dies():
        with storage.scratch_folder():
            os._exit(9)

    (tmp_path / "lissom-of-somebody").mkdir()
    assert in_child(dies) == 9 and len(list(tmp_path.iterdir())) == 2
    with storage.scratch_folder() as folder:
        assert {path.name for path in tmp_path.iterdir()} == {"lissom-of-somebody", folder.name}


def test_a_lock_that_vanishes_between_two_looks_is_taken_again(tmp_path, monkeypatch):
    """Its owner ends after this process has opened the file."""
    target, real, calls = tmp_path / "out", Path.stat, []

    def vanishes(path, **more):
        if path.name == ".out.lock" and not calls:
            calls.append(path)
            path.unlink()
        return real(path, **more)

    monkeypatch.setattr(Path, "stat", vanishes)
    with storage.locked(target):
        assert calls and (tmp_path / ".out.lock").exists()
