"""Reading the pages of chunk streams and file trees: verified, from any place on, with lost pages named.

A page is checked against what its parent said of it (content id, level, bytes and entries below), so a walk from the
signed root sees exactly what was written, or an error. Each page that cannot be read or opened on a second try is
handed out as LostPage by the walks that are asked for it, and raised otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from engine.errors import EngineError, FormatError, IntegrityError, StoreError, StoreNotFoundError
from engine.index import MapEntry, resolve
from engine.manifest import ManifestInfo
from engine.sealing import RecordType, map_sealer
from engine.store.base import ObjectKind, ObjectRef, ObjectSource
from engine.stream_pages import (
    PAGE_PLAIN_MAX,
    Branch,
    ChunkRow,
    PageKind,
    RawPage,
    Row,
    parse_branch_rows,
    parse_chunk_rows,
    parse_raw_page,
)

_Leaf = TypeVar("_Leaf", bound=Row)
OnPage: TypeAlias = "Callable[[PageKind, int, bytes, MapEntry], None]"
# What one request fetches at most of the pages that follow one another: the first of a walk little, for it may be all
# that somebody wants.
_AHEAD_FIRST_BYTES = 64 * 1024
_AHEAD_BYTES_MAX = 1024 * 1024
_GAP_BYTES_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class LostPage:
    """A page that cannot be read: `total_bytes` and `leaf_count` are what its parent says lies below.

    `key` is that of the first entry below, `next_key` of the first entry behind (None: to the end).
    """

    offset: int
    total_bytes: int
    leaf_count: int
    key: bytes
    next_key: bytes | None
    error: EngineError
    # SHA-256 of the segment in which it should lie.
    segment: bytes


@dataclass(frozen=True, slots=True)
class Page(Generic[_Leaf]):
    level: int
    branches: Sequence[Branch] = ()
    leaves: Sequence[_Leaf] = ()


class Ahead:
    """A stretch of one segment: the page that a walk asks for, and those that it will ask for next.

    A request each would be waited for each time: of a hundred thousand files there are hundreds of pages.
    """

    def __init__(self) -> None:
        self._segment = ""
        self._start = 0
        self._data = b""
        self._reach = _AHEAD_FIRST_BYTES

    def get(self, source: ObjectSource, segment: ObjectRef, ref: MapEntry, following: Iterable[MapEntry]) -> bytes:
        """The bytes of the record at `ref`, which lies inside of the segment."""
        begin = ref.offset - self._start
        if self._segment == segment.key and begin >= 0 and begin + ref.record_length <= len(self._data):
            return self._data[begin : begin + ref.record_length]
        self.forget()
        end = self._end(segment, ref, following)
        data = source.get(segment, offset=ref.offset, length=end - ref.offset)
        if len(data) != end - ref.offset:
            return data[: ref.record_length]
        self._segment, self._start, self._data = segment.key, ref.offset, data
        self._reach = min(self._reach * 2, _AHEAD_BYTES_MAX)
        return data[: ref.record_length]

    def forget(self) -> None:
        self._segment, self._data = "", b""

    def _end(self, segment: ObjectRef, ref: MapEntry, following: Iterable[MapEntry]) -> int:
        name, end = resolve(ref.object_name), ref.offset + ref.record_length
        for page in following:
            is_next = resolve(page.object_name) == name and end <= page.offset <= end + _GAP_BYTES_MAX
            page_end = page.offset + page.record_length
            if not is_next or page_end > min(ref.offset + self._reach, segment.size_bytes):
                break
            end = page_end
        return end


class PageReader:
    """Fetches and opens pages of one manifest. Not thread-safe only where `on_page` is not."""

    def __init__(
        self,
        *,
        manifest: ManifestInfo,
        object_source: ObjectSource,
        map_key: bytes,
        on_page: OnPage | None = None,
        lost_segments: Collection[bytes] = (),
    ) -> None:
        """Segments in `lost_segments` (SHA-256 each) count as missing: nothing of them is read."""
        if not manifest.sealed_opened:
            raise EngineError("the manifest was opened without its map key", code="internal")
        body = manifest.body
        self.manifest = manifest
        self._object_source = object_source
        self._on_page = on_page
        self._lost_segments = frozenset(lost_segments)
        self._sealer = map_sealer(RecordType.TREE, tenant=body.tenant, domain=body.domain, map_key=map_key)
        self._segments = {entry.sha256: body.object_ref(ObjectKind.INDEX, entry) for entry in body.segments}

    def raw_page(
        self, ref: MapEntry, kind: PageKind, *, ahead: Ahead | None = None, following: Iterable[MapEntry] = ()
    ) -> RawPage:
        """The page, after a second try by itself; transient trouble of the store passes through.

        `following` are pages that will be asked for next: `ahead`, of one walk, keeps those that lie beside this one.
        """
        ahead = ahead or Ahead()
        try:
            return self._load(ref, kind, ahead, following)
        except (IntegrityError, FormatError, StoreError) as error:
            if isinstance(error, StoreError) and error.transient:
                raise
            ahead.forget()
            return self._load(ref, kind, ahead, ())

    def page(
        self,
        ref: MapEntry,
        kind: PageKind,
        decode: Callable[[RawPage], Sequence[_Leaf]],
        *,
        ahead: Ahead | None = None,
        following: Iterable[MapEntry] = (),
    ) -> Page[_Leaf]:
        raw = self.raw_page(ref, kind, ahead=ahead, following=following)
        page: Page[_Leaf]
        if raw.level:
            page = Page(raw.level, branches=parse_branch_rows(raw))
            first = page.branches[0].identity
        else:
            page = Page(0, leaves=decode(raw))
            first = page.leaves[0].identity
        if self._on_page is not None:
            self._on_page(kind, raw.level, first, ref)
        return page

    def _load(self, ref: MapEntry, kind: PageKind, ahead: Ahead, following: Iterable[MapEntry]) -> RawPage:
        segment_name = resolve(ref.object_name)
        segment = self._segments.get(segment_name)
        if segment is None or ref.offset + ref.record_length > segment.size_bytes:
            raise FormatError("a page lies outside of the segments that the manifest lists")
        if ref.plain_length > PAGE_PLAIN_MAX:
            raise FormatError("a page is too large")
        if segment_name in self._lost_segments:
            raise StoreNotFoundError("the segment of a page is lost")
        payload = ahead.get(self._object_source, segment, ref, following)
        if len(payload) != ref.record_length:
            raise IntegrityError("the store returned another length than asked for")
        return parse_raw_page(self._sealer.open(ref.sealed(payload)), kind=kind, own_segment=segment_name)


class TreeWalk(Generic[_Leaf]):
    """Leaf entries in order, from an offset or a key on."""

    def __init__(
        self,
        *,
        reader: PageReader,
        kind: PageKind,
        decode: Callable[[RawPage], Sequence[_Leaf]],
        report_lost: bool = False,
    ) -> None:
        self._reader = reader
        self._kind = kind
        self._decode = decode
        self._report_lost = report_lost

    def from_offset(self, root: Branch | MapEntry | None, offset: int = 0) -> Iterator[tuple[int, _Leaf | LostPage]]:
        """(offset, entry) for each entry that ends behind `offset`; the offset is where its bytes begin."""
        return self._walk(root, skip=lambda branch, start, _: start + branch.total_bytes <= offset)

    def from_key(self, root: Branch | MapEntry | None, key: bytes = b"") -> Iterator[_Leaf | LostPage]:
        """Entries of the pages that may hold `key` or what follows; the first may lie before it."""
        for _, row in self._walk(root, skip=lambda _, __, next_key: next_key is not None and next_key <= key):
            yield row

    def _walk(
        self, root: Branch | MapEntry | None, *, skip: Callable[[Branch, int, bytes | None], bool]
    ) -> Iterator[tuple[int, _Leaf | LostPage]]:
        if root is None:
            return
        is_known = isinstance(root, Branch)
        start = root if isinstance(root, Branch) else Branch(root, 0, 0)
        # What is still to be visited: (branch, where its bytes begin, first key behind it, level it must have).
        to_visit: list[tuple[Branch, int, bytes | None, int | None]] = [(start, 0, None, None)]
        ahead = Ahead()
        while to_visit:
            branch, offset, next_key, level = to_visit.pop()
            try:
                following = (waiting[0].ref for waiting in reversed(to_visit))
                page = self._reader.page(branch.ref, self._kind, self._decode, ahead=ahead, following=following)
                if level is not None or is_known:
                    _check_page(page, branch, next_key, level)
            except (IntegrityError, FormatError, StoreError) as error:
                if not self._report_lost or (isinstance(error, StoreError) and error.transient):
                    raise
                lost = LostPage(
                    offset,
                    branch.total_bytes,
                    branch.leaf_count,
                    branch.key,
                    next_key,
                    error,
                    resolve(branch.ref.object_name),
                )
                yield offset, lost
                continue
            if not page.level:
                for leaf in page.leaves:
                    yield offset, leaf
                    offset += leaf.total_bytes
                continue
            children: list[tuple[Branch, int, bytes | None, int | None]] = []
            for number, child in enumerate(page.branches):
                is_last = number + 1 == len(page.branches)
                child_next = next_key if is_last else page.branches[number + 1].key
                if not skip(child, offset, child_next):
                    children.append((child, offset, child_next, page.level - 1))
                offset += child.total_bytes
            to_visit += reversed(children)


def _check_page(page: Page[_Leaf], branch: Branch, next_key: bytes | None, level: int | None) -> None:
    rows: Sequence[Row] = page.branches or page.leaves
    if level is not None and page.level != level:
        raise FormatError("a page has another level than its parent says")
    if sum(row.total_bytes for row in rows) != branch.total_bytes:
        raise FormatError("a page holds another number of bytes than its parent says")
    if sum(row.leaf_count for row in rows) != branch.leaf_count:
        raise FormatError("a page has another number of entries than its parent says")
    if rows[0].key != branch.key or (next_key is not None and branch.key and rows[-1].key >= next_key):
        raise FormatError("the entries of a page do not lie where its parent says")


def chunk_walk(reader: PageReader, *, report_lost: bool = False) -> TreeWalk[ChunkRow]:
    return TreeWalk(reader=reader, kind=PageKind.CHUNKS, decode=parse_chunk_rows, report_lost=report_lost)
