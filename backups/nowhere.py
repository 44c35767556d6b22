"""A restore to nowhere: every block or chunk of a backup is read and opened, nothing is kept but what does not open."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from backups.content import Content, relocations_of, unreadable_relocations
from backups.suspects import objects_named, objects_under, packs_of
from engine.errors import DamagedError
from engine.fetching import RestoreKeys
from engine.manifest import CONTENT_DISK
from engine.relocations import Relocations
from engine.repository import walk_leaves
from engine.restore import RestoreProgress, restore_disk
from engine.stream_check import unreadable_places
from engine.stream_survey import ChunkPlace, chunk_places
from engine.waiting import Cancel
from vaults.models import StoredObject


@dataclass(frozen=True, slots=True)
class Finding:
    """What does not open, and the objects that may be to blame."""

    lost_bytes: int
    suspects: list[StoredObject]


@dataclass(slots=True)
class Nowhere:
    """A target that takes a restore and keeps nothing."""

    size_bytes: int

    def write(self, offset: int, data: bytes) -> None: ...

    def zero(self, offset: int, length: int) -> None: ...

    def flush(self) -> None: ...


def read_everything(
    content: Content,
    *,
    keys: RestoreKeys,
    gone_packs: Collection[bytes],
    tell: Callable[[RestoreProgress], None],
    cancel: Cancel,
) -> Finding | None:
    """None when all of it can be restored. KeyMismatchError, StoreError (transient) and CanceledError pass through."""
    read = _read_disk if content.body.content == CONTENT_DISK else _read_chunks
    return read(content, keys, gone_packs, tell, cancel)


def walk_map(content: Content, *, check: Callable[[], None]) -> Finding | None:
    """The pages only, which open without a data key. `check` is called for each step."""
    if content.body.content != CONTENT_DISK:
        places = chunk_places(content.page_reader(), report_lost=True)
        return _finding(content, _checked(places, check), [])
    for span in walk_leaves(content.map_reader()):
        check()
        if span.entries is None:
            return Finding(span.length, objects_under(content, [(span.offset, span.length)]))
    return None


def _checked(places: Iterable[ChunkPlace], check: Callable[[], None]) -> Iterable[ChunkPlace]:
    for place in places:
        check()
        if place.entry is None:
            yield place


def _read_disk(
    content: Content,
    keys: RestoreKeys,
    gone_packs: Collection[bytes],
    tell: Callable[[RestoreProgress], None],
    cancel: Cancel,
) -> Finding | None:
    try:
        restore_disk(
            manifest_ref=content.ref,
            object_source=content.source,
            keys=keys,
            trusted_writers=[content.info.writer_public_key],
            target=Nowhere(content.body.size_bytes),
            relocations=relocations_of(content),
            gone_packs=gone_packs,
            progress=tell,
            cancel=cancel,
        )
    except DamagedError as error:
        return Finding(sum(length for _, length in error.ranges), objects_under(content, error.ranges))
    return None


def _read_chunks(
    content: Content,
    keys: RestoreKeys,
    gone_packs: Collection[bytes],
    tell: Callable[[RestoreProgress], None],
    cancel: Cancel,
) -> Finding | None:
    relocations = relocations_of(content)
    bad = unreadable_places(
        manifest=content.info,
        object_source=content.source,
        keys=keys,
        relocations=relocations,
        gone_packs=gone_packs,
        progress=tell,
        cancel=cancel,
    )
    return _finding(content, bad, relocations)


def _finding(content: Content, bad: Iterable[ChunkPlace], relocations: Sequence[Relocations]) -> Finding | None:
    """Of a backup that is wholly lost there may be millions: only the names of their objects are kept."""
    lost_bytes = 0
    packs: set[str] = set()
    segments: set[str] = set()
    for place in bad:
        lost_bytes += place.found.lost_bytes
        if place.entry is not None:
            packs.update(name.hex() for name in packs_of(place.entry, relocations))
        elif place.lost_segment is not None:
            segments.add(place.lost_segment.hex())
    if not packs and not segments:
        return None
    named = objects_named(content, packs=packs, segments=segments)
    return Finding(lost_bytes, [*named, *unreadable_relocations(content)])
