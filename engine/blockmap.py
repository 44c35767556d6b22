"""Writing the block map of a new manifest: only pages that differ from the base are stored.

Leaves arrive in ascending order. A leaf waits until all packs that it refers to are closed; an interior page
is made when its last child is settled. A page equal to the base's keeps the base's reference. Census counts
who still uses which object, so that the manifest can list exactly what a restore needs.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.codec import SALT_SIZE
from engine.compression import Compressor
from engine.crypto import RandomBytes, key_commitment
from engine.distrust import BaseMap
from engine.hashing import sha256_hex
from engine.index import (
    NO_SESSION,
    MapEntry,
    ObjectName,
    PageDraft,
    PendingObject,
    ceil_div,
    draft_page,
    entry_for,
    resolve,
    tree_height,
)
from engine.pack import ContainerWriter
from engine.sealing import RecordType, map_sealer
from engine.store.base import ObjectKind
from engine.upload import Uploader

# Memory for leaves that wait for a pack to close: 500 of them when they are full, 100,000 when a disk is nearly empty.
# Closing packs by this and not by a number of leaves keeps them of a sane size when writes are scattered.
WAITING_BYTES_MAX = 32 * 1024 * 1024
_DRAFT_OVERHEAD_BYTES = 300


class SegmentWriter:
    """Seals pages into index segments and sends each segment after all packs that were closed before it."""

    def __init__(
        self,
        *,
        tenant: str,
        domain: str,
        map_key: bytes,
        session_id: bytes,
        target_size: int,
        random_bytes: RandomBytes,
        compressor: Compressor,
        uploader: Uploader,
    ) -> None:
        self._sealer = map_sealer(RecordType.PAGE, tenant=tenant, domain=domain, map_key=map_key)
        self._table_sealer = map_sealer(RecordType.TABLE, tenant=tenant, domain=domain, map_key=map_key)
        self._commitment = key_commitment(map_key)
        self._session_id = session_id
        self._target_size = target_size
        self._random_bytes = random_bytes
        self._compressor = compressor
        self._uploader = uploader
        self._start_segment()

    def add_page(self, *, plain_size_max: int, make_page: Callable[[PendingObject], PageDraft]) -> MapEntry:
        """Store one page. `make_page` gets the segment it will lie in, for references inside of it."""
        if not self._container.has_room_for(plain_size_max + 64):
            self.close_segment()
        plain = make_page(self._segment).plaintext()
        record = self._sealer.seal_verified(
            plain,
            content_id=self._sealer.content_id(plain),
            salt=self._random_bytes(SALT_SIZE),
            compressor=self._compressor,
        )
        offset = self._container.add(record)
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


class Census:
    """Use counts of packs, sessions and segments.

    With `recount` they start at zero and every page is counted; otherwise they start with the base's and
    only differences are applied.
    """

    def __init__(self, base: BaseMap | None, *, recount: bool) -> None:
        self.recount = recount
        self._packs: Counter[ObjectName] = Counter()
        self._segments: Counter[ObjectName] = Counter()
        self._sessions: Counter[bytes] = Counter()
        if base is not None and not recount:
            self._packs.update({entry.sha256: entry.use_count for entry in base.body.packs})
            self._segments.update({entry.sha256: entry.use_count for entry in base.body.segments})
            self._sessions.update({entry.session_id: entry.use_count for entry in base.body.sessions})

    def leaf(self, old: Iterable[MapEntry], new: Iterable[MapEntry]) -> None:
        for entry in new:
            self._packs[entry.object_name] += 1
            self._sessions[entry.session_id] += 1
        if self.recount:
            return
        for entry in old:
            self._packs[entry.object_name] -= 1
            self._sessions[entry.session_id] -= 1

    def page(self, old: MapEntry | None, new: MapEntry | None) -> None:
        if new is not None:
            self._segments[new.object_name] += 1
        if old is not None and not self.recount:
            self._segments[old.object_name] -= 1

    def packs(self) -> dict[bytes, int]:
        return _resolved(self._packs)

    def segments(self) -> dict[bytes, int]:
        return _resolved(self._segments)

    def sessions(self) -> dict[bytes, int]:
        return {name: count for name, count in self._sessions.items() if count > 0}


@dataclass(slots=True)
class _OpenPage:
    index: int
    entries: dict[int, MapEntry]


@dataclass(frozen=True, slots=True)
class _SettledLeaf:
    """A leaf that needs no page of its own: carried over from the base, or a hole."""

    index: int
    ref: MapEntry | None


class MapWriter:
    """Builds the tree. Call put_leaf or carry_leaf once for each leaf, ascending, then finish."""

    def __init__(
        self,
        *,
        base: BaseMap | None,
        segments: SegmentWriter,
        census: Census,
        block_count: int,
        fan_out: int,
    ) -> None:
        self._base = base
        self._segments = segments
        self._census = census
        self._fan_out = fan_out
        self._height = tree_height(block_count, fan_out)
        self._waiting: deque[_SettledLeaf | PageDraft] = deque()
        self._waiting_bytes = 0
        self._open: dict[int, _OpenPage] = {}
        self._root: MapEntry | None = None
        self.leaf_count = ceil_div(block_count, fan_out)

    @property
    def is_crowded(self) -> bool:
        """Too many leaves wait for the open pack: close it."""
        return self._waiting_bytes >= WAITING_BYTES_MAX

    def carry_leaf(self, index: int, entries: dict[int, MapEntry]) -> None:
        """Keep the base's leaf; the caller has counted its entries if the census needs that.

        `entries` are those of the leaf where they are known: enough to write it again should the base fail just now.
        """
        ref = self._base.page_ref(0, index) if self._base is not None else None
        if ref is None and entries:
            self.put_leaf(index, entries)
            return
        self._waiting.append(_SettledLeaf(index, ref))
        self.settle_ready()

    def put_leaf(self, index: int, entries: dict[int, MapEntry]) -> None:
        if entries:
            draft = draft_page(level=0, index=index, entries=entries.values())
            self._waiting.append(draft)
            self._waiting_bytes += _memory_of(draft)
        else:
            self._waiting.append(_SettledLeaf(index, None))
        self.settle_ready()

    def settle_ready(self) -> None:
        """Store the leaves at the front of the queue whose packs are all closed."""
        while self._waiting:
            leaf = self._waiting[0]
            if isinstance(leaf, PageDraft) and not leaf.is_ready:
                return
            self._waiting.popleft()
            self._settle(0, leaf.index, self._store_leaf(leaf) if isinstance(leaf, PageDraft) else leaf.ref)

    def finish(self) -> MapEntry | None:
        """Close all pages and the last segment; the root, or None for an image without data."""
        self.settle_ready()
        for level in range(1, self._height + 1):
            if level in self._open:
                self._close_page(level)
        self._segments.close_segment()
        return self._root

    def _store_leaf(self, draft: PageDraft) -> MapEntry:
        self._waiting_bytes -= _memory_of(draft)
        return self._segments.add_page(plain_size_max=draft.plain_size, make_page=lambda _: draft)

    def _settle(self, level: int, index: int, ref: MapEntry | None) -> None:
        old = self._base.page_ref(level, index) if self._base is not None else None
        self._census.page(old, ref)
        if level == self._height:
            self._root = ref
            return
        parent_index, slot = divmod(index, self._fan_out)
        page = self._open.get(level + 1)
        if page is not None and page.index != parent_index:
            self._close_page(level + 1)
            page = None
        if page is None:
            page = self._open[level + 1] = _OpenPage(parent_index, {})
        if ref is not None:
            page.entries[slot] = ref._replace(slot=slot)

    def _close_page(self, level: int) -> None:
        page = self._open.pop(level)
        self._settle(level, page.index, self._store_interior(level, page))

    def _store_interior(self, level: int, page: _OpenPage) -> MapEntry | None:
        if not page.entries:
            return None
        if self._base is not None and self._base.interior(level, page.index) == page.entries:
            ref = self._base.page_ref(level, page.index)
            if ref is not None:
                return ref
        rows_max = draft_page(level=level, index=page.index, entries=page.entries.values()).plain_size
        return self._segments.add_page(
            plain_size_max=rows_max,
            make_page=lambda segment: draft_page(
                level=level, index=page.index, entries=page.entries.values(), own_segment=segment
            ),
        )


def _memory_of(draft: PageDraft) -> int:
    return _DRAFT_OVERHEAD_BYTES + draft.plain_size


def _resolved(counts: Counter[ObjectName]) -> dict[bytes, int]:
    merged: Counter[bytes] = Counter()
    for name, count in counts.items():
        merged[resolve(name)] += count
    return {name: count for name, count in merged.items() if count > 0}
