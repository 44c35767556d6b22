"""Restoring a tree: nothing outside of the target is touched, and damage is told by file and range."""

from __future__ import annotations

import errno
import os
import stat
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import engine.tree_prune
from engine.backup import WriteContext
from engine.crypto import DomainKeys
from engine.errors import CanceledError, FormatError, IntegrityError, KeyMismatchError, StoreError, UnsupportedError
from engine.index import resolve
from engine.restore import RestoreKeys
from engine.store.memory import Fault, ModelStore
from engine.stream_pages import Branch, PageKind
from engine.stream_reader import PageReader
from engine.stream_session import ChunkSession, new_uploader
from engine.tree_entries import FileKind, Marks, TreeEntry, key_of
from engine.tree_place import TargetError
from engine.tree_reader import PathNotFoundError
from engine.tree_restore import RestoreProblemKind, TreeDamagedError
from engine.tree_writer import TreeWriteResult
from engine.waiting import never_cancel
from tests.engine.chunk_support import entries_of, read_tree, snapshot, write_tree
from tests.engine.support import NOW, PatchedSource, Vault, noise

MIB = 1 << 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "place" / "target"
    folder.mkdir(parents=True)
    return folder


def _file(key: bytes, **fields: Any) -> TreeEntry:
    return TreeEntry(key=key, kind=FileKind.FILE, mode=0o644, **fields)


def _directory(key: bytes) -> TreeEntry:
    return TreeEntry(key=key, kind=FileKind.DIRECTORY, mode=0o755)


def _forged(vault: Vault, entries: Iterable[TreeEntry]) -> TreeWriteResult:
    """A signed backup with these entries: what a host that was taken over can write."""
    vault.sequence += 1
    context: WriteContext = vault.context()
    uploader = new_uploader(sink=vault.store, context=context, cancel=never_cancel)
    session = ChunkSession(
        context=context, content="tree", base=None, uploader=uploader, progress=None, cancel=never_cancel
    )
    with uploader, session:
        builder = session.builder(PageKind.FILES)
        for entry in entries:
            builder.add(entry)
        result = session.commit(root=builder.finish(), size_bytes=0, counters={})
    return TreeWriteResult(result, (), {}, {})


# --- nothing leaves the target -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", [b"..", b"a\0..", b"../evil", b"/evil", b"a\0/etc", b".", b"a\0\0b", b"\0a", b"a\0", b"x" * 1025]
)
def test_names_that_lead_elsewhere_are_never_restored(target: Path, key: bytes) -> None:
    vault = Vault()
    before = sorted(os.listdir(target.parent))
    result = _forged(vault, [_directory(b""), _file(key)])

    with pytest.raises(TreeDamagedError):
        read_tree(vault, result, target)

    assert os.listdir(target) == []
    assert sorted(os.listdir(target.parent)) == before


def test_a_symlink_is_not_written_through(target: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = TreeEntry(key=b"link", kind=FileKind.SYMLINK, target=os.fsencode(outside))
    vault = Vault()
    result = _forged(vault, [_directory(b""), link, _file(b"link\0evil"), _file(b"z")])

    restored = read_tree(vault, result, target)

    assert os.listdir(outside) == []
    assert [(problem.path, problem.kind) for problem in restored.problems] == [
        (b"link/evil", RestoreProblemKind.NOT_MADE)
    ]
    assert sorted(os.listdir(target)) == ["link", "z"]


def test_existing_symlinks_in_the_target_are_replaced_and_not_followed(target: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"untouched")
    os.symlink(outside / "file", target / "a")
    os.symlink(outside, target / "b")
    vault = Vault()
    result = _forged(vault, [_directory(b""), _file(b"a"), _directory(b"b"), _file(b"b\0file")])

    restored = read_tree(vault, result, target, overwrite=True)

    assert not restored.problems
    assert (outside / "file").read_bytes() == b"untouched"
    assert stat.S_ISREG(os.lstat(target / "a").st_mode)
    assert stat.S_ISDIR(os.lstat(target / "b").st_mode)


@pytest.mark.parametrize("head", [b"secret", b"link\0file", b"dir\0nothing", b"never"])
def test_hard_links_reach_only_files_of_this_restore(target: Path, tmp_path: Path, head: bytes) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"outside")
    (target / "secret").write_bytes(b"was there before")
    vault = Vault()
    link = TreeEntry(key=b"link", kind=FileKind.SYMLINK, target=os.fsencode(outside))
    hard = TreeEntry(key=b"stolen", kind=FileKind.HARD_LINK, target=head)
    result = _forged(vault, [_directory(b""), _directory(b"dir"), link, hard])

    restored = read_tree(vault, result, target, overwrite=True)

    assert not os.path.lexists(target / "stolen")
    assert [problem.path for problem in restored.problems] == [b"stolen"]


