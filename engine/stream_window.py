"""Finding chunks of the base again: a window over the base's chunks that moves along with what is found."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from engine.index import MapEntry
from engine.stream_census import UseCounts
from engine.stream_pages import ChunkRow
from engine.stream_reader import LostPage

# About 500 bytes of memory for each; with chunks of 160 KiB the window reaches 10 GiB ahead.
_AHEAD = 64 * 1024
_BACK = 16 * 1024


class ChunkWindow:
    """Chunks of the base around the place where the last one was found, by content id.

    Every chunk that enters the window is taken off the use counts: what is kept is counted anew by the writer.
    `drain` takes off the rest. After a run of misses as long as the window it moves on by itself, so that a
    replaced stretch of any length does not end the comparison.
    """

    def __init__(
        self,
        rows: Iterator[tuple[int, ChunkRow | LostPage]],
        *,
        census: UseCounts,
        ahead: int = _AHEAD,
        back: int = _BACK,
    ) -> None:
        self._rows = rows
        self._census = census
        self._ahead = ahead
        self._back = back
        self._entries: dict[bytes, tuple[int, MapEntry]] = {}
        self._order: deque[bytes] = deque()
        self._first = 0  # number of the oldest chunk in the window
        self._loaded = 0  # number of the next chunk to load
        self._place = 0
        self._misses = 0
        self._load()

    def get(self, content_id: bytes, /) -> MapEntry | None:
        found = self._entries.get(content_id)
        return found[1] if found is not None else None

    def note(self, content_id: bytes) -> None:
        """Tell, in order, which chunk came: the window follows."""
        found = self._entries.get(content_id)
        if found is not None:
            self._place = max(self._place, found[0])
            self._misses = 0
        else:
            self._misses += 1
            if self._misses > self._ahead:
                self._place += 1
        self._load()

    def drain(self) -> None:
        for _, row in self._rows:
            if isinstance(row, ChunkRow):
                self._census.drop_chunk(row.entry)

    def _load(self) -> None:
        while self._loaded <= self._place + self._ahead:
            _, row = next(self._rows, (0, None))
            if not isinstance(row, ChunkRow):
                return
            self._census.drop_chunk(row.entry)
            self._entries[row.entry.content_id] = (self._loaded, row.entry)
            self._order.append(row.entry.content_id)
            self._loaded += 1
            self._forget()

    def _forget(self) -> None:
        while self._first < self._place - self._back:
            content_id = self._order.popleft()
            if self._entries.get(content_id, (-1, None))[0] == self._first:
                del self._entries[content_id]
            self._first += 1
