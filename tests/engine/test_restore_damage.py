"""Which ranges are lost with a pack or a page: told without reading a pack, and exactly as a restore finds it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import DamagedError, StoreError
from engine.ranges import RangeList, gaps, merge_ranges, survey_damage
from engine.repository import MapReader, walk_leaves
from engine.store.base import ObjectRef
from engine.writer import WriteResult
from tests.engine.restoring import ReadableTarget, blocks_in, map_of, packs_of, repacked, restore
from tests.engine.support import BLOCK_SIZE, PatchedSource, Vault, noise

_IMAGE = noise(30 * BLOCK_SIZE) + bytes(40 * BLOCK_SIZE) + noise(30 * BLOCK_SIZE, "b") + noise(99, "end")


class OnlyMap:
    """A source that has everything but packs."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        assert "/p/" not in ref.key
        return self._inner.get(ref, offset=offset, length=length)


def _damage_of_a_restore(vault: Vault, result: WriteResult, patches: dict[str, bytes | None]) -> list[tuple[int, int]]:
    source = PatchedSource(vault.store, patches)
    keys = vault.keys_for(result.manifest)
    try:
        restore(vault, result.manifest, ReadableTarget(len(_IMAGE)), keys=keys, object_source=source)
    except DamagedError as error:
        return list(error.ranges)
    return []


def _names(refs: list[ObjectRef]) -> set[bytes]:
    return {bytes.fromhex(ref.sha256) for ref in refs}


@pytest.mark.parametrize("lost", [[], [0], [1, 3], [0, 1, 2, 3]])
def test_the_survey_of_lost_packs_is_what_a_restore_finds(lost: list[int]) -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    packs = [packs_of(result)[number] for number in lost]
    reader = map_of(vault, result.manifest, source=OnlyMap(vault.store))

    ranges = list(survey_damage(reader, _names(packs)))

    assert ranges == _damage_of_a_restore(vault, result, {pack.key: None for pack in packs})
    assert sum(length for _, length in ranges) >= len(blocks_in(vault, result.manifest, packs)) * BLOCK_SIZE - 512
    assert bool(ranges) == bool(lost)


def test_a_lost_segment_loses_all_that_its_pages_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.writer.DEFAULT_CONTAINER_SIZE", 1500)
    vault = Vault()
    result = vault.write(_IMAGE)
    segments = [ref for ref in result.new_objects if "/i/" in ref.key]
    assert len(segments) > 4

    for segment in segments:
        patched = PatchedSource(vault.store, {segment.key: None})
        read = list(survey_damage(map_of(vault, result.manifest, source=patched), ()))
        told = list(survey_damage(map_of(vault, result.manifest, lost_segments=_names([segment])), ()))

        assert read == told == _damage_of_a_restore(vault, result, {segment.key: None}) != []


def test_a_lost_page_high_in_the_tree_is_asked_for_twice_and_not_for_each_leaf() -> None:
    vault = Vault()
    result = vault.write(noise(400 * BLOCK_SIZE), fan_out=2)
    segment = next(ref for ref in result.new_objects if "/i/" in ref.key)
    reads: list[str] = []

    class Counted(PatchedSource):
        def get(self, ref: ObjectRef, **options: Any) -> bytes:
            reads.append(ref.key)
            return super().get(ref, **options)

    source = Counted(vault.store, {segment.key: None})

    spans = list(walk_leaves(map_of(vault, result.manifest, source=source)))

    assert [(span.offset, span.length, span.entries) for span in spans] == [(0, 400 * BLOCK_SIZE, None)]
    assert len(reads) == 2


def test_a_page_that_is_bad_only_once_is_no_damage() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    seen: set[tuple[str, int]] = set()

    class Flaky(PatchedSource):
        def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
            data = super().get(ref, offset=offset, length=length)
            if "/i/" in ref.key and (ref.key, offset) not in seen:
                seen.add((ref.key, offset))
                return bytes(len(data))
            return data

    target = ReadableTarget(len(_IMAGE))
    keys = vault.keys_for(result.manifest)
    restore(vault, result.manifest, target, keys=keys, object_source=Flaky(vault.store, {}))

    assert seen
    assert target.data == _IMAGE


def test_a_store_that_cannot_be_reached_is_no_damage() -> None:
    class Down:
        def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
            raise StoreError("down", transient=True)

    vault = Vault()
    result = vault.write(_IMAGE)

    with pytest.raises(StoreError):
        list(survey_damage(map_of(vault, result.manifest, source=Down()), ()))