def test_a_file_that_was_swapped_meanwhile_gets_no_further_name(source: Path, target: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (source / "a").write_bytes(b"x")
    os.link(source / "a", source / "b")
    vault = Vault()

    def swap(_: object) -> None:
        if not os.path.lexists(target / "a"):
            return
        os.unlink(target / "a")
        os.link(tmp_path / "secret", target / "a")

    restored = read_tree(vault, write_tree(vault, source), target, progress=swap)

    assert not os.path.lexists(target / "b")
    assert [problem.path for problem in restored.problems] == [b"b"]


def test_a_directory_swapped_for_a_symlink_during_the_restore_is_not_entered(
    source: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (source / "dir").mkdir()
    (source / "dir" / "file").write_bytes(b"x")
    vault = Vault()
    result = write_tree(vault, source)
    real = os.mkdir

    def mkdir(path: Any, *arguments: Any, **named: Any) -> None:
        real(path, *arguments, **named)
        if path == b"dir":
            os.rmdir(target / "dir")
            os.symlink(outside, target / "dir")

    monkeypatch.setattr(os, "mkdir", mkdir)

    restored = read_tree(vault, result, target)

    assert os.listdir(outside) == []
    assert {problem.path for problem in restored.problems} == {b"dir", b"dir/file"}


def test_entries_out_of_order_are_refused(target: Path) -> None:
    vault = Vault()
    result = _forged(vault, [_directory(b""), _file(b"b"), _file(b"a")])

    with pytest.raises(TreeDamagedError):
        read_tree(vault, result, target)
    assert os.listdir(target) == []


# --- setuid, owners, devices -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ({"restore_owner": False}, 0o755),
        ({"restore_owner": False, "keep_setuid": True}, 0o6755),
        ({"restore_owner": True}, 0o6755 if os.geteuid() == 0 else 0o755),
    ],
)
def test_setuid_is_kept_only_with_the_owner_or_when_asked(
    source: Path, target: Path, options: dict[str, Any], mode: int
) -> None:
    (source / "tool").write_bytes(b"#!")
    os.chmod(source / "tool", 0o6755)
    vault = Vault()

    restored = read_tree(vault, write_tree(vault, source), target, **options)

    assert stat.S_IMODE(os.stat(target / "tool").st_mode) == mode
    assert bool(restored.problems) == (mode == 0o755)


def test_file_capabilities_are_left_out_without_the_owner(source: Path, target: Path) -> None:
    (source / "tool").write_bytes(b"#!")
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    try:
        os.setxattr(source / "tool", "security.capability", capability)
    except OSError:
        pytest.skip("file capabilities cannot be set here")
    vault = Vault()

    restored = read_tree(vault, write_tree(vault, source), target, restore_owner=False)

    assert os.listxattr(target / "tool") == []
    assert [problem.kind for problem in restored.problems] == [RestoreProblemKind.METADATA]


def test_what_needs_privileges_is_reported_and_the_rest_restored() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    vault = Vault()
    device = TreeEntry(key=b"device", kind=FileKind.BLOCK_DEVICE, mode=0o600, rdev=(8, 0))
    result = _forged(vault, [_directory(b""), device, _file(b"file", uid=5, xattrs=((b"trusted.x", b"1"),))])
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)

        os.seteuid(65534)
        try:
            restored = read_tree(vault, result, folder, restore_owner=True)
        finally:
            os.seteuid(0)

        assert os.listdir(folder) == ["file"]
    assert {(problem.path, problem.kind.value) for problem in restored.problems} == {
        (b"device", "not_made"),
        (b"file", "metadata"),
        (b"", "metadata"),
    }


