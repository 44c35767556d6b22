"""Putting the manifest of a new backup together from what the session stored and what it kept of the base."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine.backup import WriteContext, WriteStats
from engine.blockmap import Census
from engine.codec import FORMAT_VERSION
from engine.crypto import SessionKeys
from engine.envelope import seal_envelope
from engine.hashing import sha256_hex
from engine.manifest import CONTENT_DISK, ManifestBody, ObjectEntry, SessionEntry
from engine.store.base import ObjectKind, ObjectRef
from engine.upload import Uploader


class ManifestAssembler:
    """Stores the key envelope if one is needed, and lists exactly the objects a restore reads."""

    def __init__(
        self,
        *,
        context: WriteContext,
        keys: SessionKeys,
        base: ManifestBody | None,
        census: Census,
        uploader: Uploader,
    ) -> None:
        self._context = context
        self._keys = keys
        self._base = base
        self._census = census
        self._uploader = uploader

    def body(self, *, previous_sha256: bytes | None, size_bytes: int, stats: WriteStats) -> ManifestBody:
        """Call once, after all packs and segments are stored."""
        sessions = self._session_entries()
        known_packs = self._base.packs if self._base is not None else []
        known_segments = self._base.segments if self._base is not None else []
        context = self._context
        return ManifestBody(
            format_version=FORMAT_VERSION,
            required_features=list(context.required_features),
            content=CONTENT_DISK,
            tenant=context.tenant,
            domain=context.domain,
            source_id=context.source_id,
            sequence=context.sequence,
            previous_sha256=previous_sha256,
            created_at=context.created_at.isoformat(),
            size_bytes=size_bytes,
            block_size=context.block_size,
            fan_out=context.fan_out,
            counters={
                "scanned_bytes": stats.scanned_bytes,
                "read_bytes": stats.read_bytes,
                "changed_bytes": stats.changed_bytes,
                "new_blocks": stats.new_blocks,
                "reused_blocks": stats.reused_blocks,
                "zero_blocks": stats.zero_blocks,
            },
            sessions=sessions,
            packs=self._object_entries(known_packs, self._census.packs()),
            segments=self._object_entries(known_segments, self._census.segments()),
        )

    def _session_entries(self) -> list[SessionEntry]:
        """The sessions the new backup needs; stores an envelope for this one if it is among them.

        At least one is always listed, because an envelope also carries the domain keys: without it the
        vault and the tenant's key alone could not open the map.
        """
        used = self._census.sessions()
        known = self._base.sessions if self._base is not None else []
        entries = [
            SessionEntry(entry.session_id, entry.commitment, entry.envelope, used[entry.session_id])
            for entry in known
            if entry.session_id in used
        ]
        if not entries and self._keys.session_id not in used and known:
            entries.append(msgspec.structs.replace(known[-1], use_count=0))
        if self._keys.session_id in used or not entries:
            envelope = _entry_of(self._store_envelope(), 1)
            count = used.get(self._keys.session_id, 0)
            entries.append(SessionEntry(self._keys.session_id, self._keys.commitment, envelope, count))
        return entries

    def _store_envelope(self) -> ObjectRef:
        data = seal_envelope(
            session=self._keys,
            domain_keys=self._context.domain_keys,
            tenant=self._context.tenant,
            domain=self._context.domain,
            tenant_public_key=self._context.tenant_public_key,
        )
        sha256 = sha256_hex(data)
        self._uploader.submit(ObjectKind.KEY, data, sha256=sha256)
        self._uploader.drain()
        return self._uploader.stored[bytes.fromhex(sha256)]

    def _object_entries(self, known: Iterable[ObjectEntry], used: dict[bytes, int]) -> list[ObjectEntry]:
        """Objects still in use: those of the base in its order, then the new ones in the order stored."""
        entries = [
            ObjectEntry(entry.sha256, entry.size_bytes, entry.version_id, used[entry.sha256])
            for entry in known
            if entry.sha256 in used
        ]
        listed = {entry.sha256 for entry in entries}
        for sha256, ref in self._uploader.stored.items():
            if sha256 in used and sha256 not in listed:
                entries.append(_entry_of(ref, used[sha256]))
        return entries


def _entry_of(ref: ObjectRef, use_count: int) -> ObjectEntry:
    return ObjectEntry(bytes.fromhex(ref.sha256), ref.size_bytes, ref.version_id, use_count)
