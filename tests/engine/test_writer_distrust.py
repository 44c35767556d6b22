"""What is wrong with a base never ends a backup: damaged packs are replaced, lost pages read again from the source."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.compression import Compressor
from engine.errors import BaseMismatchError, FormatError, StoreError
from engine.index import MapEntry
from engine.relocations import RelocationWriter, parse_relocations
from engine.repository import MapReader
from engine.restore import RestoreKeys, restore_disk
from engine.scan import Extent
from engine.store.base import ObjectRef
from engine.writer import BackupBase, WriteResult, write_disk_backup
from tests.engine.support import (
    BLOCK_SIZE,
    DOMAIN,
    TENANT,
    ImageSource,
    ImageTarget,
    PatchedSource,
    Vault,
    noise,
)

_IMAGE = noise(120 * BLOCK_SIZE)
_SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def _packs(result: WriteResult) -> list[ObjectRef]:
    return [ref for ref in result.new_objects if "/p/" in ref.key]


def _segments(result: WriteResult) -> list[ObjectRef]:
    return [ref for ref in result.new_objects if "/i/" in ref.key]


def _needed(vault: Vault, result: WriteResult) -> set[str]:
    return {ref.key for ref in vault.open(result.manifest).body.needed_refs()}


def _entries(vault: Vault, result: WriteResult) -> dict[int, MapEntry]:
    """All entries of a backup's map, by number of the block."""
    info = vault.open(result.manifest)
    reader = MapReader(manifest=info, object_source=vault.store, map_key=vault.domain_keys.map_key)
    fan_out = info.body.fan_out
    leaves = range(-(-info.body.block_count // fan_out))
    return {leaf * fan_out + slot: entry for leaf in leaves for slot, entry in reader.leaf(leaf).items()}


def _check_counts(vault: Vault, result: WriteResult) -> None:
    """The manifest lists exactly what its map uses, with right counts."""
    body = vault.open(result.manifest).body
    entries = _entries(vault, result).values()
    assert {entry.sha256: entry.use_count for entry in body.packs} == Counter(entry.object_name for entry in entries)
    sessions = {entry.session_id: entry.use_count for entry in body.sessions if entry.use_count}
    assert sessions == Counter(entry.session_id for entry in entries)


def _write(
    vault: Vault, image: Any, base: WriteResult, patches: dict[str, bytes | None], **changes: Any
) -> WriteResult:
    """A backup over a base some of whose objects are damaged or gone."""
    vault.sequence += 1
    return write_disk_backup(
        source=image if isinstance(image, ImageSource) else ImageSource(image),
        sink=vault.store,
        base=BackupBase(base.manifest, PatchedSource(vault.store, patches)),
        context=vault.context(**changes),
    )


# --- distrusted packs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [None, []], ids=["unknown changes", "no changes"])
def test_blocks_of_a_distrusted_pack_are_stored_anew(changed: list[Extent] | None) -> None:
    vault = Vault()
    first = vault.write(_IMAGE)
    damaged = _packs(first)[2]
    moved: list[tuple[MapEntry, MapEntry]] = []

    second = vault.write(
        ImageSource(_IMAGE, changed=changed),
        base=first,
        distrusted_packs=frozenset({damaged.sha256}),
        on_moved=lambda old, new: moved.append((old, new)),
    )

    assert damaged.key not in _needed(vault, second)
    old, new = _entries(vault, first), _entries(vault, second)
    replaced = [block for block in old if old[block] != new[block]]
    assert {old[block].object_name.hex() for block in replaced} == {damaged.sha256}
    assert moved == [(old[block], new[block]) for block in replaced]
    assert second.stats.healed_blocks == len(replaced) > 5
    assert vault.restored(second.manifest) == _IMAGE
    _check_counts(vault, second)


def test_only_the_blocks_of_the_distrusted_pack_are_read_when_changes_are_known() -> None:
    vault = Vault()
    first = vault.write(_IMAGE)
    damaged = _packs(first)[2]
    blocks = [n for n, entry in _entries(vault, first).items() if entry.object_name.hex() == damaged.sha256]
    source = ImageSource(_IMAGE, changed=[Extent(0, 1)])

    vault.write(source, base=first, distrusted_packs=frozenset({damaged.sha256}))

    assert sum(length for _, length in source.reads) == (len(blocks) + 1) * BLOCK_SIZE


def test_a_block_that_changed_or_became_zero_is_not_reported_as_moved() -> None:
    vault = Vault()
    first = vault.write(_IMAGE)
    damaged = _packs(first)[0]
    blocks = [n for n, entry in _entries(vault, first).items() if entry.object_name.hex() == damaged.sha256]
    image = bytearray(_IMAGE)
    image[blocks[0] * BLOCK_SIZE] ^= 1
    image[blocks[1] * BLOCK_SIZE : (blocks[1] + 1) * BLOCK_SIZE] = bytes(BLOCK_SIZE)
    moved: list[bytes] = []

    second = vault.write(
        image,
        base=first,
        distrusted_packs=frozenset({damaged.sha256}),
        on_moved=lambda old, new: moved.append(old.content_id),
    )

    old = _entries(vault, first)
    assert moved == [old[block].content_id for block in blocks[2:]]
    assert damaged.key not in _needed(vault, second)
    assert vault.restored(second.manifest) == image


def test_a_leaf_whose_distrusted_blocks_all_became_holes_is_not_kept() -> None:
    vault = Vault()
    first = vault.write(_IMAGE)
    distrusted = frozenset(ref.sha256 for ref in _packs(first))

    second = vault.write(ImageSource(_IMAGE, allocated=[]), base=first, distrusted_packs=distrusted)

    assert vault.restored(second.manifest) == bytes(len(_IMAGE))
    assert not any("/p/" in key for key in _needed(vault, second))


def test_what_moved_is_enough_to_heal_the_earlier_backup() -> None:
    vault = Vault()
    first = vault.write(_IMAGE)
    lost = _packs(first)[2]
    relocation = RelocationWriter(
        tenant=TENANT,
        domain=DOMAIN,
        map_key=vault.domain_keys.map_key,
        random_bytes=vault.random_bytes,
        compressor=Compressor(1),
    )

    second = vault.write(_IMAGE, base=first, distrusted_packs=frozenset({lost.sha256}), on_moved=relocation.add)
    body = vault.open(second.manifest).body
    data = relocation.finish({entry.sha256: entry for entry in body.packs}, body.sessions)

    keys = RestoreKeys(
        domain=vault.domain_keys,
        data_keys=dict(vault.keys_for(first.manifest).data_keys) | dict(vault.keys_for(second.manifest).data_keys),
    )
    target = ImageTarget(len(_IMAGE))
    restore_disk(
        manifest_ref=first.manifest,
        object_source=PatchedSource(vault.store, {lost.key: None}),
        keys=keys,
        trusted_writers=[vault.writer_key.public],
        target=target,
        relocations=[parse_relocations(data, tenant=TENANT, domain=DOMAIN, map_key=vault.domain_keys.map_key)],
    )
    assert target.data == _IMAGE


def test_packs_that_the_base_does_not_use_change_nothing() -> None:
    vault = Vault()
    first = vault.write(_IMAGE)
    source = ImageSource(_IMAGE, changed=[])

    second = vault.write(source, base=first, distrusted_packs=frozenset({"ab" * 32}))

    assert source.reads == []
    assert second.new_objects == ()


def test_a_name_that_is_no_hash_is_refused() -> None:
    vault = Vault()
    first = vault.write(_IMAGE)

    with pytest.raises(FormatError):
        vault.write(_IMAGE, base=first, distrusted_packs=frozenset({"no hash"}))


@_SETTINGS
@given(
    st.sets(st.integers(0, 11), max_size=4),
    st.lists(st.tuples(st.integers(0, 119), st.booleans()), max_size=6),
    st.booleans(),
    st.sampled_from([120, 97, 130]),
)
def test_any_mix_of_distrust_and_change_comes_back(
    distrusted: set[int], edits: list[tuple[int, bool]], knows_changes: bool, block_count: int
) -> None:
    vault = Vault()
    first = vault.write(_IMAGE)
    packs = _packs(first)
    names = frozenset(packs[number % len(packs)].sha256 for number in distrusted)
    image = bytearray((_IMAGE + noise(10 * BLOCK_SIZE, "more"))[: block_count * BLOCK_SIZE])
    changed: list[Extent] = []
    for block in sorted({block % block_count for block, _ in edits}):
        to_zero = dict(edits).get(block, False)
        image[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE] = (
            bytes(BLOCK_SIZE) if to_zero else noise(BLOCK_SIZE, str(block))
        )
        changed.append(Extent(block * BLOCK_SIZE, BLOCK_SIZE))
    source = ImageSource(image, changed=changed if knows_changes else None)

    second = vault.write(source, base=first, distrusted_packs=names)

    assert not names & {key.rpartition("/")[2] for key in _needed(vault, second)}
    assert vault.restored(second.manifest) == image
    assert vault.restored(first.manifest) == _IMAGE
    _check_counts(vault, second)


# --- lost pages of the map ----------------------------------------------------------------------------------------


def test_exactly_the_leaves_of_a_distrusted_segment_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.writer.DEFAULT_CONTAINER_SIZE", 1500)
    vault = Vault()
    first = vault.write(_IMAGE)

    for segment in _segments(first):
        source = ImageSource(_IMAGE, changed=[])
        second = vault.write(source, base=first, distrusted_segments=frozenset({segment.sha256}))

        leaves = _leaves_under(vault, first, segment)
        assert source.reads == [(leaf * 4 * BLOCK_SIZE, 4 * BLOCK_SIZE) for leaf in leaves]
        assert second.stats.lost_leaves == len(leaves) > 0
        assert segment.key not in _needed(vault, second)
        assert vault.restored(second.manifest) == _IMAGE
        _check_counts(vault, second)


def _leaves_under(vault: Vault, result: WriteResult, segment: ObjectRef) -> list[int]:
    """Leaves that lie in the segment, or a page above them does."""
    info = vault.open(result.manifest)
    reader = MapReader(manifest=info, object_source=vault.store, map_key=vault.domain_keys.map_key)

    def is_lost(leaf: int) -> bool:
        refs = [reader.page_ref(level, leaf // 4**level) for level in range(info.body.height + 1)]
        return any(ref is not None and ref.object_name.hex() == segment.sha256 for ref in refs)

    return [leaf for leaf in range(30) if is_lost(leaf)]


def test_a_base_whose_root_is_distrusted_is_read_again_as_a_whole() -> None:
    vault = Vault()
    first = vault.write(_IMAGE)
    source = ImageSource(_IMAGE, changed=[])

    second = vault.write(source, base=first, distrusted_segments=frozenset(r.sha256 for r in _segments(first)))

    assert second.stats.read_bytes == len(_IMAGE)
    assert vault.restored(second.manifest) == _IMAGE
    assert not set(_needed(vault, second)) & {ref.key for ref in first.new_objects if "/k/" not in ref.key}


def _damages(vault: Vault, ref: ObjectRef) -> list[bytes | None]:
    data = vault.store.get(ref)
    flipped = bytearray(data)
    flipped[len(data) // 3] ^= 0x10
    return [None, bytes(len(data)), bytes(flipped), data[: len(data) // 2], b""]


@pytest.mark.parametrize(
    "changed",
    [None, [Extent(block * BLOCK_SIZE, 3) for block in range(0, 100, 5)]],
    ids=["unknown changes", "known changes"],
)
def test_a_damaged_segment_is_noticed_in_the_run_and_read_around(
    monkeypatch: pytest.MonkeyPatch, changed: list[Extent] | None
) -> None:
    monkeypatch.setattr("engine.writer.DEFAULT_CONTAINER_SIZE", 1500)
    image = bytearray(_IMAGE)
    for block in range(0, 100, 5):
        image[block * BLOCK_SIZE + 1] ^= 1
    lost_leaves = 0
    probe = Vault()
    count = len(_segments(probe.write(_IMAGE)))

    for number in range(count):
        vault = Vault()
        first = vault.write(_IMAGE)
        segment = _segments(first)[number]
        damage = _damages(vault, segment)[number % 5]

        # Small packs: segments are stored early, also by a pass over the image that is given up.
        second = _write(vault, ImageSource(image, changed=changed), first, {segment.key: damage}, pack_size=1500)

        assert vault.restored(second.manifest) == image
        _check_counts(vault, second)
        assert {ref.key for ref in (*second.new_objects, *second.reused_objects)} == _needed(vault, second)
        lost_leaves += second.stats.lost_leaves
    assert lost_leaves > 10


@_SETTINGS
@given(st.integers(0, 1 << 30), st.sampled_from([0.1, 0.5]), st.booleans(), st.sampled_from([120, 90, 140]))
def test_a_store_that_loses_map_pages_now_and_then_costs_no_data(
    seed: int, rate: float, knows_changes: bool, block_count: int
) -> None:
    """Each read on its own may fail, so a page that was there may be gone a moment later."""
    vault = Vault()
    first = vault.write(_IMAGE)
    dice = random.Random(seed)

    class Flickering:
        def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
            data = vault.store.get(ref, offset=offset, length=length)
            return bytes(len(data)) if "/i/" in ref.key and dice.random() < rate else data

    image = bytearray((_IMAGE + noise(20 * BLOCK_SIZE, "more"))[: block_count * BLOCK_SIZE])
    image[40 * BLOCK_SIZE] ^= 1
    vault.sequence += 1
    second = write_disk_backup(
        source=ImageSource(image, changed=[Extent(40 * BLOCK_SIZE, 1)] if knows_changes else None),
        sink=vault.store,
        base=BackupBase(first.manifest, Flickering()),
        context=vault.context(),
    )

    assert vault.restored(second.manifest) == image
    _check_counts(vault, second)


def test_an_unreachable_store_is_not_taken_for_damage() -> None:
    vault = Vault()
    first = vault.write(_IMAGE)

    class Down:
        def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
            if "/i/" in ref.key:
                raise StoreError("down", transient=True)
            return vault.store.get(ref, offset=offset, length=length)

    vault.sequence += 1
    with pytest.raises(StoreError) as caught:
        write_disk_backup(
            source=ImageSource(_IMAGE),
            sink=vault.store,
            base=BackupBase(first.manifest, Down()),
            context=vault.context(),
        )

    assert caught.value.transient


# --- a base that cannot be used at all ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", range(5))
def test_a_base_whose_manifest_is_damaged_asks_for_a_full_backup_before_anything_is_done(kind: int) -> None:
    vault = Vault()
    first = vault.write(_IMAGE)
    damage = _damages(vault, first.manifest)[kind]
    source = ImageSource(_IMAGE)
    objects = len(vault.store.list_versions())

    with pytest.raises(BaseMismatchError) as caught:
        _write(vault, source, first, {first.manifest.key: damage})

    assert caught.value.code == "base_unreadable"
    assert source.reads == []
    assert len(vault.store.list_versions()) == objects
