"""File trees come back as they were, and an incremental run costs what has changed."""

from __future__ import annotations

import gc
import os
import socket
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import engine.tree_queue
from engine.chunking import ChunkSizes
from engine.errors import BaseMismatchError
from engine.tree_entries import FileKind, Marks, TreeEntry
from tests.engine.chunk_support import entries_of, listed_uses, read_tree, snapshot, true_uses, write_tree
from tests.engine.support import Vault, noise

MIB = 1 << 20
IS_ROOT = os.geteuid() == 0
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, number)
    for tag, permissions, number in [
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, 1234),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 4, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    ]
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def _same(left: Path, right: Path) -> bool:
    return snapshot(os.fsencode(left)) == snapshot(os.fsencode(right))


def _try_xattr(path: Path, name: str, value: bytes) -> bool:
    try:
        os.setxattr(path, name, value, follow_symlinks=False)
    except OSError:
        return False
    return True


def test_every_kind_of_file_comes_back(source: Path, target: Path) -> None:
    vault = Vault()
    (source / "dir").mkdir()
    (source / "dir" / "file").write_bytes(noise(5000))
    (source / "empty").write_bytes(b"")
    os.symlink("../../somewhere/else", source / "link")
    os.symlink(b"\xff\xfe", source / "odd link")
    os.mkfifo(source / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(source / "socket"))
    os.chmod(source / "dir" / "file", 0o4751)
    os.utime(source / "dir" / "file", ns=(1, 1_234_567_890_123_456_789))
    os.utime(source / "dir", ns=(1, 987_654_321))
    os.utime(source / "empty", ns=(0, -5))

    result = write_tree(vault, source)
    restored = read_tree(vault, result, target, keep_setuid=True)

    assert _same(source, target)
    assert not result.has_warnings
    assert not restored.problems
    assert result.counters["specials"] == 2


def test_devices_come_back(source: Path, target: Path) -> None:
    try:
        os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(source / "loop", stat.S_IFBLK | 0o600, os.makedev(7, 300))
    except PermissionError:
        pytest.skip("device nodes cannot be made here")
    vault = Vault()

    read_tree(vault, write_tree(vault, source), target)

    assert _same(source, target)


def test_extended_attributes_acls_and_capabilities_come_back(source: Path, target: Path) -> None:
    path = source / "file"
    path.write_bytes(b"x")
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    wanted = {"user.note": b"\x00\xff", "system.posix_acl_access": ACL, "security.capability": capability}
    have = {name for name, value in wanted.items() if _try_xattr(path, name, value)}
    if not have:
        pytest.skip("the file system has no extended attributes")
    (source / "dir").mkdir()
    _try_xattr(source / "dir", "system.posix_acl_default", ACL)
    vault = Vault()

    result = read_tree(vault, write_tree(vault, source), target)

    assert have <= set(os.listxattr(target / "file"))
    assert _same(source, target)
    assert not result.problems


def test_owners_come_back_with_their_names(source: Path, target: Path) -> None:
    if not IS_ROOT:
        pytest.skip("only root can change owners")
    (source / "file").write_bytes(b"x")
    os.symlink("file", source / "link")
    os.chown(source / "file", 12345, 54321)
    os.chown(source / "link", 1, 2, follow_symlinks=False)
    vault = Vault()

    result = write_tree(vault, source)
    read_tree(vault, result, target)

    assert _same(source, target)
    entries = {entry.path: entry for entry in entries_of(vault, result)}
    assert (entries[b"link"].user, entries[b"file"].user) == (b"daemon", b"")


def test_hard_links_stay_one_file(source: Path, target: Path) -> None:
    (source / "a").mkdir()
    (source / "a" / "first").write_bytes(noise(3000))
    os.link(source / "a" / "first", source / "second")
    os.link(source / "a" / "first", source / "a" / "third")
    vault = Vault()

    result = write_tree(vault, source)
    read_tree(vault, result, target)

    assert os.stat(target / "a" / "first").st_nlink == 3
    assert _same(source, target)
    assert result.write.stats.read_bytes == 3000


def test_sparse_files_stay_sparse_and_their_holes_are_not_read(source: Path, target: Path) -> None:
    with (source / "sparse").open("wb") as file:
        file.truncate(50 * MIB)
        file.seek(10 * MIB)
        file.write(noise(5000))
    with (source / "only hole").open("wb") as file:
        file.truncate(7 * MIB)
    vault = Vault()

    result = write_tree(vault, source)
    read_tree(vault, result, target)

    assert _same(source, target)
    assert result.write.stats.read_bytes < 100_000
    assert sum(os.stat(target / name).st_blocks for name in ("sparse", "only hole")) * 512 < 200_000


