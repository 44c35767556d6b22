"""Onto a target that holds something only what differs is written, and it ends up exactly as the backup says."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine import tree_writer
from engine.errors import CanceledError, EngineError
from engine.index import MapEntry, resolve
from engine.store.base import ObjectRef
from engine.stream_reader import PageReader
from engine.tree_dirs import DirectoryPath
from engine.tree_place import TargetError
from engine.tree_reader import TreeEntries
from engine.tree_restore import RestoreProblemKind, TreeDamagedError
from engine.tree_walk import TreeOptions, TreeWalker
from engine.tree_writer import TreeWriteResult
from tests.engine.chunk_support import entries_of, read_tree, snapshot, write_tree
from tests.engine.support import PatchedSource, Vault, noise

LARGE = noise(150_000, "large")


class ReadingSource:
    """Counts what is read of packs; fails for good after so many reads."""

    def __init__(self, vault: Vault, *, reads: int = 1 << 60) -> None:
        self._vault = vault
        self._reads = reads
        self.pack_bytes = 0

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        data = self._vault.store.get(ref, offset=offset, length=length)
        if "/p/" in ref.key:
            self._reads -= 1
            if self._reads < 0:
                raise CanceledError("cut")
            self.pack_bytes += len(data)
        return data


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "source")


def make_source(root: Path) -> Path:
    (root / "folder" / "deep").mkdir(parents=True)
    (root / "empty").mkdir()
    for number in range(6):
        (root / "folder" / f"file{number}").write_bytes(noise(3000 + number, f"file {number}"))
    (root / "folder" / "deep" / "large").write_bytes(LARGE)
    with open(root / "sparse", "wb") as file:
        file.truncate(1_000_000)
        file.seek(500_000)
        file.write(noise(5000, "sparse"))
    os.link(root / "folder" / "file1", root / "another name")
    (root / "link").symlink_to("folder/file2")
    os.mkfifo(root / "pipe")
    os.setxattr(root / "folder" / "file3", b"user.colour", b"green")
    os.chmod(root / "folder" / "file4", 0o640)
    os.utime(root / "folder", ns=(10**18, 10**18 + 7))
    return root


@pytest.fixture
def saved(source: Path) -> tuple[Vault, TreeWriteResult]:
    vault = Vault()
    return vault, write_tree(vault, source)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.mkdir()
    return path


@pytest.fixture
def old(saved: tuple[Vault, TreeWriteResult], target: Path) -> Path:
    """A target that holds the whole tree."""
    read_tree(*saved, target)
    return target


def differential(saved: tuple[Vault, TreeWriteResult], target: Path, **options: Any) -> Any:
    return read_tree(*saved, target, differential=True, **options)


def expect_same(target: Path, source: Path) -> None:
    assert snapshot(bytes(target)) == snapshot(bytes(source))


def inodes(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): os.lstat(path).st_ino for path in root.rglob("*")}


def test_what_is_the_same_is_neither_fetched_nor_written(saved: Any, old: Path, source: Path) -> None:
    before, counting = inodes(old), ReadingSource(saved[0])

    result = differential(saved, old, source=counting)

    assert (result.written_bytes, counting.pack_bytes) == (0, 0)
    file_bytes = sum(entry.total_bytes for entry in entries_of(*saved, recursive=True))
    assert (result.same_files, result.same_bytes) == (8, file_bytes)
    assert inodes(old) == before
    expect_same(old, source)


def test_into_an_empty_target_all_is_written(saved: Any, target: Path, source: Path) -> None:
    result = differential(saved, target)

    assert result.same_files == 0
    expect_same(target, source)


def test_of_a_changed_file_only_what_differs_is_fetched(saved: Any, old: Path, source: Path) -> None:
    with open(old / "folder" / "deep" / "large", "r+b") as file:
        file.seek(70_000)
        file.write(b"changed")
    counting = ReadingSource(saved[0])

    result = differential(saved, old, source=counting)

    assert 0 < result.written_bytes <= 2048
    assert counting.pack_bytes <= 4096
    expect_same(old, source)


def test_the_same_size_and_time_are_not_trusted_unless_told(saved: Any, old: Path, source: Path) -> None:
    path = old / "folder" / "file0"
    times = os.stat(path)
    path.write_bytes(noise(3000, "forged"))
    os.utime(path, ns=(times.st_mtime_ns, times.st_mtime_ns))

    trusting = differential(saved, old, trust_mtime=True)
    assert path.read_bytes() == noise(3000, "forged")
    assert trusting.written_bytes == 0

    differential(saved, old)
    expect_same(old, source)


@pytest.mark.parametrize("change", ["shorter", "longer", "filled", "not sparse"])
def test_holes_and_sizes_are_put_right(saved: Any, old: Path, source: Path, change: str) -> None:
    path = old / "sparse"
    with open(path, "r+b") as file:
        if change == "shorter":
            file.truncate(502_000)
        elif change == "longer":
            file.truncate(1_200_000)
        elif change == "filled":
            file.seek(900_000)
            file.write(b"x")
        else:
            file.write(bytes(400_000))

    differential(saved, old)

    expect_same(old, source)
    assert os.stat(path).st_blocks <= os.stat(source / "sparse").st_blocks


def test_links_modes_owners_and_attributes_are_put_right(saved: Any, old: Path, source: Path) -> None:
    (old / "another name").unlink()
    (old / "another name").write_bytes((old / "folder" / "file1").read_bytes())
    os.setxattr(old / "folder" / "file3", b"user.colour", b"red")
    os.setxattr(old / "folder" / "file3", b"user.extra", b"1")
    os.setxattr(old / "empty", b"user.extra", b"1")
    os.chmod(old / "folder" / "file4", 0o777)
    os.utime(old / "folder" / "file5")
    (old / "link").unlink()
    (old / "link").symlink_to("elsewhere")

    result = differential(saved, old)

    assert result.written_bytes == 0
    expect_same(old, source)
    assert os.stat(old / "another name").st_ino == os.stat(old / "folder" / "file1").st_ino


def test_files_that_became_one_are_two_again(saved: Any, old: Path, source: Path) -> None:
    """Same content, other metadata: as one file they could not both be right."""
    vault, _ = saved
    (source / "twin").write_bytes((source / "folder" / "file0").read_bytes())
    os.chmod(source / "twin", 0o600)
    second = (vault, write_tree(vault, source))
    os.link(old / "folder" / "file0", old / "twin")

    result = differential(second, old)

    assert result.written_bytes == 0
    expect_same(old, source)


def test_an_extra_name_of_a_file_is_not_written_through(saved: Any, old: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    os.chmod(outside, 0o600)
    (old / "folder" / "file0").unlink()
    os.link(outside, old / "folder" / "file0")

    differential(saved, old)

    assert outside.read_bytes() == b"precious"
    assert os.stat(outside).st_mode & 0o777 == 0o600
    assert (old / "folder" / "file0").read_bytes() == noise(3000, "file 0")


def test_wrong_types_are_replaced(saved: Any, old: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (old / "folder" / "file0").unlink()
    (old / "folder" / "file0").mkdir()
    (old / "folder" / "file2").unlink()
    (old / "folder" / "file2").symlink_to("file3")
    (old / "folder" / "file5").unlink()
    os.mkfifo(old / "folder" / "file5")
    shutil.rmtree(old / "empty")
    (old / "empty").write_bytes(b"file")
    (old / "link").unlink()
    (old / "link").mkdir()
    (old / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as end:
        # Its path may be longer than an address of a socket.
        monkeypatch.chdir(old)
        end.bind("pipe")

    differential(saved, old)

    expect_same(old, source)


def test_a_symbolic_link_in_place_of_a_directory_is_replaced_and_not_followed(
    saved: Any, old: Path, source: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    shutil.move(old / "folder", outside)
    (old / "folder").symlink_to(outside)
    (outside / "file0").write_bytes(b"untouched")

    differential(saved, old, delete_extra=True)

    expect_same(old, source)
    assert (outside / "file0").read_bytes() == b"untouched"


def test_a_directory_with_content_gives_way_only_when_extras_may_go(saved: Any, old: Path, source: Path) -> None:
    (old / "folder" / "file0").unlink()
    (old / "folder" / "file0").mkdir()
    (old / "folder" / "file0" / "inside").write_bytes(b"extra")

    result = differential(saved, old)
    assert result.problem_counts == {RestoreProblemKind.NOT_MADE: 1}
    assert (old / "folder" / "file0" / "inside").read_bytes() == b"extra"

    differential(saved, old, delete_extra=True)
    expect_same(old, source)


def test_extras_stay_unless_they_are_to_go(saved: Any, old: Path, source: Path) -> None:
    (old / "extra").write_bytes(b"extra")
    (old / "folder" / "extra" / "deep").mkdir(parents=True)
    (old / "folder" / "extra" / "deep" / "file").write_bytes(b"extra")
    (old / "folder" / "extra" / "link").symlink_to("/etc")

    kept = differential(saved, old)
    assert (old / "extra").exists() and (old / "folder" / "extra" / "deep" / "file").exists()
    assert kept.deleted_count == 0

    deleted = differential(saved, old, delete_extra=True)
    assert deleted.deleted_count == 2
    expect_same(old, source)


def test_what_a_killed_restore_left_is_removed(saved: Any, old: Path, source: Path) -> None:
    (old / "folder" / ".backupsite-restore-123-4").write_bytes(b"half")

    differential(saved, old)

    expect_same(old, source)


def test_of_a_selection_only_what_is_selected_is_made_as_it_was(saved: Any, old: Path) -> None:
    for place in ("extra", "folder/extra", "folder/deep/extra"):
        (old / place).write_bytes(b"extra")

    differential(saved, old, delete_extra=True, select=[b"folder/deep", b"folder/file0"])

    assert (old / "extra").exists() and (old / "folder" / "extra").exists()
    assert not (old / "folder" / "deep" / "extra").exists()


def test_what_was_not_entered_keeps_its_content(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at a mount point: the backup has the directory, and does not know what is in it."""
    enter = TreeWalker._enter

    def entered(walker: TreeWalker, path: Any, seen: Any, root_device: int) -> list[bytes] | None:
        return None if seen.name == b"deep" else enter(walker, path, seen, root_device)

    monkeypatch.setattr(TreeWalker, "_enter", entered)
    vault = Vault()
    result = write_tree(vault, source)
    read_tree(vault, result, target)
    for place in ("folder/deep/own", "folder/own"):
        (target / place).write_bytes(b"own")

    differential((vault, result), target, delete_extra=True)

    assert (target / "folder" / "deep" / "own").exists()
    assert not (target / "folder" / "own").exists()


