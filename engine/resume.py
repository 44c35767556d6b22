"""What earlier, uncommitted attempts of the same source stored, and the record tables of their packs.

A writer cannot open blocks of an earlier session, but it can tell which blocks lie where: record tables are sealed
under the map key. All that does not fit exactly is skipped; then its blocks are merely sent again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from engine.backup import WriteContext
from engine.crypto import key_fingerprint
from engine.envelope import ENVELOPE_SIZE_MAX, EnvelopeInfo, parse_envelope
from engine.errors import FormatError, IntegrityError, StoreError
from engine.manifest import ObjectEntry, SessionEntry
from engine.pack import HEADER_SIZE, TRAILER_SIZE, ContainerRecord, parse_container_ends, tail_size
from engine.sealing import RecordSealer, RecordType, map_sealer
from engine.store.base import ObjectKind, ObjectRef, ObjectSource, fetch_whole, object_key
from engine.waiting import Background

_TABLES_AHEAD = 8
# Holds the table of a 16 MiB pack of 64 KiB blocks that hardly compress; more is read only when it is needed.
_TAIL_BYTES = 32 * 1024
# A store that fails so many reads for a passing reason is not asked further: the backup itself shall get on.
_PASSING_TROUBLES_MAX = 3


@dataclass(frozen=True, slots=True)
class ResumableSession:
    """One earlier attempt: its envelope and its packs in the order in which they were granted; some may be missing.

    Which session it was is said by the envelope; packs that say otherwise are left alone.
    """

    envelope: ObjectRef
    packs: Sequence[ObjectRef]


@dataclass(frozen=True, slots=True)
class LoadedPack:
    """A pack that is there, and its records."""

    entry: ObjectEntry
    session: SessionEntry
    records: tuple[ContainerRecord, ...]


class PackTables:
    """Iterates over the usable packs of earlier attempts, in their order, reading some ahead."""

    def __init__(
        self,
        *,
        sessions: Sequence[ResumableSession],
        object_source: ObjectSource,
        context: WriteContext,
        background: Background,
        accepts: Callable[[int], bool],
    ) -> None:
        self._object_source = object_source
        self._context = context
        self._background = background
        self._accepts = accepts
        self._recipient = key_fingerprint(context.tenant_public_key)
        self._sealer = _table_sealer(context)
        self._asked = self._ask_all(sessions)
        self._ahead: deque[Future[LoadedPack | None]] = deque()
        self._troubles = 0

    def __iter__(self) -> Iterator[LoadedPack]:
        while True:
            while len(self._ahead) < _TABLES_AHEAD and (asked := next(self._asked, None)) is not None:
                self._ahead.append(asked)
            if not self._ahead:
                return
            loaded = self._background.result(self._ahead.popleft())
            if loaded is not None:
                yield loaded

    def _ask_all(self, sessions: Sequence[ResumableSession]) -> Iterator[Future[LoadedPack | None]]:
        for session in sessions:
            entry = self._background.call(partial(self._open_session, session))
            if entry is None:
                continue
            for pack in session.packs:
                if self._troubles >= _PASSING_TROUBLES_MAX:
                    return
                if pack.sha256 not in self._context.distrusted_packs:
                    yield self._background.start(partial(self._load, pack, entry))

    def _open_session(self, session: ResumableSession) -> SessionEntry | None:
        try:
            self._check_key(session.envelope, ObjectKind.KEY)
            envelope = parse_envelope(fetch_whole(self._object_source, session.envelope, size_max=ENVELOPE_SIZE_MAX))
        except (FormatError, IntegrityError, StoreError) as error:
            self._note(error)
            return None
        if not self._is_ours(envelope):
            return None
        return SessionEntry(envelope.session_id, envelope.commitment, entry_of(session.envelope, use_count=1), 0)

    def _is_ours(self, envelope: EnvelopeInfo) -> bool:
        """Also refuses what was wrapped to an earlier key of the tenant, who may have had reasons to change it."""
        found = (envelope.tenant, envelope.domain, envelope.recipient)
        return found == (self._context.tenant, self._context.domain, self._recipient)

    def _load(self, pack: ObjectRef, session: SessionEntry) -> LoadedPack | None:
        try:
            self._check_key(pack, ObjectKind.PACK)
            records = self._records(pack, session)
        except (FormatError, IntegrityError, StoreError) as error:
            self._note(error)
            return None
        return LoadedPack(entry_of(pack, use_count=0), session, records)

    def _records(self, pack: ObjectRef, session: SessionEntry) -> tuple[ContainerRecord, ...]:
        if pack.size_bytes < HEADER_SIZE + TRAILER_SIZE:
            raise FormatError("the pack is too small")
        head = self._read(pack, 0, HEADER_SIZE)
        tail = self._read_tail(pack, min(_TAIL_BYTES, pack.size_bytes))
        needed = tail_size(tail, size_bytes=pack.size_bytes)
        if needed > len(tail):
            tail = self._read_tail(pack, needed)
        info = parse_container_ends(
            head, tail, size_bytes=pack.size_bytes, kind=ObjectKind.PACK, table_sealer=self._sealer
        )
        if (info.session_id, info.key_commitment) != (session.session_id, session.commitment):
            raise IntegrityError("the pack was not written by the session that its envelope is for")
        return tuple(
            record
            for record in info.records
            if record.session_id == session.session_id and self._accepts(record.plain_length)
        )

    def _read_tail(self, pack: ObjectRef, length: int) -> bytes:
        return self._read(pack, pack.size_bytes - length, length)

    def _read(self, pack: ObjectRef, offset: int, length: int) -> bytes:
        data = self._object_source.get(pack, offset=offset, length=length)
        if len(data) != length:
            raise IntegrityError("the store returned another length than asked for")
        return data

    def _check_key(self, ref: ObjectRef, kind: ObjectKind) -> None:
        context = self._context
        if ref.key != object_key(tenant=context.tenant, domain=context.domain, kind=kind, sha256=ref.sha256):
            raise FormatError("an object of an earlier attempt has another name than its hash and domain give")

    def _note(self, error: Exception) -> None:
        # Counted by several threads without a lock: one more or less does not matter.
        self._troubles += isinstance(error, StoreError) and error.transient


def entry_of(ref: ObjectRef, *, use_count: int) -> ObjectEntry:
    return ObjectEntry(bytes.fromhex(ref.sha256), ref.size_bytes, ref.version_id, use_count)


def _table_sealer(context: WriteContext) -> RecordSealer:
    return map_sealer(
        RecordType.TABLE, tenant=context.tenant, domain=context.domain, map_key=context.domain_keys.map_key
    )
