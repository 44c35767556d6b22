"""What a restore of a file tree fetches, in which order: entries, each file's chunks behind its entry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from engine.errors import FormatError, IntegrityError, StoreNotFoundError
from engine.stream_fetch import Want
from engine.stream_reader import LostPage, PageReader, chunk_walk
from engine.tree_compare import Held, Stretch, TargetFiles
from engine.tree_entries import FileKind, Marks, TreeEntry
from engine.tree_reader import PathNotFoundError, TreeEntries


@dataclass(frozen=True, slots=True)
class Begin:
    """`held`: what the target has in its place; what of that is the same is not fetched."""

    entry: TreeEntry
    held: Held | None = None


@dataclass(frozen=True, slots=True)
class Data:
    """A chunk of the file that was begun last, or (without chunk) a lost range of it. `held_id`: the content id of a
    chunk that the target has in its place."""

    offset: int
    length: int
    held_id: bytes | None = None


@dataclass(frozen=True, slots=True)
class End:
    entry: TreeEntry


Tag: TypeAlias = Begin | Data | End | LostPage


class RestorePlan:
    """What is wanted, in the order of the entries."""

    def __init__(self, reader: PageReader, selected: Sequence[bytes], *, target: TargetFiles | None = None) -> None:
        """With a target, files are compared with what it holds before anything of them is fetched."""
        root = reader.manifest.root
        self._reader = reader
        self._target = target
        self._entries = TreeEntries(reader, root, report_lost=True)
        # A single path that lies in a lost page is an error: it cannot be told from one that is not there.
        self._finder = TreeEntries(reader, root)
        self._selected = sorted(set(selected))
        # First names that are not selected -> the name that got their content instead.
        self._substitutes: dict[bytes, bytes] = {}

    def check(self) -> None:
        """PathNotFoundError, or IntegrityError and the like where pages with selected names are damaged."""
        for key in self._selected:
            if self.find(key) is None:
                raise PathNotFoundError("the backup has no such path")

    def find(self, key: bytes) -> TreeEntry | None:
        return self._finder.find(key)

    def wants(self) -> Iterator[Want[Tag]]:
        for found in self._found():
            if isinstance(found, LostPage):
                yield Want(found, None)
                continue
            found = self._self_contained(found)
            held = self._held(found)
            yield Want(Begin(found, held), None)
            if found.kind == FileKind.FILE:
                yield from self._content(found, held)
                yield Want(End(found), None)

    def is_selected(self, key: bytes) -> bool:
        """Whether this path, with all below it, is to be as it is in the backup."""
        return not self._selected or self._is_selected(key)

    def _held(self, entry: TreeEntry) -> Held | None:
        if self._target is None or entry.kind != FileKind.FILE or entry.marks & Marks.UNREADABLE:
            return None
        return self._target.look(entry, size=entry.size, stretches=lambda: self._stretches(entry))

    def _stretches(self, entry: TreeEntry) -> Iterator[Stretch]:
        for want in self._chunks(entry):
            yield Stretch(want.tag.offset, want.tag.length, want.entry.content_id if want.entry is not None else None)

    def _content(self, entry: TreeEntry, held: Held | None) -> Iterator[Want[Tag]]:
        """What is not held is fetched; of a file that stays as it is, nothing is even copied."""
        if held is not None and held.is_same and held.link_count == 1:
            return
        for number, want in enumerate(self._chunks(entry)):
            is_held = held is not None and (held.is_same or held.same_chunks[number])
            if is_held and want.entry is not None:
                yield Want(Data(want.tag.offset, want.tag.length, want.entry.content_id), None)
            else:
                yield Want(want.tag, want.entry)

    def _chunks(self, entry: TreeEntry) -> Iterator[Want[Data]]:
        offset = 0
        for chunk in entry.chunks:
            yield Want(Data(offset + chunk.hole, chunk.entry.plain_length), chunk.entry)
            offset += chunk.total_bytes
        if entry.chunk_map is not None:
            for start, row in chunk_walk(self._reader, report_lost=True).from_offset(entry.chunk_map):
                if isinstance(row, LostPage):
                    yield Want(Data(start, row.total_bytes), None)
                else:
                    yield Want(Data(start + row.hole, row.entry.plain_length), row.entry)

    def _self_contained(self, entry: TreeEntry) -> TreeEntry:
        """A hard link to a name that is not selected becomes the file itself, further ones links to that."""
        if entry.kind != FileKind.HARD_LINK or not self._selected or self._is_selected(entry.target):
            return entry
        substitute = self._substitutes.get(entry.target)
        if substitute is not None:
            return msgspec.structs.replace(entry, target=substitute)
        try:
            head = self.find(entry.target)
        except (IntegrityError, FormatError, StoreNotFoundError):
            head = None
        if head is None or head.kind != FileKind.FILE:
            return entry
        self._substitutes[entry.target] = entry.key
        return msgspec.structs.replace(head, key=entry.key, marks=head.marks | Marks.LINKED)

    def _is_selected(self, key: bytes) -> bool:
        return any(not chosen or key == chosen or key.startswith(chosen + b"\0") for chosen in self._selected)

    def _found(self) -> Iterator[TreeEntry | LostPage]:
        if not self._selected:
            yield from self._entries.starting_at(b"")
            return
        done: bytes | None = None
        passed: set[bytes] = set()
        for key in self._selected:
            if done is not None and (not done or key.startswith(done + b"\0")):
                continue  # inside of what was selected before
            for parent in _parents(key):
                if parent not in passed:
                    passed.add(parent)
                    entry = self.find(parent)
                    if entry is not None:
                        yield entry
            entry = self.find(key)
            if entry is not None:
                yield entry
                yield from self._entries.below(key) if entry.kind == FileKind.DIRECTORY else ()
            done = key


def _parents(key: bytes) -> Iterator[bytes]:
    """Keys of the directories above, from the outermost on, without the root."""
    names = key.split(b"\0")
    for count in range(1, len(names)):
        yield b"\0".join(names[:count])
