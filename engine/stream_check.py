"""Opening every chunk of a stream or file tree without keeping anything: which bytes could not be restored, and why."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeAlias

from engine.fetching import RestoreKeys
from engine.manifest import ManifestInfo
from engine.relocations import Relocations
from engine.restore import RestoreProgress
from engine.store.base import ObjectSource
from engine.stream_fetch import ChunkOpener, Want, fetch_in_order
from engine.stream_reader import PageReader
from engine.stream_survey import ChunkPlace, chunk_places
from engine.waiting import Cancel, check_cancel, never_cancel

CheckReport: TypeAlias = Callable[[RestoreProgress], None]
_TELL_EVERY_BYTES = 8 * 1024 * 1024


def unreadable_places(
    *,
    manifest: ManifestInfo,
    object_source: ObjectSource,
    keys: RestoreKeys,
    relocations: Sequence[Relocations] = (),
    gone_packs: Collection[bytes] = (),
    progress: CheckReport | None = None,
    cancel: Cancel = never_cancel,
) -> Iterator[ChunkPlace]:
    """In order, each chunk and each page that a restore could not use. Memory does not grow with the backup.

    KeyMismatchError before anything is read, unless each data key that the manifest needs is there and the right one.
    Raises StoreError (transient) when the store is unreachable, CanceledError.
    """
    opener = ChunkOpener(
        body=manifest.body,
        object_source=object_source,
        keys=keys,
        relocations=relocations,
        gone_packs=gone_packs,
    )
    reader = PageReader(manifest=manifest, object_source=object_source, map_key=keys.domain.map_key)
    wants = (Want(place, place.entry) for place in chunk_places(reader, report_lost=True))
    size_bytes, done_bytes, told_bytes = manifest.body.size_bytes, 0, 0
    for got in fetch_in_order(wants, opener=opener, cancel=cancel):
        check_cancel(cancel)
        done_bytes += got.tag.found.lost_bytes
        if progress is not None and done_bytes - told_bytes >= min(_TELL_EVERY_BYTES, size_bytes // 8):
            told_bytes = done_bytes
            progress(RestoreProgress(size_bytes, done_bytes, done_bytes))
        if got.data is None:
            yield got.tag
