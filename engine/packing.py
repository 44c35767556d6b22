"""Collecting the sealed blocks of one session into packs."""

from __future__ import annotations

from collections.abc import Container
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

from engine.backup import WriteContext
from engine.blocks import NewBlock
from engine.codec import SALT_SIZE
from engine.compression import Compressor
from engine.crypto import SessionKeys
from engine.enveloping import ensure_envelope
from engine.errors import EngineError
from engine.hashing import sha256_hex
from engine.index import MapEntry, PendingObject, entry_for
from engine.pack import ContainerWriter
from engine.sealing import RecordType, map_sealer
from engine.store.base import ObjectKind
from engine.upload import Uploader
from engine.window import ResumedBlocks

# Blocks of this session that are found again by id, wherever they lie; about 430 bytes of memory each.
_STORED_IDS_MAX = 1 << 16


class KnownIds:
    """Ids of blocks that need not be sealed: stored by this session, or found in packs of earlier attempts."""

    def __init__(self, stored_ids: Container[bytes], resumed: ResumedBlocks | None) -> None:
        self._stored_ids = stored_ids
        self._resumed = resumed

    def __contains__(self, content_id: object) -> bool:
        return content_id in self._stored_ids or (self._resumed is not None and content_id in self._resumed)


class _FullPack(NamedTuple):
    pack: PendingObject
    future: Future[tuple[bytes, str]]


class PackWriter:
    """Fills packs and hands them to the uploader; knows where this session's blocks lie.

    The session's key envelope is stored before its first pack. With `resumed`, blocks that an earlier attempt stored
    are referred to instead of stored again; workers that seal ask `known_ids` first.
    """

    def __init__(
        self,
        *,
        context: WriteContext,
        keys: SessionKeys,
        uploader: Uploader,
        compressor: Compressor,
        resumed: ResumedBlocks | None = None,
    ) -> None:
        self._context = context
        self._keys = keys
        self._uploader = uploader
        self._compressor = compressor
        self._table_sealer = map_sealer(
            RecordType.TABLE,
            tenant=context.tenant,
            domain=context.domain,
            map_key=context.domain_keys.map_key,
        )
        self._resumed = resumed
        self.stored_ids: dict[bytes, MapEntry] = {}
        self.known_ids = KnownIds(self.stored_ids, resumed)
        self.resumed_count = 0
        self._full: _FullPack | None = None
        self._start_pack()

    def add(self, block: NewBlock) -> tuple[MapEntry, bool]:
        """The block's map entry, and whether it had to be stored."""
        known = self.stored_ids.get(block.content_id) or self._take_resumed(block.content_id)
        if known is not None:
            return known._replace(slot=block.slot), False
        if block.record is None:
            raise EngineError("a block was neither sealed nor stored before", code="internal")
        if not self._container.has_room_for(len(block.record.payload)):
            self._set_aside()
        offset = self._container.add(block.record)
        entry = entry_for(
            block.record,
            slot=block.slot,
            object_name=self._pack,
            session_id=self._keys.session_id,
            offset=offset,
        )
        self._remember(entry)
        if self._resumed is not None:
            self._resumed.note_miss()
        return entry, True

    def close_pack(self) -> None:
        """Afterwards the name of every pack is known, and each is on its way."""
        self._set_aside()
        self._send_full()

    def _set_aside(self) -> None:
        """Join and hash the open pack in the background. It gets its name when the next one is full, and not before:
        the same input has to give the same objects, whatever the threads do."""
        self._send_full()
        if self._container.is_empty:
            return
        build = partial(_built, self._container, self._context.random_bytes(SALT_SIZE), self._compressor)
        self._full = _FullPack(self._pack, self._uploader.prepare(build))
        self._start_pack()

    def _send_full(self) -> None:
        if self._full is None:
            return
        data, sha256 = self._uploader.prepared(self._full.future)
        self._full.pack.sha256 = bytes.fromhex(sha256)
        self._full = None
        ensure_envelope(context=self._context, keys=self._keys, uploader=self._uploader)
        self._uploader.submit(ObjectKind.PACK, data, sha256=sha256)

    def _take_resumed(self, content_id: bytes) -> MapEntry | None:
        entry = self._resumed.take(content_id) if self._resumed is not None else None
        if entry is not None:
            self.resumed_count += 1
            self._remember(entry)
        return entry

    def _remember(self, entry: MapEntry) -> None:
        if len(self.stored_ids) < _STORED_IDS_MAX:
            self.stored_ids[entry.content_id] = entry
            if self._resumed is not None:
                self._resumed.forget(entry.content_id)

    def _start_pack(self) -> None:
        self._pack = PendingObject()
        self._container = ContainerWriter(
            ObjectKind.PACK,
            session_id=self._keys.session_id,
            key_commitment=self._keys.commitment,
            table_sealer=self._table_sealer,
            target_size=self._context.pack_size,
        )


def _built(container: ContainerWriter, salt: bytes, compressor: Compressor) -> tuple[bytes, str]:
    """The pack's bytes and SHA-256."""
    data = container.finish(salt=salt, compressor=compressor)
    return data, sha256_hex(data)
