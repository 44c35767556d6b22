"""Restoring a byte stream, whole or a range of it, in ascending order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from engine.errors import DamagedError, EngineError, FormatError
from engine.fetching import RestoreKeys
from engine.manifest import CONTENT_STREAM, ManifestInfo
from engine.relocations import Relocations
from engine.restore import RestoreProgress
from engine.store.base import ObjectRef, ObjectSource
from engine.stream_fetch import ChunkOpener, Got, Want, fetch_in_order, open_for_restore
from engine.stream_reader import LostPage, PageReader, chunk_walk
from engine.waiting import Cancel, check_cancel, never_cancel

_ZEROS = bytes(1024 * 1024)


class StreamOutput(Protocol):
    def write(self, data: bytes | memoryview, /) -> int | None:
        """How many bytes were taken; None means all, 0 that it cannot take any just now."""
        ...


@dataclass(frozen=True, slots=True)
class StreamRestoreResult:
    manifest: ManifestInfo
    start: int
    written_bytes: int


class OutputError(EngineError):
    """The receiving side failed; `target_closed` when it went away."""

    default_code = "target_error"


# Where a wanted chunk or a lost page begins and ends in the stream.
_Place: TypeAlias = tuple[int, int]


def restore_stream(
    *,
    manifest_ref: ObjectRef,
    object_source: ObjectSource,
    keys: RestoreKeys,
    trusted_writers: Collection[bytes],
    output: StreamOutput,
    start: int = 0,
    length: int | None = None,
    fill_damaged: bool = False,
    relocations: Sequence[Relocations] = (),
    gone_packs: Collection[bytes] = (),
    progress: Callable[[RestoreProgress], None] | None = None,
    cancel: Cancel = never_cancel,
) -> StreamRestoreResult:
    """Write the bytes from `start` (`length` None: to the end). Nothing is written before the keys are checked.

    A stream cannot leave gaps: at the first damaged range DamagedError is raised and nothing behind it is written,
    unless `fill_damaged`: then zeros take its place and DamagedError lists all ranges at the end.
    """
    manifest = open_for_restore(
        manifest_ref=manifest_ref,
        object_source=object_source,
        keys=keys,
        trusted_writers=trusted_writers,
        content=CONTENT_STREAM,
    )
    size_bytes = manifest.body.size_bytes
    end = size_bytes if length is None else start + length
    if not 0 <= start <= end <= size_bytes:
        raise FormatError("the range lies outside of the stream", code="bad_range")
    opener = ChunkOpener(
        body=manifest.body,
        object_source=object_source,
        keys=keys,
        relocations=relocations,
        gone_packs=gone_packs,
    )
    reader = PageReader(manifest=manifest, object_source=object_source, map_key=keys.domain.map_key)
    out = _Output(output, start=start, end=end, fill_damaged=fill_damaged, cancel=cancel)
    try:
        for got in fetch_in_order(_wants(reader, manifest, start, end), opener=opener, cancel=cancel):
            check_cancel(cancel)
            out.take(got)
            if progress is not None:
                progress(RestoreProgress(end - start, out.reached - start, out.written_bytes))
        out.zeros_to(end)
    except BrokenPipeError as error:
        raise OutputError("the receiver has closed the stream", code="target_closed") from error
    except OSError as error:
        raise OutputError("the receiver failed") from error
    if out.damaged:
        raise DamagedError(out.damaged)
    return StreamRestoreResult(manifest, start, out.written_bytes)


def _wants(reader: PageReader, manifest: ManifestInfo, start: int, end: int) -> Iterator[Want[_Place]]:
    if start == end:
        return
    for offset, row in chunk_walk(reader, report_lost=True).from_offset(manifest.root, start):
        if offset >= end:
            return
        if isinstance(row, LostPage):
            # The size below the root page is known from the manifest only.
            lost_bytes = row.total_bytes or manifest.body.size_bytes
            yield Want((offset, offset + lost_bytes), None)
        elif offset + row.total_bytes > start:
            yield Want((offset + row.hole, offset + row.total_bytes), row.entry)


class _Output:
    """Keeps the place in the stream, and what of it is damaged."""

    def __init__(self, output: StreamOutput, *, start: int, end: int, fill_damaged: bool, cancel: Cancel) -> None:
        self._output = output
        self._cancel = cancel
        self._end = end
        self._fill_damaged = fill_damaged
        self.reached = start
        self.written_bytes = 0
        self.damaged: list[tuple[int, int]] = []

    def take(self, got: Got[_Place]) -> None:
        first, last = got.tag
        self.zeros_to(min(first, self._end))
        first, last = max(first, self.reached), min(last, self._end)
        if first >= last:
            return
        if got.data is None:
            self._damage(first, last)
            return
        skip = first - got.tag[0]
        self._write(got.data[skip : skip + last - first] if (skip or last < got.tag[1]) else got.data)

    def zeros_to(self, offset: int) -> None:
        while self.reached < offset:
            self._write(_ZEROS[: min(len(_ZEROS), offset - self.reached)])

    def _damage(self, first: int, last: int) -> None:
        if self.damaged and sum(self.damaged[-1]) == first:
            self.damaged[-1] = (self.damaged[-1][0], last - self.damaged[-1][0])
        else:
            self.damaged.append((first, last - first))
        if not self._fill_damaged:
            raise DamagedError(self.damaged)
        self.zeros_to(last)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            taken = self._output.write(rest)
            if taken == 0:
                check_cancel(self._cancel)
            rest = rest[len(rest) if taken is None else taken :]
        self.reached += len(data)
        self.written_bytes += len(data)
