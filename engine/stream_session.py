"""What a session that writes chunks consists of, for streams and file trees alike, and its commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import msgspec

from engine.assembly import ManifestAssembler
from engine.backup import BackupBase, ProgressReport, WriteContext, WriteProgress, WriteResult, WriteStats
from engine.codec import SALT_SIZE
from engine.compression import Compressor
from engine.crypto import generate_session_keys
from engine.errors import BaseMismatchError, EngineError, FormatError, IntegrityError, StoreNotFoundError
from engine.hashing import sha256_hex
from engine.index import MapEntry
from engine.manifest import FEATURE_OF_CONTENT, ManifestBody, ManifestInfo, build_manifest, manifest_ref
from engine.packing import PackWriter
from engine.repository import open_manifest
from engine.resume import PackTables, ResumableSession
from engine.store.base import ObjectRef, ObjectSink, ObjectSource
from engine.stream_builder import PageSink, PageTreeBuilder
from engine.stream_census import UseCounts
from engine.stream_pages import Boundary, Branch, PageKind
from engine.stream_pipe import ChunkPipe
from engine.stream_reader import PageReader
from engine.throttle import Throttle
from engine.upload import Uploader
from engine.waiting import Background, Cancel
from engine.window import ResumedBlocks

_TABLE_THREADS = 4
# What makes a base unusable: the caller then writes a full backup.
BAD_BASE = (IntegrityError, FormatError, StoreNotFoundError)


def open_chunk_base(base: BackupBase, *, context: WriteContext, content: str) -> ManifestInfo:
    """The base's manifest; BaseMismatchError when it cannot serve or cannot be read."""
    try:
        info = open_manifest(
            manifest_ref=base.manifest_ref,
            object_source=base.object_source,
            trusted_writers={context.writer_key.public, *base.trusted_writers},
            map_key=context.domain_keys.map_key,
        )
    except BAD_BASE as error:
        raise BaseMismatchError("the base's manifest cannot be read") from error
    body = info.body
    if (body.tenant, body.domain, body.source_id) != (context.tenant, context.domain, context.source_id):
        raise BaseMismatchError("the base belongs to another source")
    if body.content != content:
        raise BaseMismatchError("the base has another kind of content")
    if body.sequence >= context.sequence:
        raise BaseMismatchError("the base is not older than the new backup")
    if any(entry.sha256.hex() in context.distrusted_segments for entry in body.segments):
        raise BaseMismatchError("pages of the base lie in a segment that must not be used")
    return info


@contextmanager
def reading_base() -> Iterator[None]:
    """Around reads of the base's map: BaseMismatchError when it is damaged."""
    try:
        yield
    except BAD_BASE as error:
        raise BaseMismatchError("the base's map cannot be read") from error


def new_uploader(*, sink: ObjectSink, context: WriteContext, cancel: Cancel) -> Uploader:
    limit = context.bandwidth_bytes_per_second
    throttle = None
    if limit is not None:
        throttle = Throttle(bytes_per_second=limit, clock=context.clock, sleep=context.sleep, cancel=cancel)
    return Uploader(sink=sink, tenant=context.tenant, domain=context.domain, cancel=cancel, throttle=throttle)


@contextmanager
def resumed_chunks(
    sessions: Sequence[ResumableSession],
    object_source: ObjectSource | None,
    *,
    context: WriteContext,
    cancel: Cancel,
) -> Iterator[ResumedBlocks | None]:
    """What earlier attempts stored, for as long as their tables may be read; None when there were none."""
    if not sessions:
        yield None
        return
    if object_source is None:
        raise EngineError("a resume needs a source of objects", code="internal")
    with Background(name="table", cancel=cancel, threads=_TABLE_THREADS) as background:
        tables = PackTables(
            sessions=sessions,
            object_source=object_source,
            context=context,
            background=background,
            # A chunk may have any length: it is found by its content, not by its place.
            accepts=lambda length: length > 0,
        )
        yield ResumedBlocks(tables)


