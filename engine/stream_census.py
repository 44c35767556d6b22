"""Counting who uses which object, so that a manifest lists exactly what a restore reads.

Starts with the counts of the base; the writer takes away what it passes in the base and adds what it keeps or
writes, so nothing below an untouched page of chunks needs to be read.
"""

from __future__ import annotations

from collections import Counter

from engine.blockmap import Census
from engine.index import MapEntry, ObjectName, resolve
from engine.manifest import ManifestBody


class UseCounts(Census):
    """Use counts of packs, segments and sessions for chunk streams and file trees."""

    def __init__(self, base: ManifestBody | None) -> None:
        super().__init__(None, recount=True)
        self._pack_uses: Counter[ObjectName] = Counter()
        self._segment_uses: Counter[ObjectName] = Counter()
        self._session_uses: Counter[bytes] = Counter()
        if base is not None:
            self._pack_uses.update({entry.sha256: entry.use_count for entry in base.packs})
            self._segment_uses.update({entry.sha256: entry.use_count for entry in base.segments})
            self._session_uses.update({entry.session_id: entry.use_count for entry in base.sessions})

    def add_chunk(self, entry: MapEntry) -> None:
        self._pack_uses[entry.object_name] += 1
        self._session_uses[entry.session_id] += 1

    def drop_chunk(self, entry: MapEntry) -> None:
        self._pack_uses[entry.object_name] -= 1
        self._session_uses[entry.session_id] -= 1

    def add_page(self, ref: MapEntry) -> None:
        self._segment_uses[ref.object_name] += 1

    def drop_page(self, ref: MapEntry) -> None:
        self._segment_uses[ref.object_name] -= 1

    def packs(self) -> dict[bytes, int]:
        return _resolved(self._pack_uses)

    def segments(self) -> dict[bytes, int]:
        return _resolved(self._segment_uses)

    def sessions(self) -> dict[bytes, int]:
        return {name: count for name, count in self._session_uses.items() if count > 0}


def _resolved(counts: Counter[ObjectName]) -> dict[bytes, int]:
    merged: Counter[bytes] = Counter()
    for name, count in counts.items():
        if count:
            merged[resolve(name)] += count
    return {name: count for name, count in merged.items() if count > 0}