def test_acls_that_the_target_hands_down_do_not_stay(source: Path, target: Path) -> None:
    (source / "file").write_bytes(b"x")
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, permissions, number)
        for tag, permissions, number in [
            (1, 7, 0xFFFFFFFF), (2, 7, 1234), (4, 5, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)
        ]
    )  # fmt: skip
    try:
        os.setxattr(target, "system.posix_acl_default", acl)
    except OSError:
        pytest.skip("the file system has no ACLs")
    vault = Vault()

    read_tree(vault, write_tree(vault, source), target)

    assert os.listxattr(target / "file") == []
    assert stat.S_IMODE(os.stat(target / "file").st_mode) == stat.S_IMODE(os.stat(source / "file").st_mode)


# --- the target --------------------------------------------------------------------------------------------


def test_a_target_that_is_not_empty_is_refused_before_anything_is_written(source: Path, target: Path) -> None:
    (source / "file").write_bytes(b"new")
    (target / "file").write_bytes(b"old")
    vault = Vault()
    result = write_tree(vault, source)

    with pytest.raises(TargetError) as caught:
        read_tree(vault, result, target)

    assert caught.value.code == "target_not_empty"
    assert (target / "file").read_bytes() == b"old"


def test_overwrite_replaces_files_and_merges_directories(source: Path, target: Path) -> None:
    (source / "dir").mkdir()
    (source / "dir" / "file").write_bytes(b"new")
    (source / "was a directory").write_bytes(b"new")
    (target / "dir").mkdir()
    (target / "dir" / "file").write_bytes(b"old")
    (target / "dir" / "other").write_bytes(b"stays")
    os.link(target / "dir" / "file", target / "linked")
    (target / "was a directory").mkdir()
    vault = Vault()

    restored = read_tree(vault, write_tree(vault, source), target, overwrite=True)

    assert (target / "dir" / "file").read_bytes() == b"new"
    assert (target / "dir" / "other").read_bytes() == b"stays"
    # Replaced by renaming: another name of the old file keeps the old content.
    assert (target / "linked").read_bytes() == b"old"
    assert [problem.path for problem in restored.problems] == [b"was a directory"]
    assert sorted(os.listdir(target)) == ["dir", "linked", "was a directory"]


def test_restoring_twice_with_overwrite_gives_the_same(source: Path, target: Path) -> None:
    (source / "a").mkdir()
    (source / "a" / "f").write_bytes(noise(3000))
    os.link(source / "a" / "f", source / "g")
    os.symlink("a", source / "s")
    os.mkfifo(source / "p")
    vault = Vault()
    result = write_tree(vault, source)

    read_tree(vault, result, target)
    read_tree(vault, result, target, overwrite=True)

    assert snapshot(os.fsencode(source)) == snapshot(os.fsencode(target))


