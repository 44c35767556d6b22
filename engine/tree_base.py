"""The entries of the base, taken in the order of the walk, and what of them can be kept."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from engine.stream_pages import PageKind
from engine.stream_pipe import NOTHING_KNOWN, KnownChunks
from engine.stream_reader import LostPage, TreeWalk, chunk_walk
from engine.stream_session import ChunkSession, reading_base
from engine.stream_window import ChunkWindow
from engine.tree_entries import FileKind, Marks, TreeEntry, parse_file_rows
from engine.tree_source import Seen

# What says that an entry must be looked at again, whatever its times are.
_NOT_KEPT = Marks.CHANGED | Marks.UNREADABLE | Marks.METADATA_LOST | Marks.FRESH


class BaseEntries:
    """Everything that is passed or dropped is taken off the use counts; what is kept stays counted."""

    def __init__(self, session: ChunkSession, *, distrusted_packs: Collection[str]) -> None:
        self._session = session
        self._distrusted = frozenset(bytes.fromhex(name) for name in distrusted_packs)
        self._entries = self._open()
        self._next: TreeEntry | None = None
        self._advance()

    def take(self, key: bytes) -> TreeEntry | None:
        """The base's entry of this key; those before it are dropped. Keys must ascend."""
        while self._next is not None and self._next.key < key:
            self.drop(self._next)
            self._advance()
        if self._next is None or self._next.key != key:
            return None
        found = self._next
        self._advance()
        return found

    def finish(self) -> None:
        while self._next is not None:
            self.drop(self._next)
            self._advance()

    def is_unchanged(self, old: TreeEntry, seen: Seen, *, not_entered: bool, any_device: bool = False) -> bool:
        """Whether the base's entry holds for the name as it is now, content included.

        With `any_device` the number of the device is left out: that of a snapshot is made up each time.
        """
        found = seen.found
        if old.kind != seen.kind or old.marks & _NOT_KEPT or bool(old.marks & Marks.NOT_ENTERED) != not_entered:
            return False
        if (old.mtime_ns, old.ctime_ns, old.inode) != (found.st_mtime_ns, found.st_ctime_ns, found.st_ino):
            return False
        if not any_device and old.device != found.st_dev:
            return False
        if old.kind != FileKind.FILE:
            return True
        return old.size == found.st_size and self._is_trusted(old)

    def drop(self, old: TreeEntry | None) -> None:
        """Take the content of an entry that is not kept off the use counts."""
        if old is None:
            return
        for chunk in old.chunks:
            self._session.census.drop_chunk(chunk.entry)
        window = self._window(old)
        if window is not None:
            with reading_base():
                window.drain()

    def chunks_of(self, old: TreeEntry | None) -> KnownChunks | ChunkWindow:
        """Where to look for the chunks of a file that is read again. The entry is dropped by this."""
        if old is None:
            return NOTHING_KNOWN
        window = self._window(old)
        if window is not None:
            return window
        self.drop(old)
        return {chunk.entry.content_id: chunk.entry for chunk in old.chunks}

    def _is_trusted(self, old: TreeEntry) -> bool:
        if not self._distrusted:
            return True
        # What lies below a map is not known without reading it.
        return old.chunk_map is None and all(chunk.entry.object_name not in self._distrusted for chunk in old.chunks)

    def _window(self, old: TreeEntry) -> ChunkWindow | None:
        reader = self._session.base_reader
        if reader is None or old.chunk_map is None:
            return None
        with reading_base():
            return ChunkWindow(chunk_walk(reader).from_offset(old.chunk_map), census=self._session.census)

    def _open(self) -> Iterator[TreeEntry | LostPage]:
        reader = self._session.base_reader
        if reader is None:
            return iter(())
        walk = TreeWalk(reader=reader, kind=PageKind.FILES, decode=parse_file_rows)
        return walk.from_key(self._session.base_root)

    def _advance(self) -> None:
        with reading_base():
            found = next(self._entries, None)
        self._next = found if isinstance(found, TreeEntry) else None