def test_what_could_not_be_read_or_was_excluded_is_not_deleted(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup knows the names of what it could not read, and the patterns of what was excluded."""
    (source / "folder" / "own.tmp").write_bytes(b"excluded")
    enter, opening = DirectoryPath.enter, tree_writer.open_regular

    def denied_folder(path: DirectoryPath, name: bytes, **options: Any) -> None:
        if name == b"deep":
            raise PermissionError(13, "Permission denied")
        enter(path, name, **options)

    def denied_file(directory: int, seen: Any) -> int:
        if seen.name == b"file5":
            raise PermissionError(13, "Permission denied")
        return opening(directory, seen)

    monkeypatch.setattr(DirectoryPath, "enter", denied_folder)
    monkeypatch.setattr(tree_writer, "open_regular", denied_file)
    vault = Vault()
    result = write_tree(vault, source, options=TreeOptions(exclude=("*.tmp",)))
    monkeypatch.undo()
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("pipe"))

    differential((vault, result), target, delete_extra=True)

    assert (target / "folder" / "deep" / "large").read_bytes() == LARGE
    assert (target / "folder" / "file5").read_bytes() == (source / "folder" / "file5").read_bytes()
    assert (target / "folder" / "own.tmp").exists()


def test_behind_a_lost_page_nothing_is_deleted(source: Path, target: Path) -> None:
    for number in range(900):
        (source / "folder" / f"many{number:03}").write_bytes(b"")
    vault = Vault()
    result = write_tree(vault, source)
    read_tree(vault, result, target)
    (target / "extra before").write_bytes(b"extra")
    (target / "another folder").mkdir()
    before = set(snapshot(bytes(target)))

    with pytest.raises(TreeDamagedError) as caught:
        read_tree(
            vault,
            result,
            target,
            differential=True,
            delete_extra=True,
            source=_without_a_page_inside(vault, result),
            keys=vault.keys_for(result.write.manifest),
        )

    [lost] = caught.value.result.lost_entries
    assert lost.path.startswith(b"folder/many") and lost.count > 10
    assert set(snapshot(bytes(target))) == before


def _without_a_page_inside(vault: Vault, result: TreeWriteResult) -> PatchedSource:
    """The vault with a page of names spoilt that begins inside of the folder."""
    pages: list[tuple[bytes, MapEntry]] = []
    reader = PageReader(
        manifest=vault.open(result.write.manifest),
        object_source=vault.store,
        map_key=vault.domain_keys.map_key,
        on_page=lambda kind, level, first, ref: pages.append((first, ref)) if not level else None,
    )
    list(TreeEntries(reader, reader.manifest.root).starting_at(b""))
    page = next(ref for first, ref in pages if first.startswith(b"folder\0many"))
    segment = next(ref for ref in result.write.new_objects if ref.sha256 == resolve(page.object_name).hex())
    data = bytearray(vault.store.get(segment))
    data[page.offset + 5] ^= 1
    return PatchedSource(vault.store, {segment.key: bytes(data)})


def test_what_the_vault_lost_is_taken_from_the_target_where_it_has_it(saved: Any, old: Path, source: Path) -> None:
    vault, result = saved
    packs = {ref.key: None for ref in result.write.new_objects if "/p/" in ref.key}
    keys = vault.keys_for(result.write.manifest)
    os.chmod(old / "folder" / "file0", 0o777)

    differential(saved, old, source=PatchedSource(vault.store, packs), keys=keys)

    expect_same(old, source)


@pytest.mark.parametrize("reads", range(0, 24, 3))
def test_a_restore_that_was_cut_goes_on_where_it_ended(saved: Any, target: Path, source: Path, reads: int) -> None:
    vault, _ = saved
    whole = ReadingSource(vault)
    everything = target.with_name("everything")
    everything.mkdir()
    read_tree(*saved, everything, source=whole)
    cut = ReadingSource(vault, reads=reads)
    with suppress(CanceledError):
        read_tree(*saved, target, source=cut)
    there = sum(path.stat().st_size for path in target.rglob("file?") if path.is_file())
    rest = ReadingSource(vault)

    result = differential(saved, target, source=rest)

    expect_same(target, source)
    assert result.written_bytes <= whole.pack_bytes - there // 2


def test_a_cut_differential_restore_goes_on_too(saved: Any, old: Path, source: Path) -> None:
    for number in range(6):
        (old / "folder" / f"file{number}").write_bytes(b"old state")
    with pytest.raises(CanceledError):
        differential(saved, old, cancel=_after(3))

    differential(saved, old)

    expect_same(old, source)


def _after(count: int) -> Any:
    asked: list[bool] = []

    def cancel() -> bool:
        asked.append(True)
        return len(asked) > count

    return cancel


def test_two_differential_restores_do_not_work_on_one_target(saved: Any, old: Path) -> None:
    descriptor = os.open(old, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(TargetError) as caught:
            differential(saved, old)
    finally:
        os.close(descriptor)

    assert caught.value.code == "target_busy"


@pytest.mark.parametrize("option", ["trust_mtime", "delete_extra"])
def test_options_that_need_a_comparison_are_refused_without(saved: Any, target: Path, option: str) -> None:
    with pytest.raises(EngineError) as caught:
        read_tree(*saved, target, **{option: True})

    assert caught.value.code == "bad_option"


_things = st.sampled_from(["gone", "file", "other", "long", "folder", "full folder", "symlink", "linked", "pipe"])


@settings(
    max_examples=12, phases=[Phase.explicit, Phase.generate], deadline=None, suppress_health_check=list(HealthCheck)
)
@given(st.dictionaries(st.integers(0, 9), _things, max_size=8), st.integers(0, 20))
def test_whatever_the_target_holds_it_becomes_the_backup(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[int, str], cut: int
) -> None:
    place = tmp_path_factory.mktemp("any")
    source, target = make_source(place / "source"), place / "target"
    vault = Vault()
    saved = vault, write_tree(vault, source)
    target.mkdir()
    read_tree(*saved, target)
    names = sorted(path for path in target.rglob("*"))
    for number, thing in changes.items():
        _spoil(names[number], thing, target)
    with suppress(CanceledError):
        differential(saved, target, delete_extra=True, source=ReadingSource(vault, reads=cut))

    result = differential(saved, target, delete_extra=True)

    assert not result.problems
    expect_same(target, source)


def _spoil(path: Path, thing: str, root: Path) -> None:
    if not os.path.lexists(path) or not os.path.lexists(path.parent) or path.parent.is_symlink():
        return
    if not path.parent.is_dir():
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    if thing == "file":
        path.write_bytes(noise(3000, "file 0"))
    elif thing == "other":
        path.write_bytes(noise(2000, "other"))
    elif thing == "long":
        path.write_bytes(LARGE[:70_000] + noise(100_000, "new"))
    elif thing in ("folder", "full folder"):
        path.mkdir()
        if thing == "full folder":
            (path / "inside").write_bytes(b"x")
    elif thing == "symlink":
        path.symlink_to(root.parent)
    elif thing == "pipe":
        os.mkfifo(path)
    elif thing == "linked":
        other = root / "folder" / "file3"
        if other.is_file() and not other.is_symlink() and not (root / "folder").is_symlink():
            os.link(other, path)
