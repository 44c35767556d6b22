"""The engine's own writer and restore in the small world: sessions with grants, kills, takeovers and resumes."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec
from django.db.models import Q

from agents.models import Disk
from agents.program.healing import HealedBlocks
from agents.protocol import CommitRequest, ObjectMessage
from backups import committer, opening
from backups.models import Backup, Job, Session
from backups.moves import moves_for
from backups.queue import create_backup_job
from backups.resuming import resumable_sessions
from backups.states import JobState
from backups.transitions import claim_job, end_session_job, request_commit
from definitions.models import Definition
from engine.envelope import unwrap_envelope
from engine.errors import StoreError
from engine.relocations import Relocations, parse_relocations
from engine.restore import RestoreKeys, restore_disk
from engine.store.base import Buffer, ObjectRef
from engine.store.memory import ModelStore
from engine.writer import BackupBase, ResumableSession, WriteContext, WriteResult, write_disk_backup
from tests.engine.support import ImageSource, ImageTarget
from tests.removal.world import World, now
from vaults.models import StoredObject, Vault

BLOCK = 512
IMAGE_BLOCKS = 64
PACK = 2048


class KilledError(BaseException):
    """The process is gone: no handler of the code under test may run on with it."""


class KillableStore(ModelStore):
    """A model store that can also end the process at an operation: before it, or when it has happened."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.kill_at: int | None = None
        self.kill_after = False

    def begin(self, name: str, key: str):
        if self.operation_count == self.kill_at and not self.kill_after:
            self.kill_at = None
            raise KilledError
        return super().begin(name, key)

    def end(self) -> None:
        super().end()
        if self.kill_after and self.kill_at is not None and self.operation_count > self.kill_at:
            self.kill_at = None
            raise KilledError

    def snapshot(self) -> dict[str, list]:
        return {key: list(versions) for key, versions in self._versions.items()}

    def bring_back(self, snapshot: dict[str, list]) -> None:
        self._versions = {key: list(versions) for key, versions in snapshot.items()}
        self.faults, self.kill_at = {}, None


@dataclass
class Mover:
    """Runs sessions of one world as a node does. `image` is the disk."""

    world: World
    image: bytearray
    sent: list[str] = field(default_factory=list)
    # Of a disk of its own; None: the world's.
    definition: Definition | None = None

    @property
    def _disk(self) -> Disk:
        return self.definition.disk if self.definition is not None else self.world.disk

    def back_up(self) -> Backup:
        """One backup, whatever it takes: a killed worker is replaced, a failed job is asked for again."""
        job = self._new_job()
        for _ in range(6):
            try:
                self._attempt(job)
            except (KilledError, StoreError):
                job.refresh_from_db()
            else:
                job.refresh_from_db()
                if job.state == JobState.OK:
                    return job.backup
            if job.state == JobState.FAILED:
                job = self._new_job()
            self.world.wait(timedelta(seconds=30))
        raise AssertionError(f"no backup came of it: {job.state} {job.message}")

    def _new_job(self) -> Job:
        definition = self.definition or self.world.definition
        return create_backup_job(definition=definition, now=now(), slot_at=None, requested_by=None)

    def _attempt(self, job: Job) -> None:
        job.refresh_from_db()
        waiting = Session.objects.filter(job=job, fence=job.fence, commit_requested_at__isnull=False).first()
        if waiting is not None:
            # The writer is done; the sweep asks the committer again.
            committer.commit_session(session_id=str(waiting.pk))
            return
        claim = claim_job(job_id=job.pk, now=now())
        assert claim is not None, "the job cannot be had although its worker is gone"
        related = ("job__backup__vault", "job__definition", "job__disk__server__domain", "base__manifest")
        session = Session.objects.select_related(*related).get(job=job, fence=job.fence + 1)
        opening._settle(session, Vault.objects.select_related("endpoint").get(pk=self.world.vault.pk))
        sink = _GrantingSink(self.world, session)
        try:
            result = self._write(session, sink)
        except StoreError as error:
            sink.flush()
            end_session_job(session, state=JobState.FAILED, code=error.code, message=error.message, now=now())
            raise
        finally:
            sink.flush()
            self.sent += sink.sent
        request = _commit_request(result)
        assert request_commit(session, request=msgspec.to_builtins(request), now=now())
        committer.commit_session(session_id=str(session.pk))

    def _write(self, session: Session, sink: _GrantingSink) -> WriteResult:
        world = self.world
        base = None
        reader = _Reader(world)
        if session.base is not None:
            base = BackupBase(manifest_ref=_ref(session.base.manifest), object_source=reader)
        counter = iter(range(1 << 30))
        seed = session.pk.bytes

        def random_bytes(size: int) -> bytes:
            return hashlib.shake_128(seed + next(counter).to_bytes(8, "big")).digest(size)

        healed = HealedBlocks()
        disk = self._disk
        context = WriteContext(
            tenant=str(world.vault.tenant_id),
            domain=str(world.domain.pk),
            source_id=str(disk.pk),
            sequence=session.sequence or 1,
            created_at=now(),
            domain_keys=world.domain_keys,
            tenant_public_key=world.tenant_key.public,
            writer_key=world.writer_key,
            random_bytes=random_bytes,
            block_size=BLOCK,
            fan_out=16,
            pack_size=PACK,
            compression_level=None,
            distrusted_packs=frozenset(opening._distrusted(session.base)),
            on_moved=healed.add,
        )
        result = self._send(
            sink=sink,
            base=base,
            context=context,
            resume=[
                ResumableSession(_from_message(found.envelope), [_from_message(pack) for pack in found.packs])
                for found in resumable_sessions(session, now())
            ],
            resume_source=reader,
        )
        moved = healed.store(result, context=context, sink=sink)
        return dataclasses.replace(result, new_objects=(*result.new_objects, *moved))

    def restored(self, backup: Backup, *, relocations: list[Relocations] | None = None) -> bytes:
        """What a restore of the backup gives, with keys from its envelopes and those of relocations alone.

        With `relocations` as they were when the restore began, else as they are in the bucket now.
        """
        world = self.world
        leading = Q(used_by__manifest=backup.manifest) | Q(used_by__manifest__in=moves_for(backup.manifest))
        rows = StoredObject.objects.filter(leading, kind="k").distinct()
        data_keys = {}
        for row in rows:
            opened = unwrap_envelope(
                world._version_of(row.key, row.version_id).data,
                tenant_private_key=world.tenant_key.private,
                tenant=str(world.vault.tenant_id),
                domain=str(world.domain.pk),
            )
            data_keys[opened.session.session_id] = opened.session.data_key
        return self._read(
            manifest_ref=_ref(backup.manifest),
            object_source=_Reader(world),
            keys=RestoreKeys(domain=world.domain_keys, data_keys=data_keys),
            trusted_writers=[world.writer_key.public],
            relocations=self.relocations() if relocations is None else relocations,
        )

    def _send(self, **arguments: Any) -> WriteResult:
        return write_disk_backup(source=ImageSource(bytes(self.image)), **arguments)

    def _read(self, **arguments: Any) -> bytes:
        target = ImageTarget(len(self.image))
        restore_disk(target=target, **arguments)
        return bytes(target.data)

    def relocations(self) -> list[Relocations]:
        """All that the bucket has, as a reader finds them who has no database."""
        world = self.world
        return [
            parse_relocations(
                versions[0].data,
                tenant=str(world.vault.tenant_id),
                domain=str(world.domain.pk),
                map_key=world.domain_keys.map_key,
            )
            for key, versions in sorted(world.store._versions.items())
            if "/r/" in key and versions
        ]


