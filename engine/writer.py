"""Writing one disk image as a backup: full, or incremental against an earlier manifest.

Order of stores: key envelope, packs, index segments (each after the packs it names), manifest last. Nothing that is
stored refers to something that is not stored yet, so a session that ends anywhere leaves the earlier backups as they
were and the new one either absent or complete. What a cut session stored can be taken over by the next one.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.assembly import ManifestAssembler
from engine.backup import (
    DEFAULT_BLOCK_SIZE,
    BackupBase,
    BlockSource,
    ProgressReport,
    WriteContext,
    WriteProgress,
    WriteResult,
    WriteStats,
)
from engine.blockmap import SegmentWriter
from engine.blocks import BlockWorker
from engine.codec import SALT_SIZE
from engine.compression import Compressor
from engine.crypto import generate_session_keys
from engine.distrust import BaseDamagedError, BaseMap, is_damage
from engine.errors import BaseMismatchError, EngineError, FormatError
from engine.hashing import sha256_hex
from engine.imagepass import ImagePass
from engine.index import MapEntry, check_geometry
from engine.manifest import KNOWN_FEATURES, ManifestBody, ManifestInfo, build_manifest, manifest_ref
from engine.pack import DEFAULT_CONTAINER_SIZE
from engine.packing import PackWriter
from engine.patience import PatientObjects, PatientSource
from engine.repository import MapReader, open_manifest
from engine.resume import PackTables, ResumableSession
from engine.scan import Extent
from engine.sealing import block_sealer
from engine.store.base import ObjectRef, ObjectSink, ObjectSource
from engine.throttle import Throttle
from engine.upload import Uploader
from engine.waiting import Background, Cancel, never_cancel
from engine.window import ResumedBlocks

__all__ = [
    "DEFAULT_BLOCK_SIZE",
    "BackupBase",
    "BlockSource",
    "Extent",
    "ResumableSession",
    "WriteContext",
    "WriteProgress",
    "WriteResult",
    "WriteStats",
    "write_disk_backup",
]

_SEALING_THREADS = 2
_TABLE_THREADS = 4


def write_disk_backup(
    *,
    source: BlockSource,
    sink: ObjectSink,
    base: BackupBase | None,
    context: WriteContext,
    progress: ProgressReport | None = None,
    cancel: Cancel = never_cancel,
    resume: Sequence[ResumableSession] = (),
    resume_source: ObjectSource | None = None,
) -> WriteResult:
    """Write one backup and return what was stored; the manifest is the last object.

    `resume` names what earlier attempts stored, oldest first; it is read through `resume_source`.
    An error of the source passes through unchanged; trouble of the store is a StoreError. BaseMismatchError means that
    the base cannot be used and a full backup (base=None) is needed; nothing was stored then, and the source not read.
    """
    check_geometry(size_bytes=source.size_bytes, block_size=context.block_size, fan_out=context.fan_out)
    if set(context.required_features) - KNOWN_FEATURES:
        raise FormatError("a required feature is unknown to this writer")
    if context.created_at.tzinfo is None:
        raise FormatError("created_at must carry a time zone")
    with (
        Background(name="read", cancel=cancel) as reading,
        Background(name="table", cancel=cancel, threads=_TABLE_THREADS) as tables,
        Background(name="seal", cancel=cancel, threads=_SEALING_THREADS) as sealing,
        _uploader(sink, context, cancel) as uploader,
    ):
        patient_base = _Base(base, context, tables) if base is not None else None
        run = _DiskSession(
            source=PatientSource(source, reading),
            base=patient_base,
            context=context,
            uploader=uploader,
            sealing=sealing,
            resumed=_resumed(resume, resume_source, source.size_bytes, context, tables),
            progress=progress,
            cancel=cancel,
        )
        return run.write()


def _uploader(sink: ObjectSink, context: WriteContext, cancel: Cancel) -> Uploader:
    throttle = None
    if context.bandwidth_bytes_per_second is not None:
        throttle = Throttle(
            bytes_per_second=context.bandwidth_bytes_per_second,
            clock=context.clock,
            sleep=context.sleep,
            cancel=cancel,
        )
    return Uploader(sink=sink, tenant=context.tenant, domain=context.domain, cancel=cancel, throttle=throttle)


def _resumed(
    sessions: Sequence[ResumableSession],
    object_source: ObjectSource | None,
    size_bytes: int,
    context: WriteContext,
    background: Background,
) -> ResumedBlocks | None:
    if not sessions:
        return None
    if object_source is None:
        raise EngineError("a resume needs a source of objects", code="internal")
    # Readers refuse a block whose length does not follow from its place.
    lengths = {context.block_size, size_bytes % context.block_size}
    tables = PackTables(
        sessions=sessions,
        object_source=object_source,
        context=context,
        background=background,
        accepts=lambda length: length > 0 and length in lengths,
    )
    return ResumedBlocks(tables)


class _Base:
    """The verified manifest of the base, and maps over it."""

    def __init__(self, base: BackupBase, context: WriteContext, background: Background) -> None:
        self._context = context
        self._object_source = PatientObjects(base.object_source, background)
        self.sha256 = base.manifest_ref.sha256
        self.info = self._open(base)

    def map(self, *, tolerant: bool) -> BaseMap:
        reader = MapReader(
            manifest=self.info,
            object_source=self._object_source,
            map_key=self._context.domain_keys.map_key,
        )
        return BaseMap(
            reader,
            distrusted_packs=self._context.distrusted_packs,
            distrusted_segments=self._context.distrusted_segments,
            tolerant=tolerant,
        )

    def _open(self, base: BackupBase) -> ManifestInfo:
        try:
            info = open_manifest(
                manifest_ref=base.manifest_ref,
                object_source=self._object_source,
                trusted_writers={self._context.writer_key.public, *base.trusted_writers},
                map_key=self._context.domain_keys.map_key,
            )
        except EngineError as error:
            if not is_damage(error):
                raise
            raise BaseMismatchError(f"the base cannot be read: {error.message}", code="base_unreadable") from error
        self._check(info.body)
        return info

    def _check(self, body: ManifestBody) -> None:
        context = self._context
        if (body.tenant, body.domain, body.source_id) != (context.tenant, context.domain, context.source_id):
            raise BaseMismatchError("the base belongs to another source")
        if (body.block_size, body.fan_out) != (context.block_size, context.fan_out):
            raise BaseMismatchError("the base has another block size or fan-out")
        if body.sequence >= context.sequence:
            raise BaseMismatchError("the base is not older than the new backup")


class _DiskSession:
    """One data key, one line of packs; usually one pass over the image, two when the base turns out to be damaged."""

    def __init__(
        self,
        *,
        source: PatientSource,
        base: _Base | None,
        context: WriteContext,
        uploader: Uploader,
        sealing: Background,
        resumed: ResumedBlocks | None,
        progress: ProgressReport | None,
        cancel: Cancel,
    ) -> None:
        self._source = source
        self._base = base
        self._context = context
        self._uploader = uploader
        self._sealing = sealing
        self._resumed = resumed
        self._progress = progress
        self._cancel = cancel
        self._keys = generate_session_keys(context.random_bytes)
        self._compressor = Compressor(context.compression_level)
        self._packs = PackWriter(
            context=context, keys=self._keys, uploader=uploader, compressor=self._compressor, resumed=resumed
        )
        sealer = block_sealer(
            tenant=context.tenant,
            domain=context.domain,
            id_key=context.domain_keys.id_key,
            data_key=self._keys.data_key,
        )
        self._worker = BlockWorker(
            sealer=sealer,
            compressor=self._compressor,
            block_size=context.block_size,
            stored_ids=self._packs.known_ids,
        )

    def write(self) -> WriteResult:
        try:
            image = self._pass(tolerant=False)
            root = image.run()
        except BaseDamagedError:
            image = self._pass(tolerant=True)
            root = image.run()
        self._uploader.drain()
        self._source.check_unchanged()
        return self._commit(image, root)

    def _pass(self, *, tolerant: bool) -> ImagePass:
        return ImagePass(
            context=self._context,
            source=self._source,
            base=self._base.map(tolerant=tolerant) if self._base is not None else None,
            packs=self._packs,
            segments=self._segments(),
            worker=self._worker,
            sealing=self._sealing,
            report=self._report,
            cancel=self._cancel,
        )

    def _segments(self) -> SegmentWriter:
        return SegmentWriter(
            tenant=self._context.tenant,
            domain=self._context.domain,
            map_key=self._context.domain_keys.map_key,
            session_id=self._keys.session_id,
            target_size=DEFAULT_CONTAINER_SIZE,
            random_bytes=self._context.random_bytes,
            compressor=self._compressor,
            uploader=self._uploader,
        )

    def _commit(self, image: ImagePass, root: MapEntry | None) -> WriteResult:
        assembler = ManifestAssembler(
            context=self._context,
            keys=self._keys,
            base=self._base.info.body if self._base is not None else None,
            census=image.census,
            uploader=self._uploader,
            resumed_packs=self._resumed.packs if self._resumed is not None else None,
            resumed_sessions=self._resumed.sessions if self._resumed is not None else None,
        )
        previous = self._base.sha256 if self._base is not None else self._context.previous_sha256
        body = assembler.body(
            previous_sha256=bytes.fromhex(previous) if previous is not None else None,
            size_bytes=self._source.size_bytes,
            stats=image.stats,
        )
        manifest = self._store_manifest(body, root)
        image.stats.stored_bytes = self._uploader.stored_bytes
        self._report(image.stats)
        return self._result(body, manifest, image.stats)

    def _store_manifest(self, body: ManifestBody, root: MapEntry | None) -> ObjectRef:
        data = build_manifest(
            body,
            root=root,
            source_facts=dict(self._context.source_facts),
            map_key=self._context.domain_keys.map_key,
            writer_key=self._context.writer_key,
            salt=self._context.random_bytes(SALT_SIZE),
            compressor=self._compressor,
        )
        sha256 = sha256_hex(data)
        key = manifest_ref(body, sha256=sha256, size_bytes=len(data), version_id=None).key
        return self._uploader.put_now(key, data, sha256=sha256)

    def _result(self, body: ManifestBody, manifest: ObjectRef, stats: WriteStats) -> WriteResult:
        """A pack of a pass that was given up may be stored and yet not needed; then it is in no list."""
        needed = {ref.key: ref for ref in body.needed_refs()}
        stored = {ref.key for ref in self._uploader.stored.values()}
        earlier = {ref.key for ref in self._base.info.body.needed_refs()} if self._base is not None else set()
        new = tuple(ref for ref in self._uploader.stored.values() if ref.key in needed)
        reused = tuple(ref for key, ref in needed.items() if key in earlier and key not in stored)
        resumed = tuple(ref for key, ref in needed.items() if key not in earlier and key not in stored)
        return WriteResult(manifest, new, reused, self._keys.session_id, stats, resumed, tuple(body.sessions))

    def _report(self, stats: WriteStats) -> None:
        if self._progress is not None:
            self._progress(WriteProgress(stats.scanned_bytes, stats.read_bytes, self._uploader.stored_bytes))
