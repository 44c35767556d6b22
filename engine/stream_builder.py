"""Building the pages of a chunk stream or file tree bottom up; pages that are there already are kept.

Leaf entries arrive in order. A page of leaf entries waits until all packs that it refers to are closed; a branch is
made when its last child is stored. What is kept of the base is decided page by page: PageMemory knows where the
base's pages lie that the writer has passed, and a draft that would read exactly like one of them is not stored again.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from engine.codec import SALT_SIZE
from engine.compression import Compressor
from engine.crypto import DomainKeys, RandomBytes, key_commitment
from engine.errors import EngineError, FormatError
from engine.hashing import sha256_hex
from engine.index import LEVEL_MAX, NO_SESSION, MapEntry, PendingObject, entry_for, is_resolved
from engine.pack import DEFAULT_CONTAINER_SIZE, ContainerWriter
from engine.sealing import RecordType, map_sealer
from engine.store.base import ObjectKind
from engine.stream_census import UseCounts
from engine.stream_pages import (
    PAGE_BYTES_MAX,
    PAGE_PLAIN_MAX,
    ROWS_MAX,
    ROWS_MIN,
    Boundary,
    Branch,
    PageDraft,
    PageKind,
    Row,
    draft_page,
)
from engine.upload import Uploader

# Bytes of leaf pages that may wait for a pack to close; beyond that the open pack is closed early.
_WAITING_BYTES_MAX = 16 * 1024 * 1024
_REMEMBERED_PAGES = 4096
# What sealing and the record table add to a page.
_PAGE_OVERHEAD = 128


class PageMemory:
    """Where pages of the base lie, by what they begin with. Forgets the longest unused beyond a fixed number."""

    def __init__(self) -> None:
        self._refs: OrderedDict[tuple[int, int, bytes], MapEntry] = OrderedDict()

    def remember(self, kind: PageKind, level: int, first_identity: bytes, ref: MapEntry) -> None:
        key = (kind, level, first_identity)
        self._refs[key] = ref
        self._refs.move_to_end(key)
        if len(self._refs) > _REMEMBERED_PAGES:
            self._refs.popitem(last=False)

    def find(self, draft: PageDraft) -> MapEntry | None:
        return self._refs.get((draft.kind, draft.level, draft.first_identity))


class PageSink:
    """Seals pages into index segments; sends a segment after all packs and segments that were closed before it."""

    def __init__(
        self,
        *,
        tenant: str,
        domain: str,
        domain_keys: DomainKeys,
        session_id: bytes,
        random_bytes: RandomBytes,
        compressor: Compressor,
        uploader: Uploader,
        target_size: int = DEFAULT_CONTAINER_SIZE,
    ) -> None:
        map_key = domain_keys.map_key
        self._sealer = map_sealer(RecordType.TREE, tenant=tenant, domain=domain, map_key=map_key)
        self._table_sealer = map_sealer(RecordType.TABLE, tenant=tenant, domain=domain, map_key=map_key)
        self._commitment = key_commitment(map_key)
        self._session_id = session_id
        self._target_size = target_size
        self._random_bytes = random_bytes
        self._compressor = compressor
        self._uploader = uploader
        self.memory = PageMemory()
        self.stored_pages = 0
        self._start_segment()

    def is_ready(self, draft: PageDraft) -> bool:
        """All its packs are closed. A segment that is still open is no obstacle: it is closed before, or is ours."""
        return all(is_resolved(name) or name is self._segment for name in draft.objects)

    def add(self, draft: PageDraft) -> MapEntry:
        """Where the page lies: in the base if it is there, else in a segment of this session."""
        if draft.plain_size > PAGE_PLAIN_MAX:
            raise FormatError("a page is too large")
        known = self.memory.find(draft)
        # A page that refers to something of this session's open segment is no page of the base.
        if known is not None and all(is_resolved(name) for name in draft.objects):
            plain = draft.plaintext(own_segment=known.object_name)
            if self._sealer.content_id(plain) == known.content_id:
                return known
        if not self._container.has_room_for(draft.plain_size + _PAGE_OVERHEAD):
            self.close_segment()
        plain = draft.plaintext(own_segment=self._segment)
        record = self._sealer.seal_verified(
            plain,
            content_id=self._sealer.content_id(plain),
            salt=self._random_bytes(SALT_SIZE),
            compressor=self._compressor,
        )
        offset = self._container.add(record)
        self.stored_pages += 1
        return entry_for(record, slot=0, object_name=self._segment, session_id=NO_SESSION, offset=offset)

    def close_segment(self) -> None:
        if self._container.is_empty:
            return
        data = self._container.finish(salt=self._random_bytes(SALT_SIZE), compressor=self._compressor)
        sha256 = sha256_hex(data)
        self._segment.sha256 = bytes.fromhex(sha256)
        self._uploader.drain()
        self._uploader.submit(ObjectKind.INDEX, data, sha256=sha256)
        self._start_segment()

    def _start_segment(self) -> None:
        self._segment = PendingObject()
        self._container = ContainerWriter(
            ObjectKind.INDEX,
            session_id=self._session_id,
            key_commitment=self._commitment,
            table_sealer=self._table_sealer,
            target_size=self._target_size,
        )


@dataclass(slots=True)
class _OpenPage:
    rows: list[Row] = field(default_factory=list)
    size: int = 0
    page_count: int = 0


class PageTreeBuilder:
    """Call `add` for each leaf entry in order, then `finish` once, when all packs are closed."""

    def __init__(self, *, kind: PageKind, sink: PageSink, census: UseCounts, boundary: Boundary) -> None:
        self._kind = kind
        self._sink = sink
        self._census = census
        self._boundary = boundary
        self._levels: list[_OpenPage] = []
        self._waiting: deque[PageDraft] = deque()
        self._waiting_bytes = 0

    @property
    def is_crowded(self) -> bool:
        """Too many pages wait for the open pack: close it, then call settle_ready."""
        return self._waiting_bytes > _WAITING_BYTES_MAX

    def add(self, row: Row, *, size: int = 0) -> None:
        """`size` is about what the row takes in its page; 0 where rows are small."""
        self._put(0, row, size)

    def settle_ready(self) -> None:
        """Store the pages at the front of the queue whose packs are all closed."""
        while self._waiting and self._sink.is_ready(self._waiting[0]):
            draft = self._waiting.popleft()
            self._waiting_bytes -= draft.plain_size
            self._store(draft)

    def finish(self) -> Branch | None:
        """The root; None when nothing was added."""
        level = 0
        while level < len(self._levels):
            page = self._levels[level]
            is_top = level == len(self._levels) - 1
            if is_top and level and page.page_count == 0 and len(page.rows) == 1:
                only = page.rows[0]
                return only if isinstance(only, Branch) else None
            if page.rows:
                self._end_page(level)
            self.settle_ready()
            if self._waiting:
                raise EngineError("a page is finished before its packs", code="internal")
            level += 1
        return None

    def _put(self, level: int, row: Row, size: int) -> None:
        if level == len(self._levels):
            if level > LEVEL_MAX:
                raise FormatError("the map would be too deep")
            self._levels.append(_OpenPage())
        page = self._levels[level]
        page.rows.append(row)
        page.size += size
        count = len(page.rows)
        is_full = count >= ROWS_MAX or page.size >= PAGE_BYTES_MAX
        if is_full or (count >= ROWS_MIN and self._boundary.is_after(level, row.anchor)):
            self._end_page(level)

    def _end_page(self, level: int) -> None:
        page = self._levels[level]
        draft = draft_page(kind=self._kind, level=level, rows=page.rows)
        page.rows, page.size = [], 0
        page.page_count += 1
        if level:
            self._store(draft)
            return
        self._waiting.append(draft)
        self._waiting_bytes += draft.plain_size
        self.settle_ready()

    def _store(self, draft: PageDraft) -> None:
        ref = self._sink.add(draft)
        self._census.add_page(ref)
        branch = draft.branch(ref)
        self._put(draft.level + 1, branch, len(branch.key))
