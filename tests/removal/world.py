"""A whole service over the model store: the real commit, removal, reconciling and reaping, and a writer made small.

The clock is virtual. The oracle asks the model store itself, never the code under test.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from unittest import mock

import msgspec
import time_machine
from django.conf import settings
from django.db import transaction
from django.utils import timezone
from pydantic import SecretStr

from agents.models import WriterKey
from agents.protocol import CommitRequest, ObjectMessage
from backups import committer, opening
from backups.models import Backup, Job, Session
from backups.moved_packs import moved_packs_of, stand_ins
from backups.queue import create_backup_job
from backups.removal import rounds
from backups.removal.repacking import RepackReport, repack_vault
from backups.removal.run import NEEDED_ALARM, remove_unneeded
from backups.states import BackupStatus, JobState
from backups.transitions import claim_job, end_session_job, request_commit
from engine.compression import Compressor
from engine.crypto import DomainKeys, SessionKeys, generate_tenant_key, generate_writer_key, key_commitment
from engine.envelope import seal_envelope
from engine.manifest import ManifestBody, ObjectEntry, SessionEntry, build_manifest, manifest_ref, parse_manifest
from engine.store.base import ObjectKind, object_key
from engine.store.memory import ModelStore, ObjectVersion
from tests import factories
from tests.model_s3 import ModelClient
from vaults import reaper
from vaults.keys import wrap_key
from vaults.models import Alarm, Domain, MovedPack, RemovalRun, StoredObject, TenantKey, Vault
from vaults.provisioner import ID_KEY_PURPOSE, MAP_KEY_PURPOSE, TENANT_KEY_PURPOSE

BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
_COMPRESSOR = Compressor(None)
MASTER_KEY = bytes(range(32))


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class OpenSession:
    """A writer at work: what it has put, what it keeps of its base."""

    session: Session
    keys: SessionKeys
    envelope: StoredObject | None = None
    packs: list[StoredObject] = field(default_factory=list)
    reused: list[ObjectEntry] = field(default_factory=list)
    base_body: ManifestBody | None = None


class World:
    """One vault, one server, one definition. Use inside of `running`."""

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self.writer_key = generate_writer_key()
        self.tenant_key = generate_tenant_key()
        self.domain_keys = DomainKeys(id_key=b"i" * 32, map_key=b"m" * 32)
        self._count = 0
        server = factories.make_server()
        self.vault = factories.make_vault(server.tenant)
        self.domain = self._make_domain()
        server.domain = self.domain
        server.save()
        self.disk = factories.disk_of(server)
        self.definition = factories.make_definition(server)
        WriterKey.objects.create(node=server.node, public_key=self.writer_key.public, added_at=now())
        TenantKey.objects.create(
            tenant=server.tenant,
            public_key=self.tenant_key.public,
            wrapped_private_key=wrap_key(
                master_key=MASTER_KEY,
                key=self.tenant_key.private,
                purpose=TENANT_KEY_PURPOSE,
                owner=server.tenant_id,
            ),
        )
        self._bodies: dict[str, ManifestBody] = {}
        self.open: list[OpenSession] = []
        self.refusals: list[str] = []
        # Set by `running`.
        self.clock_now: Callable[[], datetime] = now
        self.move_clock_to: Callable[[datetime], None] = lambda moment: None
        self.wait: Callable[[timedelta], None] = lambda by: None

    def _make_domain(self) -> Domain:
        domain = Domain(tenant_id=self.vault.tenant_id, vault=self.vault)
        for name, key, purpose in (
            ("wrapped_id_key", self.domain_keys.id_key, ID_KEY_PURPOSE),
            ("wrapped_map_key", self.domain_keys.map_key, MAP_KEY_PURPOSE),
        ):
            setattr(domain, name, wrap_key(master_key=MASTER_KEY, key=key, purpose=purpose, owner=domain.pk))
        domain.save(force_insert=True)
        return domain

    # --- a writer ------------------------------------------------------------------------------------------

    def start_session(self) -> OpenSession | None:
        """Claim a backup job and open it, as gate and mover do. None when the disk is busy."""
        job = create_backup_job(definition=self.definition, now=now(), slot_at=None, requested_by=None)
        claim = claim_job(job_id=job.pk, now=now())
        if claim is None:
            Job.objects.filter(pk=job.pk).delete()
            return None
        session = Session.objects.select_related("job__backup__vault", "job__definition", "job__disk__server").get(
            job=job, fence=1
        )
        opening._settle(session, Vault.objects.select_related("endpoint").get(pk=self.vault.pk))
        self._count += 1
        keys = SessionKeys(session_id=session.pk.bytes, data_key=self._count.to_bytes(32, "big"))
        found = OpenSession(session, keys)
        if session.base is not None:
            found.base_body = self.body_of(session.base)
            distrusted = set(opening._distrusted(session.base))
            found.reused = [entry for entry in found.base_body.packs if entry.sha256.hex() not in distrusted]
        self.open.append(found)
        return found

    def forget_reused(self, writer: OpenSession, number: int) -> None:
        """The block changed: its pack is not needed by the new backup."""
        if writer.reused:
            del writer.reused[number % len(writer.reused)]

    def put_pack(self, writer: OpenSession) -> None:
        if writer.envelope is None:
            writer.envelope = self._put(writer, ObjectKind.KEY, self._envelope(writer.keys))
        self._count += 1
        writer.packs.append(self._put(writer, ObjectKind.PACK, b"pack %d" % self._count))

    def commit(
        self, writer: OpenSession, *, change: Callable[[CommitRequest], CommitRequest] = lambda request: request
    ) -> Job:
        """Manifest, commit request (as `change` leaves it), commit; the session is over afterwards."""
        if not writer.packs and not writer.reused:
            self.put_pack(writer)
        manifest, body = self._put_manifest(writer)
        own = [row for row in (writer.envelope, *writer.packs, manifest) if row is not None]
        own_keys = {row.key for row in own}
        reused = [ref for ref in body.needed_refs() if ref.key not in own_keys]
        request = CommitRequest(
            manifest=_message(manifest),
            new_objects=[_message(row) for row in own],
            reused_objects=[ObjectMessage(ref.key, ref.sha256, ref.size_bytes, ref.version_id) for ref in reused],
            read_bytes=1,
            changed_bytes=1,
            stored_bytes=1,
        )
        self.open.remove(writer)
        job = writer.session.job
        if request_commit(writer.session, request=msgspec.to_builtins(change(request)), now=now()):
            committer.commit_session(session_id=str(writer.session.pk))
        job.refresh_from_db()
        if job.state == JobState.FAILED:
            self.refusals.append(f"{job.code}: {job.message}")
        return job

    def keep_lease(self) -> None:
        """What heartbeats do while time passes."""
        ids = [writer.session.job_id for writer in self.open]
        Job.objects.filter(pk__in=ids).update(lease_until=now() + timedelta(seconds=20))

    def fail(self, writer: OpenSession) -> None:
        self.open.remove(writer)
        end_session_job(writer.session, state=JobState.FAILED, code="crashed", message="", now=now())

    def _put(self, writer: OpenSession, kind: ObjectKind, data: bytes, key: str = "") -> StoredObject:
        """Grant (the ledger's row first), then the PUT with its lock."""
        sha256 = hashlib.sha256(data).hexdigest()
        tenant, domain = str(self.vault.tenant_id), str(self.domain.pk)
        key = key or object_key(tenant=tenant, domain=domain, kind=kind, sha256=sha256)
        row = StoredObject.objects.create(
            vault=self.vault,
            domain=self.domain,
            session_id=writer.session.pk,
            kind=str(kind),
            key=key,
            size_bytes=len(data),
            sha256=sha256,
            md5_base64=base64.b64encode(hashlib.md5(data).digest()).decode(),
            retain_until=writer.session.retain_until,
            granted_at=now(),
        )
        version = self.store.put_object(
            key=f"{self.vault.bucket}/{key}",
            data=data,
            sha256=sha256,
            retain_until=row.retain_until,
            if_none_match=True,
        )
        row.version_id = version.version_id  # not saved: only the writer saw it so far
        return row

    def _envelope(self, keys: SessionKeys) -> bytes:
        return seal_envelope(
            session=keys,
            domain_keys=self.domain_keys,
            tenant=str(self.vault.tenant_id),
            domain=str(self.domain.pk),
            tenant_public_key=self.tenant_key.public,
        )

    def _put_manifest(self, writer: OpenSession) -> tuple[StoredObject, ManifestBody]:
        sessions = list(writer.base_body.sessions) if writer.base_body is not None else []
        if writer.envelope is not None:
            envelope = _entry(writer.envelope)
            commitment = key_commitment(writer.keys.data_key)
            sessions.append(SessionEntry(writer.keys.session_id, commitment, envelope, 1))
        body = ManifestBody(
            format_version=1,
            required_features=["fixed-blocks"],
            content="disk",
            tenant=str(self.vault.tenant_id),
            domain=str(self.domain.pk),
            source_id=str(self.disk.pk),
            sequence=writer.session.sequence or 1,
            previous_sha256=None,
            created_at=now().isoformat(),
            size_bytes=4096,
            block_size=4096,
            fan_out=2,
            counters={},
            sessions=sessions,
            packs=[*writer.reused, *(_entry(row) for row in writer.packs)],
            segments=[],
        )
        data = build_manifest(
            body,
            root=None,
            source_facts={"server": "server", "disk": "1", "backup": writer.session.job.backup_name},
            map_key=self.domain_keys.map_key,
            writer_key=self.writer_key,
            salt=self._count.to_bytes(16, "big"),
            compressor=_COMPRESSOR,
        )
        ref = manifest_ref(body, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), version_id=None)
        return self._put(writer, ObjectKind.MANIFEST, data, key=ref.key), body

    # --- the service -----------------------------------------------------------------------------------------

    def remove_backup(self, number: int) -> None:
        rows = list(Backup.objects.in_catalogue().filter(status=BackupStatus.OK).order_by("sequence"))
        if rows:
            Backup.objects.filter(pk=rows[number % len(rows)].pk).update(removed_at=now())

    def run_removal(self) -> RemovalRun | None:
        return remove_unneeded(vault_id=str(self.vault.pk), now=now())

    def remove_what_is_due(self) -> None:
        """Runs and reaping in turns: a manifest goes a run before what it names. After a run that found nothing to do
        another one at the same time finds nothing either."""
        for _ in range(3):
            run = self.run_removal()
            self.reap()
            if run is not None and run.outcome == "ok" and not (run.condemned_objects or run.deleting_objects):
                return

    def reconcile(self) -> None:
        rounds.reconcile_everywhere(now=now())

    def repack(self) -> RepackReport | None:
        return repack_vault(vault_id=str(self.vault.pk), now=now())

    def reap(self) -> int:
        return reaper.reap(now=now())

    def settle(self) -> None:
        """End what is open and let a service without trouble run for months: what nobody needs must be gone then."""
        for writer in list(self.open):
            self.fail(writer)

    # --- the oracle --------------------------------------------------------------------------------------------

    def body_of(self, backup: Backup) -> ManifestBody:
        """The backup's manifest as the writer made it: it never changes, so it is read once."""
        manifest = backup.manifest
        assert manifest is not None
        if manifest.key not in self._bodies:
            data = self._version_of(manifest.key, manifest.version_id).data
            self._bodies[manifest.key] = parse_manifest(data, trusted_writers=[self.writer_key.public]).body
        return self._bodies[manifest.key]

    def _version_of(self, key: str, version_id: str | None) -> ObjectVersion:
        versions = self.store._versions.get(f"{self.vault.bucket}/{key}", [])
        # A writer that goes on with an earlier attempt does not know the versions that the store gave it.
        found = next((version for version in versions if version_id in (None, version.version_id)), None)
        assert found is not None, f"{key} of a good backup is gone from the vault"
        return found

    def check(self) -> None:
        """Every good backup is whole in the store, and locked as long as it was promised."""
        with_moves = set(MovedPack.objects.values_list("manifest_id", flat=True))
        for backup in Backup.objects.in_catalogue().exclude(manifest=None).select_related("manifest"):
            self.check_whole(backup, has_moves=backup.manifest_id in with_moves)
        assert not self.refusals, self.refusals
        assert not Alarm.objects.filter(code=NEEDED_ALARM).exists(), "a needed object was condemned"

    def check_whole(self, backup: Backup, *, has_moves: bool = True) -> None:
        """Without `has_moves` the ledger is not asked for moves: there is none."""
        assert backup.manifest is not None and backup.immutable_until is not None
        for key, sha256, version_id in self._needs_of(backup, has_moves=has_moves):
            version = self._version_of(key, version_id)
            assert version.sha256 == sha256
            assert version.retain_until is not None
            assert version.retain_until >= backup.immutable_until, f"{key} is locked for less than was promised"

    def _needs_of(self, backup: Backup, *, has_moves: bool = True) -> list[tuple[str, str, str | None]]:
        """Key, hash and version of what the manifest names and, of packs that were moved for it, of what stands in."""
        moved = list(moved_packs_of(backup.manifest)) if has_moves else []
        moved_keys = {row.key for row in moved}
        refs = [ref for ref in self.body_of(backup).needed_refs() if ref.key not in moved_keys]
        rows = [backup.manifest, *stand_ins(backup.manifest, moved)]
        assert not moved or len(rows) > 2, "packs were moved to nowhere"
        return [(ref.key, ref.sha256, ref.version_id) for ref in refs] + [
            (row.key, row.sha256, row.version_id) for row in rows
        ]

    def keys_in_store(self) -> set[str]:
        return {key for key, versions in self.store._versions.items() if versions}

    def keys_needed(self) -> set[str]:
        needed = set()
        for backup in Backup.objects.in_catalogue().exclude(manifest=None).select_related("manifest"):
            needed |= {key for key, _, _ in self._needs_of(backup)}
        relocations = StoredObject.objects.filter(kind="r", key__in=needed)
        needed |= set(StoredObject.objects.filter(used_by__manifest__in=relocations).values_list("key", flat=True))
        return {f"{self.vault.bucket}/{key}" for key in needed}