class _GrantingSink:
    """Puts as a granted PUT does. Rows are noted before the PUT and written by the test's own thread."""

    def __init__(self, world: World, session: Session) -> None:
        self._world = world
        self._session = session
        self._lock = threading.Lock()
        self._granted: list[StoredObject] = []
        self.sent: list[str] = []

    def put(self, *, key: str, data: Buffer, sha256: str) -> ObjectRef:
        stored, world = bytes(data), self._world
        row = StoredObject(
            vault=world.vault,
            domain=world.domain,
            session_id=self._session.pk,
            kind=key.split("/")[4],
            key=key,
            size_bytes=len(stored),
            sha256=sha256,
            md5_base64=base64.b64encode(hashlib.md5(stored).digest()).decode(),
            retain_until=self._session.retain_until,
            granted_at=now(),
        )
        with self._lock:
            self._granted.append(row)
        version = world.store.put_object(
            key=f"{world.vault.bucket}/{key}",
            data=stored,
            sha256=sha256,
            retain_until=self._session.retain_until,
            if_none_match=True,
        )
        with self._lock:
            self.sent.append(key)
        return ObjectRef(key, sha256, len(stored), version.version_id)

    def flush(self) -> None:
        with self._lock:
            rows, self._granted = self._granted, []
        StoredObject.objects.bulk_create(rows, ignore_conflicts=True)


class _Reader:
    """ObjectSource over the world's bucket."""

    def __init__(self, world: World) -> None:
        self._world = world

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        own = ObjectRef(f"{self._world.vault.bucket}/{ref.key}", ref.sha256, ref.size_bytes, ref.version_id)
        return self._world.store.get(own, offset=offset, length=length)


def _commit_request(result: WriteResult) -> CommitRequest:
    return CommitRequest(
        manifest=_message(result.manifest),
        new_objects=[_message(ref) for ref in (*result.new_objects, result.manifest)],
        reused_objects=[_message(ref) for ref in result.reused_objects],
        resumed_objects=[_message(ref) for ref in result.resumed_objects],
        read_bytes=result.stats.read_bytes,
        changed_bytes=result.stats.changed_bytes,
        stored_bytes=result.stats.stored_bytes,
    )


def _message(ref: ObjectRef) -> ObjectMessage:
    return ObjectMessage(key=ref.key, sha256=ref.sha256, size_bytes=ref.size_bytes, version_id=ref.version_id)


def _from_message(message: ObjectMessage) -> ObjectRef:
    return ObjectRef(message.key, message.sha256, message.size_bytes, message.version_id)


def _ref(row: StoredObject) -> ObjectRef:
    return ObjectRef(row.key, row.sha256, row.size_bytes, row.version_id)
