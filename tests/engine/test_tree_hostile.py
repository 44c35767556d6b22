"""What any user of a server can do to its backups and restores with files and directories of their own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import engine.tree_walk
import engine.tree_writer
from engine.errors import SourceError
from engine.tree_compare import TargetFiles
from engine.tree_place import Placer
from engine.tree_restore import RestoreProblemKind
from engine.tree_walk import ProblemKind, TreeOptions
from tests.engine.chunk_support import entries_of, read_tree, snapshot, write_tree
from tests.engine.support import Vault, noise
from tests.engine.tree_support import source, target

__all__ = ["source", "target"]


def test_a_deep_directory_that_is_moved_costs_the_others_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any user can have such a one, and move it all the time."""
    monkeypatch.setattr("engine.tree_dirs._OPEN_MAX", 2)
    deep = source / "b" / "c" / "d" / "e"
    deep.mkdir(parents=True)
    for path in (source / "a", deep / "f", deep.parent / "g", source / "b" / "x", source / "z"):
        path.write_bytes(b"x")
    real = engine.tree_walk.look

    def look(directory: int, name: bytes, key: bytes) -> Any:
        if name == b"f":
            os.rename(deep, tmp_path / "e")
        return real(directory, name, key)

    monkeypatch.setattr(engine.tree_walk, "look", look)
    vault = Vault()

    result = write_tree(vault, source)

    found = {entry.path for entry in entries_of(vault, result, recursive=True)}
    assert {b"a", b"b/c/d/e/f", b"b/x", b"z"} < found and b"b/c/d/g" not in found
    assert {(problem.path, problem.kind) for problem in result.problems} == {
        *((path, ProblemKind.CHANGED) for path in (b"b/c", b"b/c/d"))
    }


