"""Restores follow relocation objects: what a moved or damaged pack held is found where it is now."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.errors import DamagedError, EngineError, StoreError
from engine.index import MapEntry, resolve
from engine.relocations import Relocations
from engine.store.base import ObjectRef
from engine.writer import WriteResult
from tests.engine.restoring import (
    ReadableTarget,
    blocks_in,
    map_entries,
    packs_of,
    repacked,
    restore,
    sessions_of,
    without_keys,
)
from tests.engine.support import BLOCK_SIZE, PatchedSource, Vault, noise, seeded_bytes
from tests.engine.test_relocations import _parse, _writer

_IMAGE = noise(60 * BLOCK_SIZE) + b"text" * 3000


def _spoiled(vault: Vault, pack: ObjectRef) -> bytes:
    return bytes(byte ^ 0xFF for byte in vault.store.get(pack))


def _restore_without(
    vault: Vault, result: WriteResult, patches: dict[str, bytes | None], **options: Any
) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    target = ReadableTarget(len(_IMAGE))
    options = {"keys": vault.keys_for(result.manifest), **options}
    try:
        restore(vault, result.manifest, target, object_source=PatchedSource(vault.store, patches), **options)
    except DamagedError as error:
        return bytes(target.data), error.ranges
    return bytes(target.data), ()


@pytest.mark.parametrize("how", ["missing", "spoiled", "cut"])
def test_blocks_of_a_bad_pack_come_from_where_they_were_moved(how: str) -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    _, relocations = repacked(vault, result.manifest)
    bad = {
        pack.key: {"missing": None, "spoiled": _spoiled(vault, pack), "cut": vault.store.get(pack)[:700]}[how]
        for pack in packs_of(result)
    }

    assert _restore_without(vault, result, bad, relocations=relocations) == (_IMAGE, ())
    assert _restore_without(vault, result, bad)[1] != ()


def test_packs_that_are_known_to_be_gone_are_not_tried_and_the_new_ones_are_read_in_few_reads() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    moved, relocations = repacked(vault, result.manifest, target_size=1 << 20)
    reads: list[str] = []

    class Watched(PatchedSource):
        def get(self, ref: ObjectRef, **options: Any) -> bytes:
            reads.append(ref.key)
            return super().get(ref, **options)

    target = ReadableTarget(len(_IMAGE))
    restore(
        vault,
        result.manifest,
        target,
        keys=vault.keys_for(result.manifest),
        object_source=Watched(vault.store, {}),
        relocations=relocations,
        gone_packs=[bytes.fromhex(pack.sha256) for pack in packs_of(result)],
    )

    packs_read = [key for key in reads if "/p/" in key]
    assert target.data == _IMAGE
    assert set(packs_read) == {moved.packs[0].key}
    # One read for each leaf that has blocks; the leaves of the tests are four blocks long.
    assert len(packs_read) <= len(_IMAGE) // (4 * BLOCK_SIZE) + 1


def test_a_pack_that_is_missing_is_asked_for_twice_and_then_left_alone() -> None:
    vault = Vault()
    result = vault.write(_IMAGE, fan_out=1024)
    lost = packs_of(result)[0]
    _, relocations = repacked(vault, result.manifest)
    asked: list[str] = []

    class Watched(PatchedSource):
        def get(self, ref: ObjectRef, **options: Any) -> bytes:
            asked.append(ref.key)
            return super().get(ref, **options)

    target = ReadableTarget(len(_IMAGE))
    source = Watched(vault.store, {lost.key: None})
    keys = vault.keys_for(result.manifest)
    restore(vault, result.manifest, target, keys=keys, object_source=source, relocations=relocations)

    assert target.data == _IMAGE
    assert asked.count(lost.key) == 2


@pytest.mark.parametrize("is_listed", [False, True])
def test_a_pack_that_is_not_listed_or_too_small_is_looked_up(is_listed: bool) -> None:
    from engine.fetching import Locator, session_sealers

    vault = Vault()
    result = vault.write(_IMAGE)
    _, relocations = repacked(vault, result.manifest)
    body = vault.open(result.manifest).body
    entry = list(map_entries(vault, result.manifest))[1][1]
    shorter = [msgspec.structs.replace(pack, size_bytes=entry.offset + entry.record_length - 1) for pack in body.packs]
    changed = msgspec.structs.replace(body, packs=shorter if is_listed else [])
    sealers = session_sealers(body, vault.keys_for(result.manifest), relocations)

    found, lost, honest = (
        list(Locator(body=told, sealers=sealers, relocations=known, gone_packs=()).locations(entry))
        for told, known in ((changed, relocations), (changed, []), (body, []))
    )

    assert len(found) == len(honest) == 1
    assert found[0].pack != honest[0].pack
    assert lost == []


def _healed(vault: Vault, result: WriteResult) -> tuple[WriteResult, Relocations]:
    """A later backup of the same image that stored everything anew, and the relocations it would write."""
    again = vault.write(_IMAGE)
    writer = _writer()
    new_entries = dict(map_entries(vault, again.manifest))
    for offset, entry in map_entries(vault, result.manifest):
        writer.add(entry, new_entries[offset])
    packs = {pack.sha256: pack for pack in vault.open(again.manifest).body.packs}
    data = writer.finish(packs, list(sessions_of(vault, again.manifest).values()))
    return again, _parse(data)


def test_blocks_that_a_later_session_stored_anew_heal_the_backup() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    again, relocations = _healed(vault, result)
    bad = {pack.key: None for pack in packs_of(result)}
    keys = vault.keys_for(result.manifest)
    both = vault.keys_for(again.manifest)
    all_keys = type(keys)(domain=keys.domain, data_keys={**keys.data_keys, **both.data_keys})

    assert _restore_without(vault, result, bad, relocations=[relocations], keys=all_keys) == (_IMAGE, ())


@pytest.mark.parametrize("has_wrong_key", [False, True])
def test_without_the_later_sessions_key_it_does_not_help_and_nothing_aborts(has_wrong_key: bool) -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    again, relocations = _healed(vault, result)
    lost = packs_of(result)[1]
    keys = vault.keys_for(result.manifest)
    if has_wrong_key:
        keys = type(keys)(domain=keys.domain, data_keys={**keys.data_keys, again.session_id: noise(32, "wrong")})

    data, ranges = _restore_without(vault, result, {lost.key: None}, relocations=[relocations], keys=keys)

    offsets = blocks_in(vault, result.manifest, [lost])
    assert sum(length for _, length in ranges) == len(offsets) * BLOCK_SIZE
    assert data == b"".join(
        b"\xa5" * BLOCK_SIZE if offset in offsets else _IMAGE[offset : offset + BLOCK_SIZE]
        for offset in range(0, len(_IMAGE), BLOCK_SIZE)
    )


def test_the_manifests_own_sessions_are_still_needed() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    _, relocations = _healed(vault, result)
    target = ReadableTarget(len(_IMAGE))

    with pytest.raises(EngineError) as caught:
        restore(
            vault,
            result.manifest,
            target,
            keys=without_keys(vault.keys_for(result.manifest), result.session_id),
            relocations=[relocations],
        )

    assert (caught.value.code, target.writes) == ("missing_key", 0)


def test_a_relocation_that_lies_costs_a_read_and_never_wrong_bytes() -> None:
    """Made by someone with the map key: every block is said to be where another one is."""
    vault = Vault()
    result = vault.write(_IMAGE)
    entries = [entry for _, entry in map_entries(vault, result.manifest)]
    writer = _writer()
    for entry, other in zip(entries, entries[1:] + entries[:1], strict=True):
        lie = entry._replace(offset=other.offset, record_length=other.record_length, nonce=other.nonce)
        writer.add(entry, lie._replace(object_name=other.object_name, compression=other.compression))
    packs = {pack.sha256: pack for pack in vault.open(result.manifest).body.packs}
    liar = _parse(writer.finish(packs, list(sessions_of(vault, result.manifest).values())))
    lost = packs_of(result)[0]

    data, ranges = _restore_without(vault, result, {lost.key: None}, relocations=[liar])

    expected = bytearray(_IMAGE)
    for offset, length in ranges:
        expected[offset : offset + length] = b"\xa5" * length
    assert data == expected
    assert sum(length for _, length in ranges) == len(blocks_in(vault, result.manifest, [lost])) * BLOCK_SIZE


def test_a_bad_new_pack_is_read_twice_and_then_the_next_place_is_tried() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    moved, first = repacked(vault, result.manifest)
    _, second = repacked(vault, result.manifest, random_bytes=seeded_bytes("again"), target_size=4096)
    bad: dict[str, bytes | None] = {pack.key: None for pack in packs_of(result)}
    bad |= {pack.key: _spoiled(vault, pack) for pack in moved.packs}

    assert _restore_without(vault, result, bad, relocations=[*first, *second]) == (_IMAGE, ())
    assert _restore_without(vault, result, bad, relocations=first)[1] == ((0, len(_IMAGE)),)


def test_a_new_place_that_is_bad_only_once_is_read_again() -> None:
    vault = Vault()
    result = vault.write(_IMAGE, fan_out=1024)
    _, relocations = repacked(vault, result.manifest)
    old = {pack.key for pack in packs_of(result)}
    seen: set[tuple[str, int]] = set()

    class Flaky(PatchedSource):
        def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
            data = super().get(ref, offset=offset, length=length)
            if "/p/" in ref.key and (ref.key in old or (ref.key, offset) not in seen):
                seen.add((ref.key, offset))
                return bytes(len(data))
            return data

    target = ReadableTarget(len(_IMAGE))
    source, keys = Flaky(vault.store, {}), vault.keys_for(result.manifest)
    restore(vault, result.manifest, target, keys=keys, object_source=source, relocations=relocations)

    assert target.data == _IMAGE


def test_a_new_pack_that_is_gone_too_is_not_tried() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    moved, first = repacked(vault, result.manifest)
    _, second = repacked(vault, result.manifest, random_bytes=seeded_bytes("again"))
    gone = {ref.key: bytes.fromhex(ref.sha256) for ref in (*packs_of(result), *moved.packs)}

    class Watched(PatchedSource):
        def get(self, ref: ObjectRef, **options: Any) -> bytes:
            assert ref.key not in gone
            return super().get(ref, **options)

    target = ReadableTarget(len(_IMAGE))
    restore(
        vault,
        result.manifest,
        target,
        keys=vault.keys_for(result.manifest),
        object_source=Watched(vault.store, {}),
        relocations=[*first, *second],
        gone_packs=gone.values(),
    )

    assert target.data == _IMAGE


def test_a_sound_record_with_another_content_id_is_not_taken_whoever_names_it() -> None:
    """The last check before a block is written holds on its own, without the checks of relocations."""
    from engine.fetching import BlockPlace, Fetch, Fetcher, Location, session_sealers

    vault = Vault()
    result = vault.write(_IMAGE)
    (_, wanted), (_, other) = list(map_entries(vault, result.manifest))[:2]
    body = vault.open(result.manifest).body
    location = Location(packs_of(result)[0], other)

    class LyingLocator:
        def is_gone(self, pack: ObjectRef) -> bool:
            return False

        def locations(self, entry: MapEntry) -> list[Location]:
            return [location]

    sealers = session_sealers(body, vault.keys_for(result.manifest), [])
    fetcher = Fetcher(object_source=vault.store, sealers=sealers, locator=LyingLocator())
    places = tuple(BlockPlace(0, entry, location) for entry in (wanted, other))

    found = fetcher.run(Fetch(location.pack, other.offset, other.record_length, places))

    assert found.damaged == [(0, wanted.plain_length)]
    assert found.blocks == [(0, _IMAGE[BLOCK_SIZE : 2 * BLOCK_SIZE])]


def test_an_unreachable_new_pack_is_not_reported_as_damage() -> None:
    vault = Vault()
    result = vault.write(_IMAGE, fan_out=1024)
    moved, relocations = repacked(vault, result.manifest)
    new_keys = {pack.key for pack in moved.packs}

    class Down(PatchedSource):
        def get(self, ref: ObjectRef, **options: Any) -> bytes:
            if ref.key in new_keys:
                raise StoreError("down", transient=True)
            return super().get(ref, **options)

    source = Down(vault.store, {packs_of(result)[0].key: None})
    with pytest.raises(StoreError) as caught:
        restore(
            vault,
            result.manifest,
            ReadableTarget(len(_IMAGE)),
            keys=vault.keys_for(result.manifest),
            object_source=source,
            relocations=relocations,
        )

    assert caught.value.transient


def test_a_block_that_the_image_has_often_is_fetched_once_from_its_new_place() -> None:
    vault = Vault()
    image = noise(BLOCK_SIZE) * 40
    result = vault.write(image, fan_out=64)
    _, relocations = repacked(vault, result.manifest)
    gone = [bytes.fromhex(pack.sha256) for pack in packs_of(result)]
    target = ReadableTarget(len(image))

    told = restore(vault, result.manifest, target, relocations=relocations, gone_packs=gone)

    assert target.data == image
    assert told.fetched_bytes == BLOCK_SIZE + 16
    assert sum(len(relocation) for relocation in relocations) == 1


def test_names_of_new_packs_are_those_of_the_vault() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    moved, relocations = repacked(vault, result.manifest)

    listed = {pack.sha256.hex(): (pack.size_bytes, pack.version_id) for r in relocations for pack in r.packs}

    assert listed == {ref.sha256: (ref.size_bytes, ref.version_id) for ref in moved.packs}
    assert {resolve(entry.object_name) for _, entry in map_entries(vault, result.manifest)} == {
        old for r in relocations for old in r.old_packs
    }