def test_a_full_target_is_a_clear_error_and_leaves_no_temporary_file(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "file").write_bytes(noise(5000))
    vault = Vault()
    result = write_tree(vault, source)

    def pwrite(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(TargetError) as caught:
        read_tree(vault, result, target, overwrite=True)
    monkeypatch.undo()

    assert caught.value.code == "target_full"
    assert os.listdir(target) == []
    read_tree(vault, result, target, overwrite=True)
    assert (target / "file").read_bytes() == noise(5000)


def test_keys_and_content_are_checked_before_anything_is_written(source: Path, target: Path) -> None:
    (source / "file").write_bytes(b"x")
    vault = Vault()
    result = write_tree(vault, source)
    keys = vault.keys_for(result.write.manifest)
    disk = vault.write(noise(4096))

    with pytest.raises(KeyMismatchError):
        read_tree(vault, result, target, keys=RestoreKeys(domain=keys.domain, data_keys={}))
    wrong = {name: noise(32, "wrong") for name in keys.data_keys}
    with pytest.raises(KeyMismatchError):
        read_tree(vault, result, target, keys=RestoreKeys(domain=keys.domain, data_keys=wrong))
    with pytest.raises(UnsupportedError):
        read_tree(vault, TreeWriteResult(disk, (), {}, {}), target)
    assert os.listdir(target) == []


def test_cancel_ends_the_restore(source: Path, target: Path) -> None:
    for number in range(100):
        (source / f"{number:03d}").write_bytes(b"x")
    vault = Vault()
    result = write_tree(vault, source)
    open_before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(CanceledError):
        read_tree(vault, result, target, cancel=lambda: len(os.listdir(target)) >= 10)

    assert len(os.listdir(target)) == 10
    assert len(os.listdir("/proc/self/fd")) == open_before


# --- selection ---------------------------------------------------------------------------------------------


def _family(source: Path) -> None:
    for name in ["a/b/one", "a/b/two", "a/other", "a.b/three", "z"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())
    os.chmod(source / "a", 0o710)


def _files(folder: Path) -> set[str]:
    return {os.fspath(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ([b"a/b"], {"a/b/one", "a/b/two"}),
        ([b"/a/b/two/"], {"a/b/two"}),
        ([b"z", b"a/b/one", b"a/b"], {"z", "a/b/one", "a/b/two"}),
        ([b"a.b", b"a/other"], {"a.b/three", "a/other"}),
        ([b""], {"a/b/one", "a/b/two", "a/other", "a.b/three", "z"}),
    ],
)
def test_selected_paths_come_back_in_their_place(
    source: Path, target: Path, select: list[bytes], expected: set[str]
) -> None:
    _family(source)
    vault = Vault()

    read_tree(vault, write_tree(vault, source), target, select=select)

    assert _files(target) == expected
    if any(name.startswith("a/") for name in expected):
        assert stat.S_IMODE(os.stat(target / "a").st_mode) == 0o710


@pytest.mark.parametrize("path", [b"missing", b"a/b/one/deeper", b"a/b/on", b"a/missing"])
def test_a_path_that_is_not_there_is_an_error_before_anything_is_written(
    source: Path, target: Path, path: bytes
) -> None:
    _family(source)
    vault = Vault()

    with pytest.raises(PathNotFoundError):
        read_tree(vault, write_tree(vault, source), target, select=[b"z", path])
    assert os.listdir(target) == []


@pytest.mark.parametrize("path", [b"../z", b"a/../z", b"a//b", b"./z", b"a\0b"])
def test_a_selected_path_must_be_plain(source: Path, target: Path, path: bytes) -> None:
    _family(source)
    vault = Vault()

    with pytest.raises(FormatError):
        read_tree(vault, write_tree(vault, source), target, select=[path])


def test_a_selected_hard_link_brings_the_content_with_it(source: Path, target: Path) -> None:
    (source / "first").write_bytes(noise(2000))
    (source / "sub").mkdir()
    os.link(source / "first", source / "sub" / "x")
    os.link(source / "first", source / "sub" / "y")
    vault = Vault()

    restored = read_tree(vault, write_tree(vault, source), target, select=[b"sub"])

    assert not restored.problems
    assert _files(target) == {"sub/x", "sub/y"}
    assert (target / "sub" / "y").read_bytes() == noise(2000)
    assert os.stat(target / "sub" / "x").st_nlink == 2


# --- damage ------------------------------------------------------------------------------------------------


def _spoiled(vault: Vault, entry: TreeEntry, number: int) -> PatchedSource:
    """The vault with one chunk of a file damaged."""
    info = entry.chunks[number].entry
    sha256 = resolve(info.object_name).hex()
    key = next(version.key for version in vault.store.list_versions() if version.key.endswith(f"/p/{sha256}"))
    data = bytearray(next(version.data for version in vault.store.list_versions() if version.key == key))
    data[info.offset + 3] ^= 0x10
    return PatchedSource(vault.store, {key: bytes(data)})


def test_damage_is_listed_by_file_and_range_and_the_rest_is_restored(source: Path, target: Path) -> None:
    data = noise(9000)
    (source / "bad").write_bytes(data)
    (source / "good").write_bytes(noise(3000, "good"))
    vault = Vault()
    result = write_tree(vault, source)
    entry = entries_of(vault, result, b"bad")[0]
    start = sum(chunk.total_bytes for chunk in entry.chunks[:2])
    length = entry.chunks[2].total_bytes

    with pytest.raises(TreeDamagedError) as caught:
        read_tree(vault, result, target, source=_spoiled(vault, entry, 2))

    damaged = caught.value.result.damaged_files
    assert [(file.path, file.ranges) for file in damaged] == [(b"bad", ((start, length),))]
    assert (target / "good").read_bytes() == noise(3000, "good")
    restored = (target / "bad").read_bytes()
    assert restored[:start] == data[:start]
    assert restored[start + length :] == data[start + length :]


def test_a_damaged_file_does_not_replace_one_that_is_there(source: Path, target: Path) -> None:
    (source / "bad").write_bytes(noise(9000))
    (target / "bad").write_bytes(b"precious")
    vault = Vault()
    result = write_tree(vault, source)
    entry = entries_of(vault, result, b"bad")[0]

    with pytest.raises(TreeDamagedError):
        read_tree(vault, result, target, source=_spoiled(vault, entry, 0), overwrite=True)

    assert (target / "bad").read_bytes() == b"precious"
    assert os.listdir(target) == ["bad"]


def test_a_lost_page_of_a_large_file_is_a_range_of_it(source: Path, target: Path) -> None:
    data = noise(MIB)
    (source / "large").write_bytes(data)
    (source / "after").write_bytes(b"after")
    vault = Vault()
    result = write_tree(vault, source)
    info = vault.open(result.write.manifest)
    root = entries_of(vault, result, b"large")[0].chunk_map
    assert root is not None
    reader = PageReader(manifest=info, object_source=vault.store, map_key=vault.domain_keys.map_key)
    branches: list[Branch] = list(reader.page(root.ref, PageKind.CHUNKS, lambda page: []).branches)
    lost = branches[1]
    key = next(entry for entry in info.body.segments if entry.sha256 == resolve(lost.ref.object_name))
    ref = next(ref for ref in result.write.new_objects if ref.sha256 == key.sha256.hex())
    stored = bytearray(vault.store.get(ref))
    stored[lost.ref.offset] ^= 1

    with pytest.raises(TreeDamagedError) as caught:
        read_tree(vault, result, target, source=PatchedSource(vault.store, {ref.key: bytes(stored)}))

    start, length = branches[0].total_bytes, lost.total_bytes
    assert caught.value.result.damaged_files[0].ranges == ((start, length),)
    restored = (target / "large").read_bytes()
    assert restored[:start] == data[:start]
    assert restored[start + length :] == data[start + length :]
    assert (target / "after").read_bytes() == b"after"


def test_a_lost_page_of_names_costs_only_those_names(source: Path, target: Path) -> None:
    for number in range(900):
        folder = source / f"d{number // 300}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number:03d}").write_bytes(b"%d" % number)
    vault = Vault()
    result = write_tree(vault, source)
    info = vault.open(result.write.manifest)
    assert info.root is not None
    reader = PageReader(manifest=info, object_source=vault.store, map_key=vault.domain_keys.map_key)
    branches = list(reader.page(info.root, PageKind.FILES, lambda page: []).branches)
    lost = branches[1]
    ref = next(ref for ref in result.write.new_objects if ref.sha256 == resolve(lost.ref.object_name).hex())
    stored = bytearray(vault.store.get(ref))
    stored[lost.ref.offset + 5] ^= 1

    with pytest.raises(TreeDamagedError) as caught:
        read_tree(vault, result, target, source=PatchedSource(vault.store, {ref.key: bytes(stored)}))

    (report,) = caught.value.result.lost_entries
    assert (key_of(report.path), report.count) == (lost.key, lost.leaf_count)
    expected = {os.fspath(path.relative_to(source)) for path in source.rglob("*") if not path.is_dir()}
    names = {name for name in expected if not report.path <= name.encode() < (report.next_path or b"\xff")}
    assert _files(target) == names
    assert len(expected) - len(names) >= lost.leaf_count - 3


