"""Damaged and forged trees: what cannot be had is told by file and range, and nothing false is restored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

import engine.tree_prune
from engine.crypto import DomainKeys
from engine.errors import FormatError, IntegrityError, StoreError
from engine.index import resolve
from engine.store.memory import Fault, ModelStore
from engine.stream_pages import Branch, PageKind
from engine.stream_reader import PageReader
from engine.tree_entries import FileKind, Marks, TreeEntry, key_of
from engine.tree_restore import TreeDamagedError
from tests.engine.chunk_support import entries_of, read_tree, write_tree
from tests.engine.support import NOW, PatchedSource, Vault, noise
from tests.engine.tree_support import MIB, directory_entry, files_below, forged_tree, source, target

__all__ = ["source", "target"]

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
    assert files_below(target) == names
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
    forged = forged_tree(
        other, [directory_entry(b""), directory_entry(b"dir"), msgspec.structs.replace(entry, **changes)]
    )
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
