"""Copying live records of old packs into new ones, without any data key.

What is copied is ciphertext, byte for byte: a record names no pack, and its own session's key opens it anywhere. The
map key is needed, to check the records against the old packs' tables and to seal the new tables and the relocations.

Order of stores: new packs, then the relocation object that names them. A repack that ends anywhere leaves packs that
nothing names, or relocations that say one more place where a block is; the old packs are only read. Memory holds one
source pack and one new pack.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from engine.codec import OBJECT_SIZE_MAX, SALT_SIZE
from engine.compression import Compressor
from engine.crypto import RandomBytes
from engine.errors import EngineError, FormatError, IntegrityError, StoreContractError, StoreNotFoundError
from engine.hashing import sha256_hex
from engine.index import MapEntry, PendingObject, entry_for, resolve
from engine.manifest import ObjectEntry, SessionEntry
from engine.pack import (
    DEFAULT_CONTAINER_SIZE,
    NO_COMMITMENT,
    NO_WRITER,
    ContainerRecord,
    ContainerWriter,
    parse_container,
)
from engine.relocations import RelocationWriter
from engine.sealing import RecordType, map_sealer
from engine.store.base import ObjectKind, ObjectRef, ObjectSink, ObjectSource, fetch_whole, object_key
from engine.waiting import Cancel, check_cancel, never_cancel


@dataclass(frozen=True, slots=True)
class RepackSource:
    """One old pack and the records in it that some map still needs; each is copied once, however often it is named."""

    pack: ObjectRef
    live: Collection[MapEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepackContext:
    """`sessions` must have every session that seals a live record: a restore needs its envelope."""

    tenant: str
    domain: str
    map_key: bytes = field(repr=False)
    sessions: Mapping[bytes, SessionEntry]
    random_bytes: RandomBytes
    compressor: Compressor
    target_size: int = DEFAULT_CONTAINER_SIZE


@dataclass(slots=True)
class RepackResult:
    packs: list[ObjectRef] = field(default_factory=list)
    relocations: list[ObjectRef] = field(default_factory=list)
    # Source packs that were left out because something about them is wrong, and what.
    refused: dict[str, EngineError] = field(default_factory=dict)
    copied_records: int = 0
    copied_bytes: int = 0


def repack(
    sources: Iterable[RepackSource],
    *,
    object_source: ObjectSource,
    sink: ObjectSink,
    context: RepackContext,
    cancel: Cancel = never_cancel,
    passes_over_bad: bool = False,
) -> RepackResult:
    """Copy all live records, pack by pack, and store new packs and relocations.

    Every source pack is read whole and must have the hash in its name; each live record must be in its table exactly
    as the map says. Raises IntegrityError or FormatError otherwise, or with `passes_over_bad` leaves the pack out
    (`refused`, by SHA-256), as one that is not there. StoreError for the vault's trouble, CanceledError. May be run
    again: it makes new packs.
    """
    session = _Repack(object_source, sink, context)
    for source in sources:
        check_cancel(cancel)
        try:
            records = session.checked(source)
        except (FormatError, IntegrityError, StoreNotFoundError) as error:
            if not passes_over_bad:
                raise
            session.result.refused[source.pack.sha256] = error
            continue
        session.copy(records)
    session.finish()
    return session.result


class _Repack:
    def __init__(self, object_source: ObjectSource, sink: ObjectSink, context: RepackContext) -> None:
        self._object_source = object_source
        self._sink = sink
        self._context = context
        self._table_sealer = map_sealer(
            RecordType.TABLE, tenant=context.tenant, domain=context.domain, map_key=context.map_key
        )
        self.result = RepackResult()
        self._start_pack()
        self._start_relocations()

    def checked(self, source: RepackSource) -> list[tuple[MapEntry, memoryview]]:
        """The live records of the pack, with their payloads. Nothing is copied yet."""
        live = _distinct(source)
        for entry in live:
            if entry.session_id not in self._context.sessions:
                raise FormatError("a live record belongs to a session that was not given", code="unknown_session")
        if not live:
            return []
        data = memoryview(fetch_whole(self._object_source, source.pack, size_max=OBJECT_SIZE_MAX))
        table = parse_container(data, kind=ObjectKind.PACK, table_sealer=self._table_sealer)
        records = {record.offset: record for record in table.records}
        for entry in live:
            _check_listed(entry, records.get(entry.offset))
        return [(entry, data[entry.offset : entry.offset + entry.record_length]) for entry in live]

    def copy(self, records: Iterable[tuple[MapEntry, memoryview]]) -> None:
        for entry, payload in records:
            self._copy_record(entry, bytes(payload))

    def finish(self) -> None:
        self._close_pack()
        self._close_relocations()

    def _copy_record(self, old: MapEntry, payload: bytes) -> None:
        if not self._container.has_room_for(len(payload)):
            self._close_pack()
        if self._relocations.is_full:
            self._close_pack()
            self._close_relocations()
        record = old.sealed(payload)
        offset = self._container.add(record, session_id=old.session_id)
        new = entry_for(record, slot=0, object_name=self._pack, session_id=old.session_id, offset=offset)
        self._added.append(((old.session_id, *old[5:]), payload))
        self._relocations.add(old, new)
        self.result.copied_records += 1
        self.result.copied_bytes += len(payload)

    def _close_pack(self) -> None:
        if self._container.is_empty:
            return
        salt = self._context.random_bytes(SALT_SIZE)
        data = self._container.finish(salt=salt, compressor=self._context.compressor)
        self._check_copy(data)
        ref = self._store(ObjectKind.PACK, data)
        self._pack.sha256 = bytes.fromhex(ref.sha256)
        self._stored[self._pack.sha256] = ObjectEntry(self._pack.sha256, ref.size_bytes, ref.version_id, 0)
        self.result.packs.append(ref)
        self._start_pack()

    def _check_copy(self, data: bytes) -> None:
        """Parse the new pack as a reader would, and compare every record with what was to be copied."""
        view = memoryview(data)
        table = parse_container(view, kind=ObjectKind.PACK, table_sealer=self._table_sealer)
        is_same = len(table.records) == len(self._added) and all(
            (record.session_id, record.plain_length, record.compression, record.nonce, record.content_id) == facts
            and view[record.offset : record.offset + record.record_length] == payload
            for record, (facts, payload) in zip(table.records, self._added, strict=True)
        )
        if not is_same:
            raise IntegrityError("the new pack does not hold what was copied into it")

    def _close_relocations(self) -> None:
        if self._relocations.is_empty:
            return
        data = self._relocations.finish(self._stored, list(self._context.sessions.values()))
        self.result.relocations.append(self._store(ObjectKind.RELOCATION, data))
        self._start_relocations()

    def _store(self, kind: ObjectKind, data: bytes) -> ObjectRef:
        sha256 = sha256_hex(data)
        key = object_key(tenant=self._context.tenant, domain=self._context.domain, kind=kind, sha256=sha256)
        ref = self._sink.put(key=key, data=data, sha256=sha256)
        if (ref.key, ref.sha256, ref.size_bytes) != (key, sha256, len(data)):
            raise StoreContractError(f"the store answered for another object than {key}")
        return ref

    def _start_pack(self) -> None:
        self._pack = PendingObject()
        self._added: list[tuple[tuple[object, ...], bytes]] = []
        self._container = ContainerWriter(
            ObjectKind.PACK,
            session_id=NO_WRITER,
            key_commitment=NO_COMMITMENT,
            table_sealer=self._table_sealer,
            target_size=self._context.target_size,
        )

    def _start_relocations(self) -> None:
        self._stored: dict[bytes, ObjectEntry] = {}
        self._relocations = RelocationWriter(
            tenant=self._context.tenant,
            domain=self._context.domain,
            map_key=self._context.map_key,
            random_bytes=self._context.random_bytes,
            compressor=self._context.compressor,
        )


def _distinct(source: RepackSource) -> list[MapEntry]:
    """Live records by offset. A map of another pack among them would copy the wrong bytes."""
    pack = bytes.fromhex(source.pack.sha256)
    if any(resolve(entry.object_name) != pack for entry in source.live):
        raise FormatError("a live record does not lie in the pack to copy from")
    by_offset = {entry.offset: entry for entry in source.live}
    return [by_offset[offset] for offset in sorted(by_offset)]


def _check_listed(entry: MapEntry, record: ContainerRecord | None) -> None:
    told = (entry.session_id, *entry[3:])
    listed = None
    if record is not None:
        listed = (
            record.session_id,
            record.offset,
            record.record_length,
            record.plain_length,
            record.compression,
            record.nonce,
            record.content_id,
        )
    if told != listed:
        raise IntegrityError("a live record is not in its pack's table as the map says")
