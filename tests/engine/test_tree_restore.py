"""Restoring a tree: nothing outside of the target is touched, and damage is told by file and range."""

from __future__ import annotations

import errno
import os
import stat
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest

from engine.errors import CanceledError, FormatError, KeyMismatchError, UnsupportedError
from engine.restore import RestoreKeys
from engine.tree_entries import FileKind, TreeEntry
from engine.tree_place import TargetError
from engine.tree_reader import PathNotFoundError
from engine.tree_restore import RestoreProblemKind, TreeDamagedError
from engine.tree_writer import TreeWriteResult
from tests.engine.chunk_support import read_tree, snapshot, write_tree
from tests.engine.support import Vault, noise
from tests.engine.tree_support import directory_entry, file_entry, files_below, forged_tree, source, target

__all__ = ["source", "target"]

# --- nothing leaves the target -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", [b"..", b"a\0..", b"../evil", b"/evil", b"a\0/etc", b".", b"a\0\0b", b"\0a", b"a\0", b"x" * 1025]
)
def test_names_that_lead_elsewhere_are_never_restored(target: Path, key: bytes) -> None:
    vault = Vault()
    before = sorted(os.listdir(target.parent))
    result = forged_tree(vault, [directory_entry(b""), file_entry(key)])

    with pytest.raises(TreeDamagedError):
        read_tree(vault, result, target)

    assert os.listdir(target) == []
    assert sorted(os.listdir(target.parent)) == before


def test_a_symlink_is_not_written_through(target: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = TreeEntry(key=b"link", kind=FileKind.SYMLINK, target=os.fsencode(outside))
    vault = Vault()
    result = forged_tree(vault, [directory_entry(b""), link, file_entry(b"link\0evil"), file_entry(b"z")])

    restored = read_tree(vault, result, target)

    assert os.listdir(outside) == []
    assert [(problem.path, problem.kind) for problem in restored.problems] == [
        (b"link/evil", RestoreProblemKind.NOT_MADE)
    ]
    assert sorted(os.listdir(target)) == ["link", "z"]


@pytest.mark.case("RS-07")
def test_existing_symlinks_in_the_target_are_replaced_and_not_followed(target: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"untouched")
    os.symlink(outside / "file", target / "a")
    os.symlink(outside, target / "b")
    vault = Vault()
    result = forged_tree(vault, [directory_entry(b""), file_entry(b"a"), directory_entry(b"b"), file_entry(b"b\0file")])

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
    result = forged_tree(vault, [directory_entry(b""), directory_entry(b"dir"), link, hard])

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
    result = forged_tree(vault, [directory_entry(b""), file_entry(b"b"), file_entry(b"a")])

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
    result = forged_tree(
        vault, [directory_entry(b""), device, file_entry(b"file", uid=5, xattrs=((b"trusted.x", b"1"),))]
    )
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


@pytest.mark.case("RS-09")
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

    assert files_below(target) == expected
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
    assert files_below(target) == {"sub/x", "sub/y"}
    assert (target / "sub" / "y").read_bytes() == noise(2000)
    assert os.stat(target / "sub" / "x").st_nlink == 2