@pytest.fixture
def deep() -> Iterator[Path]:
    """A folder removed by rm: what pytest would clean up later is deeper than its recursion goes."""
    folder = tempfile.mkdtemp()
    (Path(folder) / "source").mkdir()
    (Path(folder) / "target").mkdir()
    yield Path(folder)
    subprocess.run(["rm", "-rf", folder], check=True)


def test_names_of_any_bytes_and_paths_of_4096_bytes_come_back(deep: Path) -> None:
    source, target = deep / "source", deep / "target"
    for name in [b"new\nline", b"\xff\xfe", b"-rf *", b"a", b"a.b", b"a b", "ü".encode(), b"x" * 255, b"\x01"]:
        (source / os.fsdecode(name)).write_bytes(name)
    directory = os.open(source, os.O_RDONLY)
    for number in range(40):
        name = b"%03d" % number + b"d" * 197
        os.mkdir(name, dir_fd=directory)
        inner = os.open(name, os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = inner
    os.close(os.open(b"deep", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
    os.close(directory)
    vault = Vault()

    result = write_tree(vault, source)
    read_tree(vault, result, target)

    longest = max(entries_of(vault, result, recursive=True), key=lambda entry: len(entry.path))
    assert len(longest.path) == 40 * 201 + 4
    again = write_tree(vault, target)
    assert [entry.path for entry in entries_of(vault, again, recursive=True)] == [
        entry.path for entry in entries_of(vault, result, recursive=True)
    ]
    assert (target / os.fsdecode(b"\xff\xfe")).read_bytes() == b"\xff\xfe"


def test_directories_deeper_than_the_open_files_limit_come_back(deep: Path) -> None:
    source, target = deep / "source", deep / "target"
    directory = os.open(source, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir(b"d", dir_fd=directory)
        inner = os.open(b"d", os.O_RDONLY, dir_fd=directory)
        os.close(os.open(b"z", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
        os.close(directory)
        directory = inner
    os.close(directory)
    vault = Vault()
    # What other tests dropped is closed now, and not while this one counts.
    gc.collect()
    open_before = len(os.listdir("/proc/self/fd"))

    result = write_tree(vault, source)
    restored = read_tree(vault, result, target)

    assert (result.counters["directories"], result.counters["files"]) == (1201, 1200)
    assert restored.entry_count == 2401
    assert write_tree(vault, target).counters["files"] == 1200
    assert len(os.listdir("/proc/self/fd")) == open_before


_NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: not set(name) & {0, 47} and name not in (b".", b".."))
_LEAVES = st.one_of(
    st.tuples(st.just("file"), st.integers(0, 4000), st.integers(0, 0o7777)),
    st.tuples(st.just("sparse"), st.integers(1, 300_000), st.just(0o600)),
    st.tuples(st.just("symlink"), st.binary(min_size=1, max_size=30).filter(lambda text: 0 not in text)),
    st.tuples(st.just("fifo")),
    st.tuples(st.just("hardlink")),
)
_TREES = st.recursive(
    st.dictionaries(_NAMES, _LEAVES, max_size=6),
    lambda inner: st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=25,
)


def _make(folder: bytes, tree: dict[bytes, Any], files: list[bytes]) -> None:
    for name, what in tree.items():
        path = folder + b"/" + name
        if isinstance(what, dict):
            os.mkdir(path)
            _make(path, what, files)
        elif what[0] in ("file", "sparse"):
            with open(path, "wb") as file:
                file.write(noise(what[1], name.hex()) if what[0] == "file" else b"")
                file.truncate(what[1])
            os.chmod(path, what[2])
            files.append(path)
        elif what[0] == "symlink":
            os.symlink(what[1], path)
        elif what[0] == "fifo":
            os.mkfifo(path)
        elif files:
            os.link(files[-1], path)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(_TREES, _TREES)
def test_any_tree_comes_back_also_after_an_incremental_run(first: dict[bytes, Any], second: dict[bytes, Any]) -> None:
    vault = Vault()
    with tempfile.TemporaryDirectory() as scratch:
        base = None
        for number, tree in enumerate([first, second, second]):
            source, target = (f"{scratch}/{name}{number}".encode() for name in ("source", "target"))
            os.mkdir(source)
            os.mkdir(target)
            if number == 2:
                source = f"{scratch}/source1".encode()
            else:
                _make(source, tree, [])
            result = write_tree(vault, source, base=base)
            read_tree(vault, result, target, keep_setuid=True)
            assert snapshot(source) == snapshot(target)
            assert listed_uses(vault, result.write) == true_uses(vault, result.write.manifest)
            base = result


def _many_files(source: Path, count: int) -> None:
    for number in range(count):
        folder = source / f"d{number % 13:02d}"
        folder.mkdir(exist_ok=True)
        (folder / f"f{number:05d}").write_bytes(noise(40 + number % 100, str(number)))


def test_an_unchanged_tree_reads_no_file_and_stores_only_a_manifest(source: Path) -> None:
    _many_files(source, 600)
    vault = Vault()
    first = write_tree(vault, source)

    second = write_tree(vault, source, base=first)

    assert second.write.new_objects == ()
    assert second.write.stats.read_bytes == 0
    assert second.counters["unchanged_entries"] == 614
    assert entries_of(vault, second, recursive=True) == entries_of(vault, first, recursive=True)


def test_one_changed_file_rewrites_its_chunks_and_one_page_per_level(source: Path, target: Path) -> None:
    _many_files(source, 2000)
    vault = Vault()
    first = write_tree(vault, source)
    (source / "d05" / "f00005").write_bytes(noise(77, "changed"))

    second = write_tree(vault, source, base=first)

    assert second.write.stats.new_blocks == 1
    pages = true_uses(vault, second.write.manifest)[1]
    new_names = {ref.sha256 for ref in second.write.new_objects}
    assert sum(count for name, count in pages.items() if name in new_names) == 2
    assert sum(pages.values()) > 4
    assert listed_uses(vault, second.write) == true_uses(vault, second.write.manifest)
    read_tree(vault, second, target)
    assert _same(source, target)


def test_a_name_in_the_middle_moves_no_other_page(source: Path) -> None:
    _many_files(source, 2000)
    vault = Vault()
    first = write_tree(vault, source)
    (source / "d05" / "f00005x").write_bytes(b"new")

    second = write_tree(vault, source, base=first)

    pages = true_uses(vault, second.write.manifest)[1]
    new_names = {ref.sha256 for ref in second.write.new_objects}
    assert sum(count for name, count in pages.items() if name in new_names) <= 3


def test_a_large_file_has_a_map_of_its_own_and_an_insertion_costs_little(source: Path, target: Path) -> None:
    data = noise(2 * MIB)
    (source / "large").write_bytes(data)
    (source / "small").write_bytes(b"small")
    vault = Vault()
    first = write_tree(vault, source)
    entry = entries_of(vault, first, b"large")[0]
    assert entry.chunk_map is not None
    (source / "large").write_bytes(data[:MIB] + b"!" + data[MIB:])

    second = write_tree(vault, source, base=first)
    third = write_tree(vault, source, base=second)
    os.unlink(source / "large")
    fourth = write_tree(vault, source, base=third)

    assert second.write.stats.new_blocks <= 3
    assert third.write.new_objects == ()
    for result in (first, second, third, fourth):
        assert listed_uses(vault, result.write) == true_uses(vault, result.write.manifest)
    read_tree(vault, third, target)
    assert (target / "large").read_bytes() == data[:MIB] + b"!" + data[MIB:]
    assert entries_of(vault, fourth, recursive=True)[0].path == b"small"


def test_with_real_chunk_sizes_small_files_are_one_chunk_each(source: Path) -> None:
    _many_files(source, 50)
    (source / "medium").write_bytes(noise(3 * MIB))
    vault = Vault()

    result = write_tree(vault, source, sizes=ChunkSizes())

    entries = {entry.path: entry for entry in entries_of(vault, result, recursive=True)}
    assert len(entries[b"d00/f00000"].chunks) == 1
    assert 1 <= len(entries[b"medium"].chunks) <= 60


def test_metadata_alone_costs_no_content(source: Path, target: Path) -> None:
    _many_files(source, 20)
    vault = Vault()
    first = write_tree(vault, source)
    os.chmod(source / "d00" / "f00000", 0o600)

    second = write_tree(vault, source, base=first)

    assert second.write.stats.new_blocks == 0
    read_tree(vault, second, target)
    assert _same(source, target)


def test_a_file_changed_just_before_it_was_read_is_read_again(source: Path) -> None:
    path = source / "file"
    path.write_bytes(b"one")
    vault = Vault()
    changed_at = os.stat(path).st_ctime_ns
    first = write_tree(vault, source, now_ns=changed_at + 1000)

    second = write_tree(vault, source, base=first, now_ns=changed_at + 10**10)
    third = write_tree(vault, source, base=second, now_ns=changed_at + 10**10)

    assert entries_of(vault, first)[0].marks & Marks.FRESH
    assert second.write.stats.read_bytes == 3
    assert third.write.stats.read_bytes == 0


def test_chunks_of_distrusted_packs_are_read_and_stored_anew(source: Path, target: Path) -> None:
    _many_files(source, 30)
    (source / "large").write_bytes(noise(MIB))
    vault = Vault()
    first = write_tree(vault, source)
    packs = [ref.sha256 for ref in first.write.new_objects if "/p/" in ref.key]

    second = write_tree(vault, source, base=first, distrusted_packs=frozenset(packs))

    assert not set(packs) & {entry.sha256.hex() for entry in vault.open(second.write.manifest).body.packs}
    read_tree(vault, second, target)
    assert _same(source, target)


def test_a_new_file_before_many_unchanged_ones_does_not_make_them_wait(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their number is not bounded, and a chunk waits for its batch to fill up."""
    monkeypatch.setattr(engine.tree_queue, "_WAITING_MAX", 10)
    _many_files(source, 200)
    vault = Vault()
    first = write_tree(vault, source)
    (source / "a new file").write_bytes(b"x")
    waiting: list[int] = []
    real = engine.tree_queue.EntryQueue.put

    def put(queue: Any, entry: TreeEntry) -> None:
        real(queue, entry)
        waiting.append(len(queue._waiting))

    monkeypatch.setattr(engine.tree_queue.EntryQueue, "put", put)

    result = write_tree(vault, source, base=first)

    assert max(waiting) == 10
    assert len(waiting) == 214
    assert listed_uses(vault, result.write) == true_uses(vault, result.write.manifest)


def test_a_base_with_a_damaged_page_is_refused_as_a_base(source: Path) -> None:
    _many_files(source, 10)
    vault = Vault()
    first = write_tree(vault, source)
    segment = next(ref for ref in first.write.new_objects if "/i/" in ref.key)
    vault.store._versions[segment.key].clear()

    with pytest.raises(BaseMismatchError):
        write_tree(vault, source, base=first)


def test_listing_streams_children_or_everything(source: Path) -> None:
    for name in ["a", "a.b", "b"]:
        (source / name).mkdir()
        for number in range(700):
            (source / name / f"{number:03d}").write_bytes(b"")
    (source / "b" / "deep").mkdir()
    (source / "b" / "deep" / "file").write_bytes(b"x")
    vault = Vault()
    result = write_tree(vault, source)

    def paths(path: bytes, **arguments: Any) -> list[bytes]:
        return [entry.path for entry in entries_of(vault, result, path, **arguments)]

    assert paths(b"") == [b"a", b"a.b", b"b"]
    assert paths(b"b/deep/") == [b"b/deep/file"]
    assert paths(b"b/deep/file") == [b"b/deep/file"]
    assert paths(b"a") == [b"a/%03d" % number for number in range(700)]
    assert len(paths(b"", recursive=True)) == 2105
    assert len(paths(b"b", recursive=True)) == 702


def test_a_root_alone_is_a_tree(source: Path, target: Path) -> None:
    vault = Vault()
    os.chmod(source, 0o711)

    result = write_tree(vault, source)
    read_tree(vault, result, target)

    assert stat.S_IMODE(os.stat(target).st_mode) == 0o711
    assert isinstance(entries_of(vault, result), list)
    assert vault.open(result.write.manifest).body.content == "tree"


def test_entries_say_what_they_are(source: Path) -> None:
    (source / "file").write_bytes(b"12345")
    os.symlink("file", source / "link")
    vault = Vault()

    entries = entries_of(vault, write_tree(vault, source))

    assert [(entry.path, entry.kind, entry.size) for entry in entries] == [
        (b"file", FileKind.FILE, 5),
        (b"link", FileKind.SYMLINK, 0),
    ]
    assert all(isinstance(entry, TreeEntry) for entry in entries)