class ChunkSession:
    """Use as a context manager; `commit` is the last call."""

    def __init__(
        self,
        *,
        context: WriteContext,
        content: str,
        base: BackupBase | None,
        uploader: Uploader,
        resumed: ResumedBlocks | None = None,
        progress: ProgressReport | None,
        cancel: Cancel,
    ) -> None:
        if context.created_at.tzinfo is None:
            raise FormatError("created_at must carry a time zone")
        self._context = context
        self._content = content
        self._base = open_chunk_base(base, context=context, content=content) if base is not None else None
        previous = base.manifest_ref.sha256 if base is not None else context.previous_sha256
        self._previous = bytes.fromhex(previous) if previous is not None else None
        self._uploader = uploader
        self._resumed = resumed
        self._progress = progress
        self._keys = generate_session_keys(context.random_bytes)
        self._compressor = Compressor(context.compression_level)
        self.stats = WriteStats()
        self.packs = PackWriter(
            context=context, keys=self._keys, uploader=uploader, compressor=self._compressor, resumed=resumed
        )
        self.pipe = ChunkPipe(
            context=context,
            keys=self._keys,
            packs=self.packs,
            resumed=resumed,
            compressor=self._compressor,
            stats=self.stats,
            cancel=cancel,
        )
        self.census = UseCounts(self._base.body if self._base is not None else None)
        self.pages = PageSink(
            tenant=context.tenant,
            domain=context.domain,
            domain_keys=context.domain_keys,
            session_id=self._keys.session_id,
            random_bytes=context.random_bytes,
            compressor=self._compressor,
            uploader=uploader,
        )
        self._boundary = Boundary(context.domain_keys.map_key)
        self.base_reader = self._open_reader(base) if base is not None else None

    def __enter__(self) -> ChunkSession:
        self.pipe.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self.pipe.__exit__(*details)

    @property
    def base_root(self) -> MapEntry | None:
        return self._base.root if self._base is not None else None

    def builder(self, kind: PageKind) -> PageTreeBuilder:
        return PageTreeBuilder(kind=kind, sink=self.pages, census=self.census, boundary=self._boundary)

    def report(self) -> None:
        if self._progress is None:
            return
        stats = self.stats
        self._progress(WriteProgress(stats.scanned_bytes, stats.read_bytes, self._uploader.stored_bytes))

    @property
    def base_facts(self) -> Mapping[str, Any]:
        """What the base's manifest says of its source; empty without a base."""
        return (self._base.source_facts if self._base is not None else None) or {}

    def commit(
        self,
        *,
        root: Branch | None,
        size_bytes: int,
        counters: Mapping[str, int],
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> WriteResult:
        """Store what is still open, then the manifest, with more `facts` of the source. All slots must be filled and
        all packs closed."""
        self.pipe.report_moved()
        self.pages.close_segment()
        self._uploader.drain()
        self.stats.resumed_blocks = self.packs.resumed_count
        body = msgspec.structs.replace(
            self._assembler().body(previous_sha256=self._previous, size_bytes=size_bytes, stats=self.stats),
            content=self._content,
            required_features=[FEATURE_OF_CONTENT[self._content]],
            block_size=0,
            fan_out=0,
            counters={**self._chunk_counters(), **counters},
        )
        data = build_manifest(
            body,
            root=root.ref if root is not None else None,
            source_facts={**self._context.source_facts, **facts},
            map_key=self._context.domain_keys.map_key,
            writer_key=self._context.writer_key,
            salt=self._context.random_bytes(SALT_SIZE),
            compressor=self._compressor,
        )
        sha256 = sha256_hex(data)
        key = manifest_ref(body, sha256=sha256, size_bytes=len(data), version_id=None).key
        new_objects = tuple(self._uploader.stored.values())
        stored = self._uploader.put_now(key, data, sha256=sha256)
        self.stats.stored_bytes = self._uploader.stored_bytes
        self.report()
        return self._result(body, stored, new_objects)

    def _result(self, body: ManifestBody, manifest: ObjectRef, new_objects: tuple[ObjectRef, ...]) -> WriteResult:
        new_keys = {ref.key for ref in new_objects}
        earlier = {ref.key for ref in self._base.body.needed_refs()} if self._base is not None else set()
        others = [ref for ref in body.needed_refs() if ref.key not in new_keys]
        reused = tuple(ref for ref in others if ref.key in earlier)
        resumed = tuple(ref for ref in others if ref.key not in earlier)
        return WriteResult(
            manifest, new_objects, reused, self._keys.session_id, self.stats, resumed, tuple(body.sessions)
        )

    def _assembler(self) -> ManifestAssembler:
        return ManifestAssembler(
            context=self._context,
            keys=self._keys,
            base=self._base.body if self._base is not None else None,
            census=self.census,
            uploader=self._uploader,
            resumed_packs=self._resumed.packs if self._resumed is not None else None,
            resumed_sessions=self._resumed.sessions if self._resumed is not None else None,
        )

    def _chunk_counters(self) -> dict[str, int]:
        stats = self.stats
        return {
            "scanned_bytes": stats.scanned_bytes,
            "read_bytes": stats.read_bytes,
            "changed_bytes": stats.changed_bytes,
            "new_chunks": stats.new_blocks,
            "reused_chunks": stats.reused_blocks,
        }

    def _open_reader(self, base: BackupBase) -> PageReader | None:
        if self._base is None:
            return None
        return PageReader(
            manifest=self._base,
            object_source=base.object_source,
            map_key=self._context.domain_keys.map_key,
            on_page=self._pass_base_page,
        )

    def _pass_base_page(self, kind: PageKind, level: int, first_identity: bytes, ref: MapEntry) -> None:
        self.census.drop_page(ref)
        self.pages.memory.remember(kind, level, first_identity, ref)
