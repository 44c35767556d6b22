"""Reading the entries of a file tree: all below a path, or the children of one directory, streaming."""

from __future__ import annotations

from collections.abc import Iterator

from engine.errors import EngineError, FormatError, UnsupportedError
from engine.index import MapEntry
from engine.manifest import CONTENT_TREE, ManifestInfo
from engine.store.base import ObjectSource
from engine.stream_pages import PageKind
from engine.stream_reader import LostPage, PageReader, TreeWalk
from engine.tree_entries import FileKind, TreeEntry, key_of, parse_file_rows

# So many entries below a directory are passed by reading on; beyond that the walk starts anew behind them.
_PASS_MAX = 512


class PathNotFoundError(EngineError):
    """The backup has no such path."""

    default_code = "path_not_found"


def list_tree(
    *,
    manifest: ManifestInfo,
    object_source: ObjectSource,
    map_key: bytes,
    path: bytes = b"",
    recursive: bool = False,
) -> Iterator[TreeEntry]:
    """The children of a directory, or with `recursive` all below it, in order; of another kind of file, itself.

    `path` is relative to the root of the backup, with slashes. PathNotFoundError when it is not there; IntegrityError
    or FormatError where pages are damaged. Reads one page per level, then the pages that it lists.
    """
    if manifest.body.content != CONTENT_TREE:
        raise UnsupportedError("the backup holds no file tree", code="other_content")
    reader = PageReader(manifest=manifest, object_source=object_source, map_key=map_key)
    entries = TreeEntries(reader, manifest.root)
    entry = entries.find(key_of(path))
    if entry is None:
        raise PathNotFoundError("the backup has no such path")
    if entry.kind != FileKind.DIRECTORY:
        yield entry
        return
    below = entries.below(entry.key) if recursive else entries.children(entry.key)
    for found in below:
        if isinstance(found, TreeEntry):
            yield found


class TreeEntries:
    """With `report_lost` pages that cannot be read are handed out as LostPage, otherwise raised."""

    def __init__(self, reader: PageReader, root: MapEntry | None, *, report_lost: bool = False) -> None:
        self._root = root
        self._walk = TreeWalk(reader=reader, kind=PageKind.FILES, decode=parse_file_rows, report_lost=report_lost)

    def find(self, key: bytes) -> TreeEntry | None:
        for found in self.starting_at(key):
            if isinstance(found, TreeEntry):
                return found if found.key == key else None
        return None

    def starting_at(self, key: bytes) -> Iterator[TreeEntry | LostPage]:
        """Entries from `key` on, in ascending order."""
        before: bytes | None = None
        for found in self._walk.from_key(self._root, key):
            if isinstance(found, TreeEntry):
                if before is not None and found.key <= before:
                    raise FormatError("the entries of the tree are not in order")
                before = found.key
                if found.key < key:
                    continue
            yield found

    def below(self, key: bytes) -> Iterator[TreeEntry | LostPage]:
        """Everything inside of a directory, without the directory itself."""
        for found in self.starting_at(_first_below(key)):
            if not _is_below(found.key, key):
                if isinstance(found, TreeEntry):
                    return
                if found.next_key is not None and not _is_below(found.next_key, key):
                    # The lost page may reach into the directory and end behind it.
                    yield found
                    return
            yield found

    def children(self, key: bytes) -> Iterator[TreeEntry | LostPage]:
        """Like `below`, but only the directory's own names."""
        place: bytes | None = _first_below(key)
        while place is not None:
            start, place = place, None
            passed = 0
            skip_below: bytes | None = None
            for found in self.starting_at(start):
                if not _is_below(found.key, key):
                    return
                if skip_below is not None and _is_below(found.key, skip_below):
                    passed += 1
                    if passed > _PASS_MAX:
                        place = skip_below + b"\x01"
                        break
                    continue
                skip_below = found.key if isinstance(found, TreeEntry) else None
                passed = 0
                yield found


def _first_below(key: bytes) -> bytes:
    return key + b"\0" if key else b"\x01"


def _is_below(key: bytes, directory: bytes) -> bool:
    return key.startswith(directory + b"\0") if directory else bool(key)
