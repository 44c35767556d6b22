"""What a healing backup stored again, told to the backups that need it too: relocation objects beside its manifest."""

from __future__ import annotations

from engine.backup import WriteContext, WriteResult
from engine.compression import Compressor
from engine.hashing import sha256_hex
from engine.index import MapEntry
from engine.manifest import ObjectEntry
from engine.relocations import RelocationWriter
from engine.store.base import ObjectKind, ObjectRef, ObjectSink, object_key

# Some 40 MiB of memory, and the blocks of a hundred packs. What is left over is healed for this disk all the same, by
# the new manifest; only earlier backups have to wait for what a later one heals.
_MOST_MOVES = 50_000


class HealedBlocks:
    """Collects, while the backup is written, which block of a damaged pack lies where now. Not thread-safe."""

    def __init__(self) -> None:
        self._moves: list[tuple[MapEntry, MapEntry]] = []

    def add(self, old: MapEntry, new: MapEntry) -> None:
        if len(self._moves) < _MOST_MOVES:
            self._moves.append((old, new))

    def store(self, result: WriteResult, *, context: WriteContext, sink: ObjectSink) -> list[ObjectRef]:
        """Store what was collected, after the manifest; an old block that came back is one more place to find it."""
        packs = {
            bytes.fromhex(ref.sha256): ObjectEntry(bytes.fromhex(ref.sha256), ref.size_bytes, ref.version_id, 0)
            for ref in (*result.new_objects, *result.resumed_objects)
        }
        stored: list[ObjectRef] = []
        writer = _writer(context)
        for old, new in self._moves:
            if new.object_name not in packs:
                continue
            if writer.is_full:
                stored.append(_put(writer, packs, result, context, sink))
                writer = _writer(context)
            writer.add(old, new)
        if not writer.is_empty:
            stored.append(_put(writer, packs, result, context, sink))
        return stored


def _writer(context: WriteContext) -> RelocationWriter:
    return RelocationWriter(
        tenant=context.tenant,
        domain=context.domain,
        map_key=context.domain_keys.map_key,
        random_bytes=context.random_bytes,
        compressor=Compressor(context.compression_level),
    )


def _put(
    writer: RelocationWriter,
    packs: dict[bytes, ObjectEntry],
    result: WriteResult,
    context: WriteContext,
    sink: ObjectSink,
) -> ObjectRef:
    data = writer.finish(packs, result.sessions)
    sha256 = sha256_hex(data)
    key = object_key(tenant=context.tenant, domain=context.domain, kind=ObjectKind.RELOCATION, sha256=sha256)
    return sink.put(key=key, data=data, sha256=sha256)
