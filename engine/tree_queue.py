"""Entries on their way into the pages: they wait, in order, until it is known where their chunks lie."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from engine.chunking import Piece
from engine.stream_builder import PageTreeBuilder
from engine.stream_pages import Branch, ChunkRow, PageKind
from engine.stream_pipe import ChunkSlot, KnownChunks
from engine.stream_session import ChunkSession, reading_base
from engine.stream_window import ChunkWindow
from engine.tree_entries import INLINE_CHUNKS_MAX, TreeEntry

# Entries, that is some megabytes.
_WAITING_MAX = 4096


@dataclass(slots=True)
class OpenEntry:
    entry: TreeEntry
    known: KnownChunks | ChunkWindow
    slots: deque[ChunkSlot] = field(default_factory=deque)
    rows: list[ChunkRow] = field(default_factory=list)
    builder: PageTreeBuilder | None = None
    is_closed: bool = False


class EntryQueue:
    def __init__(self, session: ChunkSession) -> None:
        self._session = session
        self._builder = session.builder(PageKind.FILES)
        self._waiting: deque[OpenEntry | TreeEntry] = deque()

    def put(self, entry: TreeEntry) -> None:
        """An entry that is complete: without content, or kept with the base's."""
        self._waiting.append(entry)
        if len(self._waiting) > _WAITING_MAX:
            # A chunk before them waits for its batch to fill up.
            self._session.pipe.flush()
            self.settle()

    def open(self, entry: TreeEntry, *, known: KnownChunks | ChunkWindow) -> OpenEntry:
        """An entry whose content follows by `add`, until `close`."""
        opened = OpenEntry(entry, known)
        self._waiting.append(opened)
        return opened

    def add(self, opened: OpenEntry, piece: Piece) -> None:
        opened.slots.append(self._session.pipe.put(piece.data, hole=piece.hole, known=opened.known))
        self.settle()

    def close(self, opened: OpenEntry, *, size: int, marks: int) -> None:
        opened.entry = opened.entry.with_content(chunks=(), chunk_map=None, size=size, marks=marks)
        opened.is_closed = True

    def settle(self) -> None:
        """Move what is complete at the front into the pages."""
        while self._waiting:
            front = self._waiting[0]
            if isinstance(front, OpenEntry):
                self._take_filled(front)
                if front.slots or not front.is_closed:
                    return
                front = self._finished(front)
            self._waiting.popleft()
            self._builder.add(front, size=front.weight)
            self._relieve(self._builder)
            self._session.report()

    def finish(self) -> Branch | None:
        """Call once, when all slots are filled and all packs are closed."""
        self.settle()
        return self._builder.finish()

    def _take_filled(self, opened: OpenEntry) -> None:
        while opened.slots and (entry := opened.slots[0].entry) is not None:
            row = ChunkRow(opened.slots.popleft().hole, entry)
            self._session.census.add_chunk(entry)
            if isinstance(opened.known, ChunkWindow):
                with reading_base():
                    opened.known.note(entry.content_id)
            if opened.builder is not None:
                opened.builder.add(row)
                self._relieve(opened.builder)
                continue
            opened.rows.append(row)
            if len(opened.rows) > INLINE_CHUNKS_MAX:
                self._start_map(opened)

    def _start_map(self, opened: OpenEntry) -> None:
        opened.builder = self._session.builder(PageKind.CHUNKS)
        for row in opened.rows:
            opened.builder.add(row)
        opened.rows.clear()

    def _finished(self, opened: OpenEntry) -> TreeEntry:
        chunk_map = None
        if opened.builder is not None:
            # The entry needs the root of the map, and the map its packs. The file is large, so the pack is not tiny.
            self._session.packs.close_pack()
            opened.builder.settle_ready()
            chunk_map = opened.builder.finish()
        if isinstance(opened.known, ChunkWindow):
            with reading_base():
                opened.known.drain()
        entry = opened.entry
        return entry.with_content(chunks=opened.rows, chunk_map=chunk_map, size=entry.size, marks=entry.marks)

    def _relieve(self, builder: PageTreeBuilder) -> None:
        if builder.is_crowded:
            self._session.packs.close_pack()
            builder.settle_ready()
