"""Fetching chunks in the order in which they are wanted, several ranged reads at a time, in bounded memory.

Chunks that were written one after the other lie one after the other, so neighbours come with one read. What happens
with a chunk that cannot be read or verified is told in engine.fetching.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from engine.errors import UnsupportedError
from engine.fetching import BlockPlace, Fetcher, Locator, RestoreKeys, plan_fetches, session_sealers
from engine.index import MapEntry
from engine.manifest import ManifestBody, ManifestInfo
from engine.relocations import Relocations
from engine.repository import open_manifest
from engine.store.base import ObjectRef, ObjectSource
from engine.waiting import Cancel, result_of

_FETCHES_IN_FLIGHT = 3
_BATCH_BYTES = 4 * 1024 * 1024
_BATCH_ITEMS = 2048

_Tag = TypeVar("_Tag")


@dataclass(frozen=True, slots=True)
class Want(Generic[_Tag]):
    """One chunk, or (None) something that only keeps its place in the order."""

    tag: _Tag
    entry: MapEntry | None


@dataclass(frozen=True, slots=True)
class Got(Generic[_Tag]):
    """`data` is None for damage, and for what wanted no chunk."""

    tag: _Tag
    entry: MapEntry | None
    data: bytes | None


def open_for_restore(
    *,
    manifest_ref: ObjectRef,
    object_source: ObjectSource,
    keys: RestoreKeys,
    trusted_writers: Collection[bytes],
    content: str,
) -> ManifestInfo:
    """The verified manifest of a backup with this kind of content; every check that needs no data."""
    manifest = open_manifest(
        manifest_ref=manifest_ref,
        object_source=object_source,
        trusted_writers=trusted_writers,
        map_key=keys.domain.map_key,
    )
    if manifest.body.content != content:
        raise UnsupportedError(f"the backup holds a {manifest.body.content}, not a {content}", code="other_content")
    return manifest


class ChunkOpener:
    """Reads and opens chunks, also from where relocations say that they were moved. Thread-safe."""

    def __init__(
        self,
        *,
        body: ManifestBody,
        object_source: ObjectSource,
        keys: RestoreKeys,
        relocations: Sequence[Relocations] = (),
        gone_packs: Collection[bytes] = (),
    ) -> None:
        """KeyMismatchError unless each data key that the manifest needs is there and is the right one."""
        sealers = session_sealers(body, keys, relocations)
        self._locator = Locator(body=body, sealers=sealers, relocations=relocations, gone_packs=gone_packs)
        self._fetcher = Fetcher(object_source=object_source, sealers=sealers, locator=self._locator)

    def open(self, entries: Sequence[MapEntry]) -> dict[MapEntry, bytes]:
        """The plaintext of each entry that is whole; the others are missing. Transient trouble passes through."""
        wanted = list(dict.fromkeys(entries))
        opened: dict[MapEntry, bytes] = {}
        for fetch in plan_fetches(self._places(wanted)):
            opened.update((wanted[number], plain) for number, plain in self._fetcher.run(fetch).blocks)
        return opened

    def _places(self, entries: Sequence[MapEntry]) -> Iterator[BlockPlace]:
        """Here a block's place is its number among the entries."""
        for number, entry in enumerate(entries):
            location = next(self._locator.locations(entry), None)
            if location is not None:
                yield BlockPlace(number, entry, location)


def fetch_in_order(wants: Iterable[Want[_Tag]], *, opener: ChunkOpener, cancel: Cancel) -> Iterator[Got[_Tag]]:
    """What was wanted, in that order. Runs ahead of its consumer by a few batches of 4 MiB."""
    executor = ThreadPoolExecutor(_FETCHES_IN_FLIGHT, thread_name_prefix="fetch")
    running: deque[tuple[list[Want[_Tag]], Future[dict[MapEntry, bytes]]]] = deque()
    try:
        for batch in _batches(wants):
            entries = [want.entry for want in batch if want.entry is not None]
            running.append((batch, executor.submit(opener.open, entries)))
            if len(running) > _FETCHES_IN_FLIGHT:
                yield from _take(running, cancel)
        while running:
            yield from _take(running, cancel)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _take(
    running: deque[tuple[list[Want[_Tag]], Future[dict[MapEntry, bytes]]]], cancel: Cancel
) -> Iterator[Got[_Tag]]:
    batch, future = running.popleft()
    opened = result_of(future, cancel)
    for want in batch:
        yield Got(want.tag, want.entry, opened.get(want.entry) if want.entry is not None else None)


def _batches(wants: Iterable[Want[_Tag]]) -> Iterator[list[Want[_Tag]]]:
    batch: list[Want[_Tag]] = []
    size = 0
    for want in wants:
        length = want.entry.plain_length if want.entry is not None else 0
        if batch and (size + length > _BATCH_BYTES or len(batch) >= _BATCH_ITEMS):
            yield batch
            batch, size = [], 0
        batch.append(want)
        size += length
    if batch:
        yield batch
