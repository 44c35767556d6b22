"""Putting the manifest of a new backup together from what the session stored and what it kept of the base."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import TypeVar

import msgspec

from engine.backup import WriteContext, WriteStats
from engine.blockmap import Census
from engine.codec import FORMAT_VERSION
from engine.crypto import SessionKeys
from engine.enveloping import ensure_envelope
from engine.manifest import CONTENT_DISK, ManifestBody, ObjectEntry, SessionEntry
from engine.resume import entry_of
from engine.upload import Uploader

_Entry = TypeVar("_Entry")


class ManifestAssembler:
    """Stores the key envelope if one is needed, and lists exactly the objects a restore reads.

    `resumed_packs` and `resumed_sessions` are those of earlier attempts that the new map may refer to.
    """

    def __init__(
        self,
        *,
        context: WriteContext,
        keys: SessionKeys,
        base: ManifestBody | None,
        census: Census,
        uploader: Uploader,
        resumed_packs: Mapping[bytes, ObjectEntry] | None = None,
        resumed_sessions: Mapping[bytes, SessionEntry] | None = None,
    ) -> None:
        self._context = context
        self._keys = keys
        self._base = base
        self._census = census
        self._uploader = uploader
        self._resumed_packs = resumed_packs or {}
        self._resumed_sessions = resumed_sessions or {}

    def body(self, *, previous_sha256: bytes | None, size_bytes: int, stats: WriteStats) -> ManifestBody:
        """Call once, after all packs and segments are stored."""
        sessions = self._session_entries()
        base_packs = self._base.packs if self._base is not None else []
        known_packs = [*base_packs, *_others(self._resumed_packs, {entry.sha256 for entry in base_packs})]
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
        known = list(self._base.sessions) if self._base is not None else []
        known += _others(self._resumed_sessions, {entry.session_id for entry in known})
        entries = [
            SessionEntry(entry.session_id, entry.commitment, entry.envelope, used[entry.session_id])
            for entry in known
            if entry.session_id in used
        ]
        if not entries and self._keys.session_id not in used and known:
            entries.append(msgspec.structs.replace(known[-1], use_count=0))
        if self._keys.session_id in used or not entries:
            ref = ensure_envelope(context=self._context, keys=self._keys, uploader=self._uploader)
            count = used.get(self._keys.session_id, 0)
            envelope = entry_of(ref, use_count=1)
            entries.append(SessionEntry(self._keys.session_id, self._keys.commitment, envelope, count))
        return entries

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
                entries.append(entry_of(ref, use_count=used[sha256]))
        return entries


def _others(entries: Mapping[bytes, _Entry], known: Container[bytes]) -> list[_Entry]:
    return [entry for name, entry in entries.items() if name not in known]