def test_a_selected_path_in_a_lost_page_is_damage_and_not_a_missing_path(source: Path, target: Path) -> None:
    (source / "file").write_bytes(b"x")
    vault = Vault()
    result = write_tree(vault, source)
    root = vault.open(result.write.manifest).root
    assert root is not None
    ref = next(ref for ref in result.write.new_objects if "/i/" in ref.key)
    stored = bytearray(vault.store.get(ref))
    stored[root.offset] ^= 1

    with pytest.raises(IntegrityError):
        read_tree(vault, result, target, source=PatchedSource(vault.store, {ref.key: bytes(stored)}), select=[b"file"])
    assert os.listdir(target) == []


def test_a_store_that_is_away_is_an_error_and_not_damage(source: Path, target: Path) -> None:
    (source / "file").write_bytes(noise(500))
    store = ModelStore(now=lambda: NOW)
    vault = Vault(store=store)
    result = write_tree(vault, source)
    keys = vault.keys_for(result.write.manifest)
    store.faults.update({store.operation_count + number: Fault.BEFORE for number in range(1, 20)})

    with pytest.raises(StoreError) as caught:
        read_tree(vault, result, target, keys=keys)

    assert caught.value.transient


# --- tampering ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["moved", "renamed", "other type", "other size", "setuid"])
def test_an_entry_that_was_tampered_with_fails_authentication(source: Path, target: Path, change: str) -> None:
    """Without the map key a page cannot be written anew, and a page's bytes fit only their own content id."""
    (source / "dir").mkdir()
    (source / "dir" / "file").write_bytes(b"x" * 100)
    vault = Vault()
    result = write_tree(vault, source)
    info = vault.open(result.write.manifest)
    assert info.root is not None
    entry = entries_of(vault, result, recursive=True)[-1]
    changes: dict[str, Any] = {
        "moved": {"key": b"file"},
        "renamed": {"key": b"dir\0other"},
        "other type": {"kind": FileKind.FIFO, "chunks": ()},
        "other size": {"size": 200},
        "setuid": {"mode": 0o4755},
    }[change]
    other = Vault(seed="attacker")
    other.domain_keys = DomainKeys(id_key=noise(32, "id"), map_key=noise(32, "not the map key"))
    forged = _forged(other, [_directory(b""), _directory(b"dir"), msgspec.structs.replace(entry, **changes)])
    forged_root = other.open(forged.write.manifest).root
    assert forged_root is not None
    forged_segment = next(ref for ref in forged.write.new_objects if "/i/" in ref.key)
    segment = next(ref for ref in result.write.new_objects if "/i/" in ref.key)
    stored = bytearray(vault.store.get(segment))
    payload = other.store.get(forged_segment, offset=forged_root.offset, length=forged_root.record_length)
    stored[info.root.offset : info.root.offset + len(payload)] = payload

    with pytest.raises(TreeDamagedError) as caught:
        read_tree(vault, result, target, source=PatchedSource(vault.store, {segment.key: bytes(stored)}))

    assert os.listdir(target) == []
    assert len(caught.value.result.lost_entries) == 1


