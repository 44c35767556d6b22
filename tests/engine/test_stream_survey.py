"""What lies in which pack is known without reading packs; repacked chunks are found where they were moved."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest

from engine.errors import DamagedError, IntegrityError, UnsupportedError
from engine.index import resolve
from engine.relocations import Relocations
from engine.repack import RepackSource, repack
from engine.store.base import ObjectRef
from engine.stream_survey import AffectedRange, affected_ranges, chunk_entries
from tests.engine.chunk_support import entries_of, read_stream, read_tree, snapshot, write_stream, write_tree
from tests.engine.restoring import read_relocations, repack_context
from tests.engine.support import PatchedSource, Vault, noise


def _affected(vault: Vault, manifest: ObjectRef, packs: Any = (), source: Any = None) -> list[AffectedRange]:
    return list(
        affected_ranges(
            manifest=vault.open(manifest),
            object_source=source or vault.store,
            map_key=vault.domain_keys.map_key,
            unavailable_packs={bytes.fromhex(ref.sha256) for ref in packs},
        )
    )


def _packs(vault: Vault, manifest: ObjectRef) -> list[ObjectRef]:
    return [ref for ref in vault.open(manifest).body.needed_refs() if "/p/" in ref.key]


def _repacked(vault: Vault, manifest: ObjectRef) -> tuple[PatchedSource, list[Relocations]]:
    """The vault without the packs of a backup, and where their chunks are now."""
    entries = chunk_entries(manifest=vault.open(manifest), object_source=vault.store, map_key=vault.domain_keys.map_key)
    live: dict[str, list[Any]] = {}
    for entry in entries:
        live.setdefault(resolve(entry.object_name).hex(), []).append(entry)
    packs = _packs(vault, manifest)
    sources = [RepackSource(pack, live[pack.sha256]) for pack in packs]
    context = repack_context(vault, manifest)
    result = repack(sources, object_source=vault.store, sink=vault.store, context=context)
    return PatchedSource(vault.store, {pack.key: None for pack in packs}), [
        read_relocations(vault, ref) for ref in result.relocations
    ]


def test_ranges_of_a_stream_in_a_lost_pack_are_exact() -> None:
    vault = Vault()
    data = noise(60_000) + bytes(5000) + noise(300)
    result = write_stream(vault, data)
    pack = _packs(vault, result.manifest)[2]
    output = io.BytesIO()

    with pytest.raises(DamagedError) as caught:
        read_stream(
            vault, result, source=PatchedSource(vault.store, {pack.key: None}), output=output, fill_damaged=True
        )

    found = _affected(vault, result.manifest, [pack])
    assert [(place.offset, place.length) for place in found] == list(caught.value.ranges)
    assert _affected(vault, result.manifest) == []


def test_files_in_a_lost_pack_are_named(tmp_path: Path) -> None:
    for name in ("a", "b", "large"):
        (tmp_path / name).write_bytes(noise(6000 if name != "large" else 200_000, name))
    vault = Vault()
    result = write_tree(vault, tmp_path)
    sizes = {entry.path: entry.size for entry in entries_of(vault, result)}

    everything = _affected(vault, result.write.manifest, _packs(vault, result.write.manifest))
    one = _affected(vault, result.write.manifest, _packs(vault, result.write.manifest)[:1])

    assert everything == [AffectedRange(path, 0, size) for path, size in sizes.items()]
    assert {place.path for place in one} <= {b"a", b"b"}
    assert 0 < sum(place.length or 0 for place in one) < 12_000


def test_a_lost_page_of_names_is_told_by_its_first_path(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    vault = Vault()
    result = write_tree(vault, tmp_path)
    segment = next(ref for ref in result.write.new_objects if "/i/" in ref.key)
    source = PatchedSource(vault.store, {segment.key: bytes(segment.size_bytes)})

    assert _affected(vault, result.write.manifest, source=source) == [AffectedRange(b"", 0, None, hidden_bytes=1)]
    with pytest.raises(IntegrityError):
        list(
            chunk_entries(
                manifest=vault.open(result.write.manifest),
                object_source=source,
                map_key=vault.domain_keys.map_key,
            )
        )


def test_a_disk_has_a_survey_of_its_own() -> None:
    vault = Vault()

    with pytest.raises(UnsupportedError):
        _affected(vault, vault.write(noise(4096)).manifest)


def test_a_repacked_stream_restores_from_the_new_packs() -> None:
    vault = Vault()
    data = noise(60_000) + b"text" * 5000
    result = write_stream(vault, data)
    source, relocations = _repacked(vault, result.manifest)

    assert read_stream(vault, result, source=source, relocations=relocations) == data
    gone = [bytes.fromhex(pack.sha256) for pack in _packs(vault, result.manifest)]
    assert read_stream(vault, result, source=source, relocations=relocations, gone_packs=gone) == data
    with pytest.raises(DamagedError):
        read_stream(vault, result, source=source)


def test_a_repacked_tree_restores_from_the_new_packs(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for number in range(40):
        (source / f"{number:02d}").write_bytes(noise(number * 100, str(number)))
    (source / "large").write_bytes(noise(200_000))
    vault = Vault()
    result = write_tree(vault, source)
    keys = vault.keys_for(result.write.manifest)
    without_packs, relocations = _repacked(vault, result.write.manifest)

    read_tree(vault, result, target, source=without_packs, relocations=relocations, keys=keys)

    assert snapshot(os.fsencode(source)) == snapshot(os.fsencode(target))