def _entry(row: StoredObject) -> ObjectEntry:
    return ObjectEntry(bytes.fromhex(row.sha256), row.size_bytes, row.version_id, 1)


def _message(row: StoredObject) -> ObjectMessage:
    return ObjectMessage(key=row.key, sha256=row.sha256, size_bytes=row.size_bytes, version_id=row.version_id)


@contextmanager
def running(store: ModelStore | None = None) -> Iterator[tuple[World, time_machine.Coordinates]]:
    """A world in a transaction that is rolled back, at a virtual time."""
    with time_machine.travel(BEGIN, tick=False) as clock, transaction.atomic():
        chosen = store or ModelStore(now=now)
        client = ModelClient(chosen, now=now)
        config = settings.CONFIG.model_copy(update={"master_key": SecretStr(base64.b64encode(MASTER_KEY).decode())})
        with (
            mock.patch("vaults.storage.client_for", lambda *_: client),
            mock.patch("backups.queue._send"),
            # On PostgreSQL the database's own clock knows nothing of the virtual time.
            mock.patch("backups.removal.run.database_now", now),
            mock.patch.object(settings, "CONFIG", config),
        ):
            world = World(chosen)
            world.clock_now, world.move_clock_to = now, clock.move_to
            yield world, clock
        transaction.set_rollback(True)


@contextmanager
def committed_world() -> Iterator[World]:
    """The same with real transactions, for threads with connections of their own; the clock is the machine's."""
    store = ModelStore(now=now)
    client = ModelClient(store, now=now)
    config = settings.CONFIG.model_copy(update={"master_key": SecretStr(base64.b64encode(MASTER_KEY).decode())})
    with (
        mock.patch("vaults.storage.client_for", lambda *_: client),
        mock.patch("backups.queue._send"),
        mock.patch.object(settings, "CONFIG", config),
    ):
        yield World(store)


def advance(clock: time_machine.Coordinates, world: World, by: timedelta) -> None:
    clock.shift(by)
    world.keep_lease()
    assert timezone.now() == now()
