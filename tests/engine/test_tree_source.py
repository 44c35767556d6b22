"""Trouble with single files while a tree is walked: marked and listed, and never the end of the backup."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import engine.tree_source
import engine.tree_writer
from engine.errors import CanceledError, SourceError, StoreError
from engine.store.memory import Fault, ModelStore
from engine.stream_writer import file_pieces
from engine.tree_dirs import DirectoryPath, MovedDirectoryError, open_directory
from engine.tree_entries import FileKind, Marks
from engine.tree_walk import ProblemKind, TreeOptions
from tests.engine.chunk_support import entries_of, read_tree, snapshot, write_tree
from tests.engine.support import NOW, Vault, noise


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def _while_reading(monkeypatch: pytest.MonkeyPatch, action: Callable[[int], None]) -> None:
    """Call `action` after the first piece of each file; the argument is its descriptor."""

    def pieces(descriptor: int, chunker: Any, *, size_bytes: int) -> Iterator[Any]:
        for number, piece in enumerate(file_pieces(descriptor, chunker, size_bytes=size_bytes)):
            yield piece
            if not number:
                action(descriptor)

    monkeypatch.setattr(engine.tree_writer, "file_pieces", pieces)


@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite", "touch"])
def test_a_file_that_changes_while_it_is_read_is_marked(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = source / "file"
    path.write_bytes(noise(20_000))
    os.utime(path, ns=(1, 1))

    def disturb(_: int) -> None:
        if change == "grow":
            path.write_bytes(noise(40_000))
        elif change == "shrink":
            os.truncate(path, 5000)
        elif change == "rewrite":
            path.write_bytes(noise(20_000, "other"))
        else:
            os.utime(path)

    _while_reading(monkeypatch, disturb)
    vault = Vault()

    result = write_tree(vault, source)

    assert result.has_warnings
    assert [(problem.path, problem.kind) for problem in result.problems] == [(b"file", ProblemKind.CHANGED)]
    assert result.counters["problems_changed"] == 1
    entry = entries_of(vault, result)[0]
    assert entry.marks & Marks.CHANGED
    monkeypatch.undo()
    # A changed file is read again by the next run, even though its times are as in the entry.
    again = write_tree(vault, source, base=result)
    assert not again.has_warnings
    target = tmp_path / "target"
    target.mkdir()
    read_tree(vault, again, target)
    assert snapshot(os.fsencode(source)) == snapshot(os.fsencode(target))


def test_a_read_error_marks_the_file_and_the_rest_is_stored(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "bad").write_bytes(noise(30_000, "bad"))
    (source / "good").write_bytes(noise(300))
    bad = os.stat(source / "bad").st_ino
    real = os.pread

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino == bad and offset + length > 10_000:
            if offset >= 10_000:
                raise OSError(errno.EIO, "Input/output error")
            length = 10_000 - offset
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    vault = Vault()

    result = write_tree(vault, source)
    monkeypatch.undo()

    assert [(problem.path, problem.kind) for problem in result.problems] == [(b"bad", ProblemKind.UNREADABLE)]
    target, partial = tmp_path / "target", tmp_path / "partial"
    target.mkdir()
    partial.mkdir()
    restored = read_tree(vault, result, target)
    assert os.listdir(target) == ["good"]
    assert [problem.kind.value for problem in restored.problems] == ["not_in_backup"]
    read_tree(vault, result, partial, keep_partial=True)
    kept = (partial / "bad").read_bytes()
    assert noise(30_000, "bad").startswith(kept)


def test_files_and_directories_without_permission_are_listed() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        source = Path(folder) / "source"
        (source / "closed").mkdir(parents=True)
        (source / "closed" / "inside").write_bytes(b"x")
        (source / "secret").write_bytes(b"secret")
        (source / "open").write_bytes(b"open")
        os.chmod(source / "closed", 0o700)
        os.chmod(source / "secret", 0o600)
        vault = Vault()

        os.seteuid(65534)
        try:
            result = write_tree(vault, source)
        finally:
            os.seteuid(0)

        problems = {problem.path: problem.kind for problem in result.problems}
        assert problems == {b"closed": ProblemKind.UNREADABLE, b"secret": ProblemKind.UNREADABLE}
        entries = {entry.path: Marks(entry.marks) for entry in entries_of(vault, result, recursive=True)}
        assert entries == {b"closed": Marks.NOT_ENTERED, b"open": Marks(0), b"secret": Marks.UNREADABLE}
        again = write_tree(vault, source, base=result)
        assert len(entries_of(vault, again, recursive=True)) == 4


def test_files_that_vanish_are_listed_and_not_stored(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (source / name).write_bytes(name.encode())
    real_look, real_open = engine.tree_walk.look, engine.tree_writer.open_regular

    def look(directory: int, name: bytes, key: bytes) -> Any:
        if name == b"a":
            os.unlink(source / "a")
        return real_look(directory, name, key)

    def open_regular(directory: int, seen: Any) -> int:
        if seen.name == b"b":
            os.unlink(source / "b")
        return real_open(directory, seen)

    monkeypatch.setattr(engine.tree_walk, "look", look)
    monkeypatch.setattr(engine.tree_writer, "open_regular", open_regular)
    vault = Vault()

    result = write_tree(vault, source)

    assert [(problem.path, problem.kind) for problem in result.problems] == [
        (b"a", ProblemKind.VANISHED),
        (b"b", ProblemKind.VANISHED),
    ]
    assert [entry.path for entry in entries_of(vault, result)] == [b"c"]


@pytest.mark.parametrize("swap", ["fifo", "symlink", "other file", "socket"])
def test_a_file_that_is_swapped_before_it_is_opened_is_not_opened(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: str
) -> None:
    (source / "file").write_bytes(b"content")
    (tmp_path / "elsewhere").write_bytes(b"secret")
    real = engine.tree_writer.open_regular

    def open_regular(directory: int, seen: Any) -> int:
        os.rename(source / "file", tmp_path / "moved")
        if swap == "fifo":
            os.mkfifo(source / "file")
        elif swap == "symlink":
            os.symlink(tmp_path / "elsewhere", source / "file")
        elif swap == "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(os.fspath(source / "file"))
        else:
            (source / "file").write_bytes(b"other")
        return real(directory, seen)

    monkeypatch.setattr(engine.tree_writer, "open_regular", open_regular)
    vault = Vault()

    result = write_tree(vault, source)

    assert [problem.kind for problem in result.problems] == [ProblemKind.VANISHED]
    assert entries_of(vault, result) == []


def test_fifos_and_devices_are_never_opened(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(source / "fifo")
    with contextlib.suppress(PermissionError):
        os.mknod(source / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    opened: list[Any] = []
    real = os.open

    def spy(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        opened.append(path)
        return real(path, flags, *arguments, **named)

    monkeypatch.setattr(os, "open", spy)
    vault = Vault()

    result = write_tree(vault, source)

    assert FileKind.FIFO in {entry.kind for entry in entries_of(vault, result)}
    assert not {b"fifo", b"device"} & set(opened)


def test_symbolic_links_are_not_followed(source: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"secret")
    os.symlink(outside, source / "link")
    vault = Vault()

    result = write_tree(vault, source)

    assert [(entry.path, entry.kind) for entry in entries_of(vault, result, recursive=True)] == [
        (b"link", FileKind.SYMLINK)
    ]


@pytest.mark.parametrize("swap", ["link", "directory"])
def test_a_directory_that_was_swapped_is_not_entered(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (source / "dir").mkdir()
    real = engine.tree_walk.look

    def look(directory: int, name: bytes, key: bytes) -> Any:
        seen = real(directory, name, key)
        if name == b"dir":
            os.rmdir(source / "dir")
            if swap == "link":
                os.symlink(outside, source / "dir")
            else:
                os.rename(outside, source / "dir")
        return seen

    monkeypatch.setattr(engine.tree_walk, "look", look)
    vault = Vault()

    result = write_tree(vault, source)

    assert b"dir/secret" not in {entry.path for entry in entries_of(vault, result, recursive=True)}
    assert result.has_warnings


def test_the_way_back_up_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.tree_dirs._OPEN_MAX", 1)
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()

    with DirectoryPath(open_directory(os.fsencode(tmp_path))) as path:
        for name in (b"a", b"b", b"c"):
            path.enter(name)
        path.leave()
        assert os.listdir(path.descriptor) == ["c"]
        path.enter(b"c")
        os.rename(tmp_path / "a" / "b" / "c", tmp_path / "elsewhere" / "c")
        with pytest.raises(MovedDirectoryError):
            path.leave()


def test_patterns_leave_files_out(source: Path) -> None:
    for name in ["keep.txt", "drop.tmp", "cache/x", "src/cache/y", "src/main.c", "src/keep.tmp"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"x")
    (source / os.fsdecode(b"\xff.tmp")).write_bytes(b"x")
    vault = Vault()

    result = write_tree(vault, source, options=TreeOptions(exclude=("*.tmp", "!src/keep.tmp", "/cache/")))

    files = {entry.path for entry in entries_of(vault, result, recursive=True) if entry.kind == FileKind.FILE}
    assert files == {b"keep.txt", b"src/cache/y", b"src/main.c", b"src/keep.tmp"}
    assert not result.has_warnings


@pytest.mark.parametrize(
    ("options", "inside"),
    [
        ({}, False),
        ({"one_file_system": False}, True),
        ({"one_file_system": False, "kind": "proc"}, False),
        ({"one_file_system": False, "kind": "proc", "pseudo_file_systems": True}, True),
    ],
)
def test_other_file_systems_are_entered_only_when_asked(
    source: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], inside: bool
) -> None:
    (source / "mount").mkdir()
    (source / "mount" / "file").write_bytes(b"x")
    kind = options.pop("kind", "ext4")
    device = 77_777
    real, real_place = engine.tree_walk.look, engine.tree_dirs._place

    def is_mount(found: os.stat_result) -> bool:
        return found.st_ino == os.stat(source / "mount").st_ino

    def look(directory: int, name: bytes, key: bytes) -> Any:
        seen = real(directory, name, key)
        if is_mount(seen.found):
            seen = engine.tree_source.Seen(seen.key, seen.name, seen.kind, _with_device(seen.found, device))
        return seen

    def place(descriptor: int) -> tuple[int, int]:
        found = real_place(descriptor)
        return (device, found[1]) if is_mount(os.fstat(descriptor)) else found

    monkeypatch.setattr(engine.tree_walk, "look", look)
    monkeypatch.setattr(engine.tree_dirs, "_place", place)
    vault = Vault()

    result = write_tree(vault, source, options=TreeOptions(file_systems=lambda: {device: kind}, **options))

    entries = {entry.path: Marks(entry.marks) for entry in entries_of(vault, result, recursive=True)}
    assert (b"mount/file" in entries) == inside
    assert bool(entries[b"mount"] & Marks.NOT_ENTERED) != inside
    assert not [problem for problem in result.problems if problem.path == b"mount"]


class _with_device:
    """A stat result with another device; os.stat_result cannot be made with nanoseconds."""

    def __init__(self, found: os.stat_result, device: int) -> None:
        self._found = found
        self.st_dev = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found, name)


def test_a_root_that_is_missing_or_no_directory_is_a_source_error(source: Path) -> None:
    (source / "file").write_bytes(b"")

    for root in (source / "nothing", source / "file"):
        with pytest.raises(SourceError) as caught:
            write_tree(Vault(), root)
        assert caught.value.code == "root_unreadable"


def test_cancel_ends_the_walk(source: Path) -> None:
    for number in range(50):
        (source / str(number)).write_bytes(b"x")
    calls = 0

    def cancel() -> bool:
        nonlocal calls
        calls += 1
        return calls > 20

    vault = Vault()

    with pytest.raises(CanceledError):
        write_tree(vault, source, cancel=cancel)
    assert not vault.store.list_versions()


def test_no_store_failure_leaves_a_manifest_or_an_open_descriptor(source: Path) -> None:
    for number in range(120):
        (source / f"{number:03d}").write_bytes(noise(400, str(number)))
    count = 0
    open_before = len(os.listdir("/proc/self/fd"))

    while True:
        vault = Vault(store=ModelStore(now=lambda: NOW, faults={count: Fault.REFUSE}))
        try:
            write_tree(vault, source)
        except StoreError:
            assert not [version for version in vault.store.list_versions() if "/m/" in version.key]
            count += 1
            continue
        break

    assert count > 5
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_too_many_problems_are_counted_but_not_listed(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.tree_walk._LISTED_MAX", 5)
    for number in range(20):
        (source / str(number)).write_bytes(b"x")

    def fail(directory: int, seen: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(engine.tree_writer, "open_regular", fail)

    result = write_tree(Vault(), source)

    assert len(result.problems) == 5
    assert result.problem_counts == {ProblemKind.UNREADABLE: 20}


def test_hard_links_beyond_the_bound_are_stored_as_files_and_listed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.tree_writer._LINKS_MAX", 1)
    for name in ("a", "b"):
        (source / name).write_bytes(name.encode())
    for name in ("a", "b"):
        os.link(source / name, source / f"z{name}")
    vault = Vault()

    result = write_tree(vault, source)

    kinds = {entry.path: entry.kind for entry in entries_of(vault, result)}
    assert kinds[b"za"] == FileKind.HARD_LINK
    assert kinds[b"zb"] == FileKind.FILE
    assert {problem.kind for problem in result.problems} == {ProblemKind.LINK}
