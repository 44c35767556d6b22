"""Which stored objects stand behind what a check could not open."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence

from backups.content import Content, relocations_of, unreadable_relocations
from common.errors import ConflictError
from engine.errors import FormatError, IntegrityError, StoreError
from engine.index import MapEntry, resolve
from engine.ranges import ByteRange, merge_ranges
from engine.relocations import Relocations, moved_places
from engine.repository import LeafSpan, MapReader, walk_leaves
from engine.store.base import ObjectKind
from vaults.custody import session_data_keys
from vaults.damage import PRESENT
from vaults.models import Domain, Envelope, StoredObject
from vaults.storage import Credential

_NAMES_PER_STATEMENT = 500


def objects_under(content: Content, ranges: Collection[ByteRange]) -> list[StoredObject]:
    """The packs that hold blocks of these ranges, there or where they were moved to, the segments of pages above them
    that do not open, and relocation objects that cannot be read."""
    wanted = list(merge_ranges(sorted(ranges)))
    reader, relocations = content.map_reader(), relocations_of(content)
    packs: set[str] = set()
    segments: set[str] = set()
    for span in walk_leaves(content.map_reader()):
        if span.entries is None:
            segments.update(name.hex() for name in _pages_that_fail(reader, span.offset))
        else:
            packs.update(name.hex() for name in _packs_under(content, span, wanted, relocations))
    return [*objects_named(content, packs=packs, segments=segments), *unreadable_relocations(content)]


def packs_of(entry: MapEntry, relocations: Sequence[Relocations]) -> Iterator[bytes]:
    """SHA-256 of every pack in which the record is said to be."""
    yield resolve(entry.object_name)
    yield from (place.pack for place in moved_places(relocations, entry))


def objects_named(content: Content, *, packs: Collection[str], segments: Collection[str]) -> list[StoredObject]:
    """The packs and segments of these SHA-256 (hexadecimal) in the backup's domain, as far as the vault has them."""
    return [*_rows(content, ObjectKind.PACK, packs), *_rows(content, ObjectKind.INDEX, segments)]


def _rows(content: Content, kind: ObjectKind, names: Collection[str]) -> Iterator[StoredObject]:
    ordered = sorted(names)
    rows = StoredObject.objects.filter(domain_id=content.manifest.domain_id, kind=kind, status__in=PRESENT)
    for start in range(0, len(ordered), _NAMES_PER_STATEMENT):
        yield from rows.filter(sha256__in=ordered[start : start + _NAMES_PER_STATEMENT])


def _packs_under(
    content: Content, span: LeafSpan, wanted: Sequence[ByteRange], relocations: Sequence[Relocations]
) -> Iterator[bytes]:
    block_size = content.body.block_size
    for slot, entry in (span.entries or {}).items():
        if _overlaps(wanted, span.offset + slot * block_size, block_size):
            yield from packs_of(entry, relocations)


def _overlaps(ranges: Sequence[ByteRange], offset: int, length: int) -> bool:
    """`ranges` ascend and are disjoint."""
    place = bisect_left(ranges, (offset + length, 0))
    return place > 0 and sum(ranges[place - 1]) > offset


def _pages_that_fail(reader: MapReader, offset: int) -> Iterator[bytes]:
    """From the root down to the first page above the offset that cannot be used: the segment in which it lies."""
    leaf = offset // (reader.body.fan_out * reader.body.block_size)
    for level in range(reader.height, -1, -1):
        index = leaf // reader.body.fan_out**level
        ref = reader.page_ref(level, index)
        if ref is None:
            return
        try:
            reader.interior(level, index) if level else reader.leaf(index)
        except (IntegrityError, FormatError, StoreError):
            yield resolve(ref.object_name)
            return


def envelopes_that_do_not_open(domain: Domain, sessions: Collection[str]) -> list[StoredObject]:
    """Of the sessions (hexadecimal) whose data key cannot be had: their envelopes in the vault."""
    closed = [session for session in sorted(sessions) if not _opens(domain, session)]
    found = Envelope.objects.filter(
        stored_object__domain=domain, stored_object__status__in=PRESENT, writer_session__in=closed
    )
    return [envelope.stored_object for envelope in found.select_related("stored_object")]


def _opens(domain: Domain, session: str) -> bool:
    try:
        session_data_keys(domain, [session], credential=Credential.KEEPER)
    except ConflictError:
        return False
    return True