def test_a_page_of_one_kind_is_not_taken_for_the_other(source: Path) -> None:
    (source / "large").write_bytes(noise(MIB))
    vault = Vault()
    result = write_tree(vault, source)
    info = vault.open(result.write.manifest)
    reader = PageReader(manifest=info, object_source=vault.store, map_key=vault.domain_keys.map_key)
    entry = entries_of(vault, result)[0]
    assert info.root is not None
    assert entry.chunk_map is not None
    assert entry.marks == Marks(0)

    with pytest.raises(FormatError):
        reader.raw_page(info.root, PageKind.CHUNKS)
    with pytest.raises(FormatError):
        reader.raw_page(entry.chunk_map.ref, PageKind.FILES)


def test_no_temporary_name_is_ever_followed(source: Path, target: Path, tmp_path: Path) -> None:
    (source / "file").write_bytes(b"new")
    (tmp_path / "outside").write_bytes(b"untouched")
    os.symlink(tmp_path / "outside", target / f".backupsite-restore-{os.getpid()}-1")
    vault = Vault()

    read_tree(vault, write_tree(vault, source), target, overwrite=True)

    assert (tmp_path / "outside").read_bytes() == b"untouched"
    assert (target / "file").read_bytes() == b"new"
    assert engine.tree_prune.TEMPORARY_PREFIX == b".backupsite-restore-"