@pytest.mark.parametrize("when", ["made", "compared", "removed"])
def test_a_deep_directory_that_is_moved_while_it_is_restored_costs_the_others_nothing(
    source: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """As above, in place: nothing of it is made where somebody moved it to, or in what is now in its place."""
    monkeypatch.setattr("engine.tree_dirs._OPEN_MAX", 2)
    folder = source / "b" / "c" / "d" / "e"
    folder.mkdir(parents=True)
    for path in (source / "a", folder / "f", folder.parent / "g", source / "b" / "x", source / "z"):
        path.write_bytes(b"x")
    vault = Vault()
    saved = write_tree(vault, source)
    read_tree(vault, saved, target)
    deep, moved = target / "b" / "c" / "d" / "e", []
    if when == "removed":
        saved = write_tree(vault, source, options=TreeOptions(exclude=("/b/",)))
        (target / "b").rename(target / "extra")
        deep = target / "extra" / "c" / "d" / "e"
    for name in ("a", "z"):
        (target / name).write_bytes(b"y")

    def moving(real: Any, is_it: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if is_it(arguments) and not moved:
                moved.append(os.rename(deep, tmp_path / "e"))
            return real(*arguments, **named)

        return call

    owner, name = {"made": (Placer, "go_to_parent"), "compared": (TargetFiles, "_compare"), "removed": (os, "unlink")}[
        when
    ]
    is_it = {
        "made": lambda arguments: arguments[1] == b"b\0c\0d\0g",
        "compared": lambda arguments: deep.exists() and os.path.samestat(os.fstat(arguments[1]), (deep / "f").stat()),
        "removed": lambda arguments: arguments[0] == b"f",
    }[when]
    monkeypatch.setattr(owner, name, moving(getattr(owner, name), is_it))

    result = read_tree(vault, saved, target, differential=True, delete_extra=True)

    assert moved and [(target / name).read_bytes() for name in ("a", "z")] == [b"x", b"x"]
    found = {(problem.path, problem.kind) for problem in result.problems}
    if when == "removed":
        assert found == {(b"extra", RestoreProblemKind.NOT_DELETED)}
    elif when == "compared":
        # It is made anew where it belongs, but for the file that was the same a moment ago.
        assert found == {(b"b/c/d/e/f", RestoreProblemKind.NOT_MADE)} and deep.is_dir()
    else:
        assert found == {(path, RestoreProblemKind.NOT_MADE) for path in (b"b/c", b"b/c/d", b"b/c/d/g")}
        assert (target / "b" / "x").exists() and not deep.exists()


def test_who_has_a_lease_on_a_file_is_not_waited_for_long(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel would have each open wait for 45 seconds; any user can have leases on all of their files."""
    monkeypatch.setattr(engine.tree_writer, "_LEASES_SECONDS", 0.1)
    for number in range(5):
        (source / f"{number}").write_bytes(b"x")
    with contextlib.ExitStack() as held, (source / "3").open("rb") as kind:
        for number in range(3):
            file = held.enter_context((source / f"{number}").open("r+b"))
            fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(kind, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(kind, fcntl.F_SETLEASE, fcntl.F_RDLCK)

        result = write_tree(Vault(), source)

        assert {problem.path for problem in result.problems} == {b"0", b"1", b"2"}
        assert {problem.reason for problem in result.problems} == {"somebody has a lease on it"}


@pytest.mark.parametrize("bound", ["_HOLES_OF_OWNER_MAX", "_HOLES_MAX"])
def test_files_that_are_all_holes_do_not_end_the_backup(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """Any user can have files that say they are larger than a backup can count; it could not even be restored."""
    monkeypatch.setattr(engine.tree_writer, bound, 5 << 20)
    for name, size in (("a", 3 << 20), ("b", 1 << 42), ("c", 1 << 20), ("d", 3 << 20)):
        (source / name).touch()
        os.truncate(source / name, size)
    (source / "real").write_bytes(noise(200_000))
    os.link(source / "b", source / "b-again")
    vault = Vault()

    first = write_tree(vault, source)
    result = write_tree(vault, source, base=first)

    for one in (first, result):
        assert [(problem.path, problem.kind) for problem in one.problems] == [
            *((path, ProblemKind.UNREADABLE) for path in (b"b", b"b-again", b"d"))
        ]
    read_tree(vault, result, target)
    assert {path.name: path.stat().st_size for path in target.iterdir()} == {
        "a": 3 << 20,
        "c": 1 << 20,
        "real": 200_000,
    }


def test_names_of_a_large_directory_are_sorted_outside_of_memory(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.tree_names._RUN_NAMES", 50)
    monkeypatch.setattr("engine.tree_names._READ_BYTES", 300)
    names = [
        os.fsdecode(bytes([1 + number * 37 % 46, 255 - number % 100]) + b"n" * (number % 254)) for number in range(420)
    ]
    for name in names:
        (source / name).touch()
    vault = Vault()

    result = write_tree(vault, source)

    assert [entry.path for entry in entries_of(vault, result)] == sorted(map(os.fsencode, set(names)))
    read_tree(vault, result, target)
    assert snapshot(os.fsencode(source)) == snapshot(os.fsencode(target))


@pytest.mark.parametrize("how", ["nothing can be made", "it becomes full"])
def test_without_room_for_names_no_directory_is_left_out_silently(
    source: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It is not the directory that cannot be read: the backup would be whole but for the largest one there is."""
    monkeypatch.setattr("engine.tree_names._RUN_NAMES", 50)
    monkeypatch.setattr("tempfile.tempdir", str(source / "no such folder"))
    if how == "it becomes full":
        full = partial(open, "/dev/full", "r+b")
        monkeypatch.setattr("tempfile.TemporaryFile", full)
    (source / "large").mkdir()
    for number in range(60):
        (source / "large" / str(number)).touch()

    with pytest.raises(SourceError, match="no such folder") as caught:
        write_tree(Vault(), source)

    assert (caught.value.code, caught.value.permanent) == ("no_room_for_names", False)


@pytest.mark.skipif(os.geteuid() != 0, reason="owners are for root alone")
@pytest.mark.parametrize("kind", ["fifo", "symlink", "hard link"])
def test_what_is_put_in_the_place_of_a_made_name_gets_nothing(
    source: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whoever owns a directory, at once after a name was made there: neither its owner, nor a further name."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (source / "a").write_bytes(b"x")
    made = {"fifo": "mknod", "symlink": "symlink", "hard link": "link"}[kind]
    real = getattr(os, made)
    if kind == "hard link":
        os.link(source / "a", source / "b")
    else:
        os.symlink("a", source / "b") if kind == "symlink" else os.mkfifo(source / "b")
        os.chown(source / "b", 1001, 1001, follow_symlinks=False)
    vault = Vault()
    result = write_tree(vault, source)

    def making(*arguments: Any, **named: Any) -> None:
        name = "a" if kind == "hard link" else "b"
        if kind != "hard link":
            real(*arguments, **named)
        os.unlink(target / name)
        os.rename(secret, target / name)
        if kind == "hard link":
            real(*arguments, **named)

    monkeypatch.setattr(os, made, making)

    restored = read_tree(vault, result, target)

    assert {problem.path for problem in restored.problems} == {b"b"}
    name = "a" if kind == "hard link" else "b"
    found = os.lstat(target / name)
    assert (found.st_uid, found.st_nlink, (target / name).read_bytes()) == (0, 1, b"secret")
