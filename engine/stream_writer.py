"""Writing a byte stream as a backup: full, or incremental against an earlier one of the same source.

The stream may be of any length and is read once, in order. From a regular file the holes are not read. An insertion
or a cut anywhere costs the chunks around it and one page per level; everything else is found again in the base.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from engine.backup import BackupBase, ProgressReport, WriteContext, WriteResult
from engine.chunking import Chunker, ChunkSizes, Piece, data_extents
from engine.errors import SourceError
from engine.manifest import CONTENT_STREAM
from engine.resume import ResumableSession
from engine.store.base import ObjectSink, ObjectSource
from engine.stream_pages import Branch, ChunkRow, PageKind
from engine.stream_pipe import NOTHING_KNOWN, ChunkSlot, KnownChunks
from engine.stream_reader import chunk_walk
from engine.stream_session import ChunkSession, new_uploader, reading_base, resumed_chunks
from engine.stream_window import ChunkWindow
from engine.waiting import Background, Cancel, check_cancel, never_cancel

_READ_BYTES_MAX = 1024 * 1024
_GROUP_BYTES = 4 * 1024 * 1024
_GROUP_PIECES = 1024
DEFAULT_CHUNK_SIZES = ChunkSizes()


def write_stream_backup(
    *,
    source: BinaryIO,
    sink: ObjectSink,
    base: BackupBase | None,
    context: WriteContext,
    sizes: ChunkSizes = DEFAULT_CHUNK_SIZES,
    check_complete: Callable[[], None] | None = None,
    progress: ProgressReport | None = None,
    cancel: Cancel = never_cancel,
    resume: Sequence[ResumableSession] = (),
    resume_source: ObjectSource | None = None,
) -> WriteResult:
    """Write all that `source` gives until its end; the manifest is the last object.

    `check_complete` is called after the last read and before the manifest, and raises when what was read is not
    whole (a dump program that failed). SourceError when reading fails; BaseMismatchError when the base cannot be
    used or read: write a full backup (base=None) then. A chunk size other than the base's only costs space.
    `resume` names what earlier attempts at this source stored, oldest first; it is read through `resume_source`. The
    stream is read from its beginning again; what of it is stored already is not sent again.
    """
    uploader = new_uploader(sink=sink, context=context, cancel=cancel)
    with (
        uploader,
        Background(name="read", cancel=cancel) as background,
        resumed_chunks(resume, resume_source, context=context, cancel=cancel) as resumed,
        ChunkSession(
            context=context,
            content=CONTENT_STREAM,
            base=base,
            uploader=uploader,
            resumed=resumed,
            progress=progress,
            cancel=cancel,
        ) as session,
    ):
        chunker = Chunker(id_key=context.domain_keys.id_key, sizes=sizes)
        write = _StreamWrite(session, cancel)
        root = write.run(_source_pieces(source, chunker, background))
        if check_complete is not None:
            check_complete()
        return session.commit(root=root, size_bytes=write.size_bytes, counters={})


def file_pieces(descriptor: int, chunker: Chunker, *, size_bytes: int) -> Iterator[Piece]:
    """An open regular file up to `size_bytes`; ends early when the file does. OSError passes through.

    Each allocated stretch is cut on its own, so that what follows a hole does not depend on what came before.
    """
    reached = hole = 0
    for offset, length in data_extents(descriptor, size_bytes=size_bytes):
        hole += offset - reached
        extent = _Extent(descriptor, offset, length)
        for piece in chunker.pieces(chunker.cut(extent.read)):
            hole += piece.hole
            if piece.data:
                yield Piece(hole, piece.data)
                hole = 0
        reached = extent.offset
        if extent.left:
            break
    else:
        # A hole at the end, or a file cut off meanwhile: the caller looks at the size again.
        hole += size_bytes - reached
    if hole:
        yield Piece(hole, b"")


class _Extent:
    def __init__(self, descriptor: int, offset: int, length: int) -> None:
        self._descriptor = descriptor
        self.offset = offset
        self.left = length

    def read(self, length: int) -> bytes:
        data = os.pread(self._descriptor, min(length, self.left), self.offset)
        self.offset += len(data)
        self.left -= len(data)
        return data


def _source_pieces(source: BinaryIO, chunker: Chunker, background: Background) -> Iterator[Piece]:
    """Reads run in the background, because a pipe may hang for ever."""
    descriptor = _regular_file(source)
    size_bytes = 0
    if descriptor is not None:
        size_bytes = os.fstat(descriptor).st_size
        pieces = file_pieces(descriptor, chunker, size_bytes=size_bytes)
    else:
        pieces = chunker.pieces(chunker.cut(lambda length: _read(source, length)))
    while group := background.call(lambda: _next_pieces(pieces)):
        yield from group
    if descriptor is not None and os.fstat(descriptor).st_size < size_bytes:
        raise SourceError("the file was cut off while it was read", code="source_changed")


def _next_pieces(pieces: Iterator[Piece]) -> list[Piece]:
    """Some at a time: handing each over to another thread would cost more than small ones are worth."""
    group: list[Piece] = []
    size = 0
    try:
        for piece in pieces:
            group.append(piece)
            size += len(piece.data)
            if size >= _GROUP_BYTES or len(group) >= _GROUP_PIECES:
                break
    except OSError as error:
        raise SourceError("the stream cannot be read", code="read_failed") from error
    return group


def _read(source: BinaryIO, length: int) -> bytes:
    data = source.read(min(length, _READ_BYTES_MAX))
    if data is None:
        raise SourceError("the stream is not blocking", code="read_failed")
    return data


def _regular_file(source: BinaryIO) -> int | None:
    """Its descriptor, when the source is a regular file that was not read from yet."""
    try:
        descriptor = source.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and source.tell() == 0:
            return descriptor
    except (OSError, AttributeError):
        pass
    return None


class _StreamWrite:
    def __init__(self, session: ChunkSession, cancel: Cancel) -> None:
        self._session = session
        self._cancel = cancel
        self._builder = session.builder(PageKind.CHUNKS)
        self._slots: deque[ChunkSlot] = deque()
        self._window = self._open_window()
        self.size_bytes = 0

    def run(self, pieces: Iterator[Piece]) -> Branch | None:
        session, stats = self._session, self._session.stats
        known: KnownChunks = self._window if self._window is not None else NOTHING_KNOWN
        for piece in pieces:
            check_cancel(self._cancel)
            self.size_bytes += piece.hole + len(piece.data)
            stats.scanned_bytes = self.size_bytes
            if not piece.data:
                continue
            stats.read_bytes += len(piece.data)
            self._slots.append(session.pipe.put(piece.data, hole=piece.hole, known=known))
            self._take_filled()
        session.pipe.flush()
        self._take_filled()
        session.packs.close_pack()
        self._builder.settle_ready()
        root = self._builder.finish()
        self._drain()
        return root

    def _take_filled(self) -> None:
        """Put the chunks at the front that have their place into the map."""
        taken = False
        while self._slots and self._slots[0].entry is not None:
            slot = self._slots.popleft()
            if slot.entry is None:
                break
            taken = True
            self._session.census.add_chunk(slot.entry)
            self._builder.add(ChunkRow(slot.hole, slot.entry))
            if self._window is not None:
                self._follow(self._window, slot.entry.content_id)
        if self._builder.is_crowded:
            self._session.packs.close_pack()
            self._builder.settle_ready()
        if taken:
            self._session.report()

    def _open_window(self) -> ChunkWindow | None:
        session = self._session
        if session.base_reader is None:
            return None
        with reading_base():
            rows = chunk_walk(session.base_reader).from_offset(session.base_root)
            return ChunkWindow(rows, census=session.census)

    def _follow(self, window: ChunkWindow, content_id: bytes) -> None:
        with reading_base():
            window.note(content_id)

    def _drain(self) -> None:
        if self._window is not None:
            with reading_base():
                self._window.drain()