def test_a_map_entry_of_another_length_than_its_place_needs_is_damage_of_the_whole_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A writer with the map key could seal a short block: the rest of its place would keep the target's old bytes."""
    honest = MapReader.leaf

    def lying(self: MapReader, index: int) -> dict[int, Any]:
        entries = honest(self, index)
        return {slot: entry._replace(plain_length=5) if index == 2 else entry for slot, entry in entries.items()}

    vault = Vault()
    result = vault.write(_IMAGE)
    keys = vault.keys_for(result.manifest)
    monkeypatch.setattr(MapReader, "leaf", lying)

    with pytest.raises(DamagedError) as caught:
        restore(vault, result.manifest, ReadableTarget(len(_IMAGE)), keys=keys)

    assert caught.value.ranges == ((8 * BLOCK_SIZE, 4 * BLOCK_SIZE),)
    assert list(survey_damage(map_of(vault, result.manifest), ())) == [(8 * BLOCK_SIZE, 4 * BLOCK_SIZE)]


def test_blocks_that_were_moved_are_not_lost_with_their_old_pack() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    packs = _names(packs_of(result))
    moved, relocations = repacked(vault, result.manifest)

    with_relocations = list(survey_damage(map_of(vault, result.manifest), packs, relocations=relocations))
    without = list(survey_damage(map_of(vault, result.manifest), packs))
    all_gone = list(survey_damage(map_of(vault, result.manifest), packs | _names(moved.packs), relocations=relocations))

    assert with_relocations == []
    assert without == all_gone == [(0, 30 * BLOCK_SIZE), (70 * BLOCK_SIZE, 30 * BLOCK_SIZE + 99)]


def test_the_walk_covers_the_image_without_gaps_and_in_steps_over_holes() -> None:
    vault = Vault()
    image = bytes(1000 * BLOCK_SIZE) + noise(BLOCK_SIZE) + bytes(500 * BLOCK_SIZE + 3)
    result = vault.write(image)

    spans = list(walk_leaves(map_of(vault, result.manifest)))

    assert spans[0].offset == 0
    assert all(one.offset + one.length == after.offset for one, after in pairwise(spans))
    assert spans[-1].offset + spans[-1].length == len(image)
    assert len(spans) < 40
    assert [span.offset for span in spans if span.entries] == [1000 * BLOCK_SIZE]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.booleans())
def test_whatever_is_lost_the_restore_is_right_but_for_what_the_survey_says(
    data: st.DataObject, is_known: bool
) -> None:
    vault = Vault()
    base = vault.write(_IMAGE)
    image = noise(5 * BLOCK_SIZE, "x") + _IMAGE[5 * BLOCK_SIZE :]
    result = vault.write(image, base=base)
    moved, relocations = repacked(vault, result.manifest)
    packs = [ref for ref in vault.open(result.manifest).body.needed_refs() if "/p/" in ref.key]
    lost = data.draw(st.lists(st.sampled_from([*packs, *moved.packs]), unique=True))
    segments = [ref for ref in result.new_objects if "/i/" in ref.key]
    lost_segments = segments[: data.draw(st.sampled_from([0, 0, 0, 1]))]
    patches: dict[str, bytes | None] = {ref.key: None for ref in [*lost, *lost_segments]}
    target = ReadableTarget(len(image))

    reader = map_of(vault, result.manifest, lost_segments=_names(lost_segments))
    told = tuple(survey_damage(reader, _names(lost), relocations=relocations))
    try:
        restore(
            vault,
            result.manifest,
            target,
            keys=vault.keys_for(result.manifest),
            object_source=PatchedSource(vault.store, patches),
            relocations=relocations,
            gone_packs=_names(lost) if is_known else (),
        )
        ranges: tuple[tuple[int, int], ...] = ()
    except DamagedError as error:
        ranges = error.ranges

    assert ranges == told
    expected = bytearray(image)
    for offset, length in ranges:
        expected[offset : offset + length] = b"\xa5" * length
    assert target.data == expected


_RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=30)


def _bytes_of(ranges: Any) -> set[int]:
    return {offset for start, length in ranges for offset in range(start, start + length)}


@settings(deadline=None)
@given(_RANGES, st.integers(1, 5))
def test_merged_ranges_are_the_same_bytes_apart_and_ascending(ranges: list[tuple[int, int]], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.ranges._UNSORTED_MAX", limit)
        collected = RangeList()
        for offset, length in ranges:
            collected.add(offset, length)
        merged = list(collected.ranges())

    assert _bytes_of(merged) == _bytes_of(ranges)
    assert all(start + length < after for (start, length), (after, _) in pairwise(merged))
    assert merged == list(merge_ranges(sorted(ranges)))


@settings(deadline=None)
@given(_RANGES)
def test_gaps_are_all_that_is_not_covered(ranges: list[tuple[int, int]]) -> None:
    covered = [(start, length) for start, length in merge_ranges(sorted(ranges)) if start < 50]

    found = list(gaps(0, 50, covered))

    assert _bytes_of(found) == set(range(50)) - _bytes_of(covered)
    assert all(length > 0 for _, length in found)


def test_a_wholly_lost_disk_is_one_range_in_little_memory() -> None:
    collected = RangeList()

    for block in range(200_000):
        collected.add((block ^ 1) * BLOCK_SIZE, BLOCK_SIZE)

    assert len(collected._merged) + len(collected._unsorted) < 5000
    assert list(collected.ranges()) == [(0, 200_000 * BLOCK_SIZE)]
