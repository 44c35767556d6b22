"""Repacking copies ciphertext only, checks it before it is sent, and harms nothing wherever it ends."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import pytest

from engine.compression import Compressor
from engine.errors import CanceledError, EngineError, FormatError, IntegrityError, StoreContractError, StoreError
from engine.index import resolve
from engine.pack import NO_COMMITMENT, NO_WRITER, ContainerWriter, parse_container
from engine.relocations import Relocations
from engine.repack import RepackResult, RepackSource, repack
from engine.sealing import RecordType, map_sealer
from engine.store.base import ObjectKind, ObjectRef
from engine.store.memory import Fault
from engine.writer import WriteResult
from tests.engine.restoring import (
    ReadableTarget,
    live_records,
    map_entries,
    packs_of,
    read_relocations,
    repack_context,
    repacked,
    restore,
)
from tests.engine.support import BLOCK_SIZE, DOMAIN, TENANT, PatchedSource, Vault, noise

_OLD = noise(50 * BLOCK_SIZE) + b"text" * 2000
_NEW = noise(7 * BLOCK_SIZE, "x") + _OLD[7 * BLOCK_SIZE : 40 * BLOCK_SIZE] + noise(9 * BLOCK_SIZE, "y")


def _table_sealer(vault: Vault):
    return map_sealer(RecordType.TABLE, tenant=TENANT, domain=DOMAIN, map_key=vault.domain_keys.map_key)


def _chain() -> tuple[Vault, list[WriteResult]]:
    """Two backups whose second needs blocks of both sessions."""
    vault = Vault()
    first = vault.write(_OLD)
    return vault, [first, vault.write(_NEW, base=first)]


def _payloads(vault: Vault, ref: ObjectRef) -> list[tuple[bytes, bytes, bytes]]:
    data = vault.store.get(ref)
    table = parse_container(data, kind=ObjectKind.PACK, table_sealer=_table_sealer(vault))
    return [
        (record.session_id, record.content_id, data[record.offset : record.offset + record.record_length])
        for record in table.records
    ]


def test_all_backups_restore_from_the_new_packs_alone() -> None:
    vault, results = _chain()
    _, relocations = repacked(vault, *(result.manifest for result in results))
    gone: dict[str, bytes | None] = {pack.key: None for result in results for pack in packs_of(result)}
    assert len(gone) > 5

    for result, image in zip(results, (_OLD, _NEW), strict=True):
        target = ReadableTarget(len(image))
        restore(
            vault,
            result.manifest,
            target,
            keys=vault.keys_for(result.manifest),
            object_source=PatchedSource(vault.store, gone),
            relocations=relocations,
            gone_packs=[bytes.fromhex(key.split("/")[-1]) for key in gone],
        )
        assert target.data == image


def test_records_are_copied_byte_for_byte_and_only_the_live_ones() -> None:
    vault, (_, second) = _chain()
    live = live_records(vault, second.manifest)
    wanted = {resolve(entry.object_name) + entry.content_id for source in live for entry in source.live}
    before = {row for source in live for row in _payloads(vault, source.pack)}

    result, _ = repacked(vault, second.manifest)

    after = [row for ref in result.packs for row in _payloads(vault, ref)]
    assert set(after) < before
    assert {content for _, content, _ in after} == {place[32:] for place in wanted}
    assert len(after) == len(set(after)) == result.copied_records == len(wanted)
    assert result.copied_bytes == sum(len(payload) for _, _, payload in after)


def test_a_pack_of_several_sessions_says_so_in_header_and_table() -> None:
    vault, results = _chain()

    result, relocations = repacked(vault, results[1].manifest, target_size=1 << 20)

    table = parse_container(vault.store.get(result.packs[0]), kind=ObjectKind.PACK, table_sealer=_table_sealer(vault))
    assert (table.session_id, table.key_commitment) == (NO_WRITER, NO_COMMITMENT)
    assert {record.session_id for record in table.records} == {result.session_id for result in results}
    assert {session.session_id for session in relocations[0].sessions} == {r.session_id for r in results}
    assert len(result.packs) == len(result.relocations) == 1


def test_new_packs_keep_their_size() -> None:
    vault, results = _chain()

    result, _ = repacked(vault, results[0].manifest, target_size=6000)

    assert len(result.packs) > 4
    assert all(4000 < ref.size_bytes <= 6000 for ref in result.packs[:-1])


def test_a_repack_of_a_repack_is_followed() -> None:
    vault, (first, _) = _chain()
    once, relocations = repacked(vault, first.manifest)
    sources = _moved_again(once.packs, relocations)

    context = repack_context(vault, first.manifest, target_size=1 << 20)
    twice = repack(sources, object_source=vault.store, sink=vault.store, context=context)

    gone: dict[str, bytes | None] = {pack.key: None for pack in (*packs_of(first), *once.packs)}
    target = ReadableTarget(len(_OLD))
    restore(
        vault,
        first.manifest,
        target,
        keys=vault.keys_for(first.manifest),
        object_source=PatchedSource(vault.store, gone),
        relocations=[*relocations, *(read_relocations(vault, ref) for ref in twice.relocations)],
    )
    assert target.data == _OLD
    assert len(twice.packs) == 1


def _moved_again(packs: list[ObjectRef], relocations: list[Relocations]) -> list[RepackSource]:
    places = [place for relocation in relocations for _, _, place in relocation.rows()]
    return [RepackSource(ref, [place.entry for place in places if place.pack.hex() == ref.sha256]) for ref in packs]


def test_relocations_are_split_when_one_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.relocations.ROWS_MAX", 10)
    vault, (first, _) = _chain()

    result, relocations = repacked(vault, first.manifest, target_size=1 << 20)

    assert [len(relocation) for relocation in relocations[:-1]] == [10] * (len(relocations) - 1)
    assert len(relocations) > 4
    gone: dict[str, bytes | None] = {pack.key: None for pack in packs_of(first)}
    target = ReadableTarget(len(_OLD))
    source = PatchedSource(vault.store, gone)
    keys = vault.keys_for(first.manifest)
    restore(vault, first.manifest, target, keys=keys, object_source=source, relocations=relocations)
    assert target.data == _OLD
    assert len(result.packs) == len(relocations)


def test_a_record_that_several_maps_name_is_copied_once() -> None:
    vault, results = _chain()
    entries = [entry for r in results for _, entry in map_entries(vault, r.manifest)]

    result, relocations = repacked(vault, *(r.manifest for r in results))

    distinct = {(resolve(entry.object_name), entry.offset) for entry in entries}
    assert len(distinct) < len(entries)
    assert result.copied_records == sum(map(len, relocations)) == len(distinct)


def test_the_bytes_of_a_repacked_pack_are_pinned() -> None:
    """Uncompressed, with fixed randomness. Another hash here is another format."""
    vault = Vault(seed="pinned")
    first = vault.write(noise(20 * BLOCK_SIZE), compression_level=None)
    second = vault.write(noise(5 * BLOCK_SIZE, "x") + noise(20 * BLOCK_SIZE)[5 * BLOCK_SIZE :], base=first)

    result, _ = repacked(vault, second.manifest, compressor=Compressor(None), target_size=1 << 20)

    assert [ref.sha256 for ref in result.packs] == ["1fd2f8955309a8ce6560fb4e7805672949e8801e6d121aeab7768e4960b4aaa3"]


# --- nothing is sent that is not right --------------------------------------------------------------------


def _stores(vault: Vault) -> int:
    return sum(name == "put" for name, _ in vault.store.operations)


@pytest.mark.parametrize("place", [0, 10, 70, -100, -1])
def test_a_source_pack_that_is_not_what_its_name_says_is_refused(place: int) -> None:
    vault, (first, _) = _chain()
    pack = packs_of(first)[0]
    data = bytearray(vault.store.get(pack))
    data[place] ^= 1
    before = _stores(vault)

    with pytest.raises(IntegrityError):
        repack(
            live_records(vault, first.manifest)[:1],
            object_source=PatchedSource(vault.store, {pack.key: bytes(data)}),
            sink=vault.store,
            context=repack_context(vault, first.manifest),
        )

    assert _stores(vault) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry._replace(offset=entry.offset + 1),
        lambda entry: entry._replace(record_length=entry.record_length - 1),
        lambda entry: entry._replace(plain_length=entry.plain_length + 1),
        lambda entry: entry._replace(compression=1 - entry.compression),
        lambda entry: entry._replace(nonce=bytes(12)),
        lambda entry: entry._replace(content_id=bytes(32)),
    ],
)
def test_a_map_entry_that_the_packs_table_does_not_have_is_refused(change: Any) -> None:
    vault, (first, _) = _chain()
    source = live_records(vault, first.manifest)[0]
    entries = [change(source.live[0]), *source.live[1:]]
    before = _stores(vault)

    with pytest.raises(IntegrityError, match="table"):
        repack(
            [replace(source, live=entries)],
            object_source=vault.store,
            sink=vault.store,
            context=repack_context(vault, first.manifest),
        )

    assert _stores(vault) == before


def test_a_record_of_another_pack_is_refused() -> None:
    vault, (first, _) = _chain()
    one, other = live_records(vault, first.manifest)[:2]

    with pytest.raises(FormatError, match="lie in"):
        repack(
            [RepackSource(one.pack, [*one.live, *other.live])],
            object_source=vault.store,
            sink=vault.store,
            context=repack_context(vault, first.manifest),
        )


def test_an_unknown_session_is_refused_before_anything_is_read() -> None:
    vault, (_, second) = _chain()
    sources = live_records(vault, second.manifest)
    context = repack_context(vault, second.manifest, sessions={})
    before = len(vault.store.operations)

    with pytest.raises(FormatError) as caught:
        repack(sources, object_source=vault.store, sink=vault.store, context=context)

    assert caught.value.code == "unknown_session"
    assert len(vault.store.operations) == before


def test_a_new_pack_that_is_not_what_was_copied_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    vault, (first, _) = _chain()
    honest = ContainerWriter.finish

    def faulty(self: ContainerWriter, **options: Any) -> bytes:
        data = bytearray(honest(self, **options))
        data[100] ^= 1  # in the first record, which no table vouches for
        return bytes(data)

    monkeypatch.setattr(ContainerWriter, "finish", faulty)
    before = _stores(vault)

    with pytest.raises(IntegrityError, match="copied"):
        repacked(vault, first.manifest)

    assert _stores(vault) == before


def test_a_sink_that_answers_for_another_object_is_refused() -> None:
    class LyingSink:
        def put(self, *, key: str, data: bytes, sha256: str) -> ObjectRef:
            return ObjectRef(key + "x", sha256, len(data), "v")

    vault, (first, _) = _chain()

    with pytest.raises(StoreContractError):
        repack(
            live_records(vault, first.manifest),
            object_source=vault.store,
            sink=LyingSink(),
            context=repack_context(vault, first.manifest),
        )


def _repack_in_small_packs(vault: Vault, first: WriteResult) -> RepackResult:
    context = repack_context(vault, first.manifest, target_size=3000)
    sources = live_records(vault, first.manifest)
    vault.store.operation_count = 0
    return repack(sources, object_source=vault.store, sink=vault.store, context=context)


@pytest.mark.parametrize("fault", list(Fault))
def test_a_fault_at_any_operation_harms_nothing_and_the_next_run_succeeds(fault: Fault) -> None:
    vault, (first, _) = _chain()
    _repack_in_small_packs(vault, first)
    operations = vault.store.operation_count
    assert operations > 15

    for number in range(operations):
        vault, (first, _) = _chain()
        sources, context = live_records(vault, first.manifest), repack_context(vault, first.manifest, target_size=3000)
        vault.store.faults = {vault.store.operation_count + number: fault}
        with pytest.raises(StoreError):
            repack(sources, object_source=vault.store, sink=vault.store, context=context)
        vault.store.faults = {}

        assert vault.restored(first.manifest) == _OLD
        for version in vault.store.list_versions():
            if "/r/" in version.key:
                _check_packs_are_there(vault, ObjectRef(version.key, version.sha256, 1, version.version_id))
        assert _repack_in_small_packs(vault, first).relocations


def _check_packs_are_there(vault: Vault, relocation: ObjectRef) -> None:
    """A relocation is never stored before the packs that it names."""
    for pack in read_relocations(vault, relocation).packs:
        key = f"t/{TENANT}/d/{DOMAIN}/p/{pack.sha256.hex()}"
        assert vault.store.head(key=key, version_id=pack.version_id)


def test_a_cancel_stops_between_packs() -> None:
    vault, (first, _) = _chain()
    calls = 0

    def cancel() -> bool:
        nonlocal calls
        calls += 1
        return calls > 2

    with pytest.raises(CanceledError):
        repack(
            live_records(vault, first.manifest),
            object_source=vault.store,
            sink=vault.store,
            context=repack_context(vault, first.manifest),
            cancel=cancel,
        )


def test_nothing_live_makes_nothing() -> None:
    vault, (first, _) = _chain()
    sources = [RepackSource(pack, []) for pack in packs_of(first)]
    context = repack_context(vault, first.manifest)
    before = vault.store.operation_count

    result = repack(sources, object_source=vault.store, sink=vault.store, context=context)

    assert (result.packs, result.relocations, vault.store.operation_count) == ([], [], before)


def test_memory_holds_one_pack_to_read_and_one_to_write() -> None:
    vault = Vault()
    size = 1 << 20
    result = vault.write(noise(24 * size), block_size=65536, fan_out=1024, pack_size=size, compression_level=None)

    class Dropping:
        def put(self, *, key: str, data: bytes, sha256: str) -> ObjectRef:
            return ObjectRef(key, sha256, len(data), "v")

    sources = live_records(vault, result.manifest)
    context = repack_context(vault, result.manifest, target_size=size)
    tracemalloc.start()
    repack(sources, object_source=vault.store, sink=Dropping(), context=context)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(sources) > 20
    assert peak < 5 * size


# --- the container ----------------------------------------------------------------------------------------


def _container(vault: Vault, *, session_id: bytes, commitment: bytes) -> ContainerWriter:
    return ContainerWriter(
        ObjectKind.PACK,
        session_id=session_id,
        key_commitment=commitment,
        table_sealer=_table_sealer(vault),
        target_size=1 << 20,
    )


def _any_record(vault: Vault) -> Any:
    sealer = _table_sealer(vault)
    return sealer.seal(b"x", content_id=sealer.content_id(b"x"), salt=bytes(16), compressor=Compressor(None))


@pytest.mark.parametrize(
    ("writer", "record"), [(NO_WRITER, None), (NO_WRITER, bytes(16)), (NO_WRITER, b"short"), (b"a" * 16, b"b" * 16)]
)
def test_a_record_needs_the_right_session(writer: bytes, record: bytes | None) -> None:
    vault = Vault()

    with pytest.raises(FormatError):
        _container(vault, session_id=writer, commitment=NO_COMMITMENT).add(_any_record(vault), session_id=record)


@pytest.mark.parametrize(
    ("header_session", "commitment", "is_sound"),
    [
        (b"a" * 16, b"c" * 32, True),
        (b"b" * 16, b"c" * 32, False),
        (NO_WRITER, b"c" * 32, False),
        (NO_WRITER, NO_COMMITMENT, True),
    ],
)
def test_header_and_table_must_name_the_same_session(header_session: bytes, commitment: bytes, is_sound: bool) -> None:
    vault = Vault()
    container = _container(vault, session_id=b"a" * 16, commitment=b"c" * 32)
    container.add(_any_record(vault))
    data = container.finish(salt=bytes(16), compressor=Compressor(None))
    changed = data[:12] + header_session + commitment + data[60:]

    if is_sound:
        assert parse_container(changed, kind=ObjectKind.PACK, table_sealer=_table_sealer(vault)).records
        return
    with pytest.raises(EngineError):
        parse_container(changed, kind=ObjectKind.PACK, table_sealer=_table_sealer(vault))
