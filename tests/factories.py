"""Rows for tests, as plain functions. Each makes what it needs around itself; names are unique by counting."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from django.utils import timezone

from agents.models import Agent, Disk, EnrolmentToken, Node, Release, Server, ServerOrder, Storage
from agents.services import grant_server_ownership
from backups.models import AskedRestore, Backup, Budget, Job, JobEvent, StrayCopy
from backups.states import BackupStatus, JobKind, JobState
from common.ids import hash_token
from definitions.models import Definition
from engine.crypto import generate_tenant_key, generate_writer_key
from tenants.approval_states import ApprovalKind
from tenants.models import (
    ApprovalRequest,
    ApprovalRule,
    Invitation,
    NoticeEvent,
    OutboxMessage,
    Person,
    Subscription,
    Tenant,
    Webhook,
)
from tenants.notices.sealing import new_secret, publish_sender_key, seal
from tenants.services import create_tenant, grant_tenant_administration
from tenants.token_limits import Scope
from tenants.tokens import NewToken, create_token
from vaults.models import Affinity, Domain, Endpoint, Region, StoredObject, TenantKey, Vault

GIB = 1024**3
_count = itertools.count(1)


def make_region(code: str = "RBX", *, vault_code: str = "GRA") -> Region:
    """A region with the affinity and the endpoint that its servers' vaults need."""
    region, _ = Region.objects.get_or_create(code=code)
    vault_region, _ = Region.objects.get_or_create(code=vault_code)
    Affinity.objects.get_or_create(region=region, defaults={"vault_region": vault_region})
    Endpoint.objects.get_or_create(region=vault_region, defaults={"url": "http://127.0.0.1:1"})
    return region


def make_tenant(title: str = "") -> Tenant:
    return create_tenant(title=title or f"Tenant {next(_count)}", actor=None)


def make_vault(tenant: Tenant, *, status: str = Vault.Status.READY) -> Vault:
    make_region()
    name = f"backup-vault-{tenant.suffix}"
    endpoint = Endpoint.objects.get(region_id="GRA")
    found, _ = Vault.objects.get_or_create(
        tenant=tenant, endpoint=endpoint, defaults={"name": name, "bucket": name, "status": status}
    )
    return found


def make_tenant_key(tenant: Tenant, **changes: Any) -> TenantKey:
    """A managed key in use, with a public half only: what it is sealed with nobody can open."""
    values = {"public_key": generate_tenant_key().public, "wrapped_private_key": b"x", **changes}
    return TenantKey.objects.create(tenant=tenant, **values)


def make_node(*tenants: Tenant, name: str = "") -> Node:
    node = Node.objects.create(name=name or f"node-{next(_count)}", region=make_region(), status=Node.Status.ONLINE)
    node.tenants.add(*tenants)
    return node


def make_storage(node: Node) -> Storage:
    storage = Storage.objects.create(node=node, name=f"storage-{next(_count)}", path=f"/srv/storage-{next(_count)}")
    storage.tenants.set(node.tenants.all())
    return storage


def make_disk(server: Server, *, size_bytes: int = GIB, storage: Storage | None = None) -> Disk:
    return Disk.objects.create(
        server=server,
        number=server.disks.count() + 1,
        driver="image",
        storage=storage or server.node.storages.first() or make_storage(server.node),
        path=f"disk-{next(_count)}.img",
        size_bytes=size_bytes,
    )


def make_server(tenant: Tenant | None = None, *, name: str = "", size_bytes: int = GIB) -> Server:
    """A server with one disk on a node with a storage, and the tenant's ready vault."""
    tenant = tenant or make_tenant()
    make_vault(tenant)
    node = make_node(tenant)
    name = name or f"server-{next(_count)}"
    server = Server.objects.create(name=name, tenant=tenant, region=make_region(), node=node)
    make_disk(server, size_bytes=size_bytes)
    return server


def disk_of(server: Server) -> Disk:
    return Disk.objects.select_related("server__node", "server__tenant").get(server=server, number=1)


def make_definition(server: Server, **changes: Any) -> Definition:
    values = {
        "name": f"daily{next(_count)}",
        "cron": "0 22 * * *",
        "next_run_at": timezone.now() + timedelta(hours=5),
        **changes,
    }
    return Definition.objects.create(
        tenant=server.tenant, disk=disk_of(server), vault=make_vault(server.tenant), **values
    )


def make_manifest(vault: Vault) -> StoredObject:
    domain = Domain.objects.create(tenant=vault.tenant, vault=vault, wrapped_id_key=b"x", wrapped_map_key=b"x")
    number = next(_count)
    return StoredObject.objects.create(
        vault=vault,
        domain=domain,
        session_id=domain.id,
        kind="m",
        key=f"m/{number}",
        size_bytes=1000,
        sha256=f"{number:064x}",
        md5_base64="",
        status=StoredObject.Status.STORED,
        version_id="1",
        retain_until=timezone.now() + timedelta(days=14),
        granted_at=timezone.now(),
    )


def make_backup(server: Server, *, definition: Definition | None = None, **changes: Any) -> Backup:
    """A good backup of the server's first disk; `status="pending"` has no manifest."""
    disk = disk_of(server)
    vault = make_vault(server.tenant)
    pending = changes.get("status") == BackupStatus.PENDING
    now = timezone.now()
    values: dict[str, Any] = {
        "name": f"daily-{now:%Y%m%d}_{next(_count):06}",
        "status": BackupStatus.OK,
        "manifest": None if pending else make_manifest(vault),
        "size_bytes": disk.size_bytes,
        "read_bytes": None if pending else disk.size_bytes,
        "changed_bytes": None if pending else disk.size_bytes // 4,
        "stored_bytes": None if pending else disk.size_bytes // 8,
        "duration_seconds": None if pending else 75,
        "finished_at": None if pending else now,
        "immutable_until": None if pending else now + timedelta(days=14),
        "frozen": True,
        **changes,
    }
    return Backup.objects.create(
        tenant=server.tenant,
        vault=vault,
        server=server,
        disk=disk,
        definition=definition,
        node=server.node,
        server_name=server.name,
        disk_number=disk.number,
        **values,
    )


def make_job(server: Server, *, kind: str = JobKind.BACKUP, state: str = JobState.PENDING, **changes: Any) -> Job:
    now = timezone.now()
    values: dict[str, Any] = {"backup_name": f"daily-{next(_count)}", **changes}
    if state == JobState.RUNNING:
        running = {"lease_until": now + timedelta(seconds=20), "started_at": now - timedelta(seconds=10), "fence": 1}
        progress = {"phase": "writing", "done_bytes": 256 * 1024**2, "total_bytes": GIB}
        values = {**running, **progress, **values}
    if state in {JobState.OK, JobState.FAILED, JobState.CANCELED}:
        values = {"started_at": now - timedelta(minutes=2), "finished_at": now, **values}
    job = Job.objects.create(
        kind=kind, state=state, tenant=server.tenant, disk=disk_of(server), node=server.node, **values
    )
    JobEvent.objects.create(job=job, at=now, code="requested", message="Asked for by a test.")
    return job


def make_budget(tenant: Tenant, **changes: Any) -> Budget:
    """Far from being reached."""
    return Budget.objects.create(**{"kind": "tenant", "tenant": tenant, "most_jobs": 1000, **changes})


def make_stray_copy(server: Server) -> StrayCopy:
    """A whole copy of the server's disk that no backup knows."""
    disk = disk_of(server)
    name = f"copies-20260101_010101-{next(_count)}"
    facts = {"name": name, "server_name": server.name, "disk": str(disk.pk), "disk_number": "1"}
    manifest = {"format": "backupsite-copy-1", "content": "disk", "compression": "off", "sha256": "0" * 64}
    return StrayCopy.objects.create(
        storage=disk.storage,
        place=f"backups/{server.tenant.name}/x/{name}-1.img",
        file_bytes=disk.size_bytes,
        manifest={**manifest, "size_bytes": disk.size_bytes, "file_bytes": disk.size_bytes, "facts": facts},
        seen_at=timezone.now(),
    )


# The sender's key in tests: both halves are known, so that what is sealed can be opened.
NOTICE_KEY = bytes(range(32))


def make_webhook(tenant: Tenant | None, **changes: Any) -> Webhook:
    """An active webhook with a sealed secret. Nobody listens there."""
    publish_sender_key(NOTICE_KEY)
    webhook = Webhook(
        tenant=tenant, **{"label": f"hook {next(_count)}", "url": "https://hook.example.com/in", **changes}
    )
    webhook.sealed_secret = seal(new_secret(), webhook_id=webhook.pk)
    webhook.save(force_insert=True)
    return webhook


def make_subscription(**values: Any) -> Subscription:
    return Subscription.objects.create(**{"severity": 1, **values})


def make_delivery(webhook: Webhook, *, state: str = OutboxMessage.State.DEAD) -> OutboxMessage:
    """A message to the webhook that was given up."""
    now = timezone.now()
    event = NoticeEvent.objects.create(
        code="backup.failed",
        severity=3,
        tenant=webhook.tenant,
        subject_model="tenants.Webhook",
        subject_id=str(webhook.pk),
        subject_name=webhook.label,
        at=now,
    )
    return OutboxMessage.objects.create(
        event=event, kind=OutboxMessage.Kind.WEBHOOK, webhook=webhook, state=state, next_try_at=now, give_up_at=now
    )


def make_approval_rule(tenant: Tenant, *, required: bool = False) -> ApprovalRule:
    return ApprovalRule.objects.create(tenant=tenant, kind=ApprovalKind.RETENTION_SHORTEN, required=required)


def make_approval_request(definition: Definition, *, by: Person) -> ApprovalRequest:
    return ApprovalRequest.objects.create(
        tenant=definition.tenant,
        kind=ApprovalKind.RETENTION_SHORTEN,
        subject_type="definition",
        subject_id=str(definition.pk),
        subject_name=str(definition),
        parameters={"from": 14, "to": 3},
        parameters_hash="0" * 64,
        requested_by=by,
        requested_by_name=str(by),
        expires_at=timezone.now() + timedelta(days=3),
    )


def make_person(
    name: str = "",
    *,
    superadmin: bool = False,
    administers: list[Tenant] | None = None,
    owns: list[Server] | None = None,
    active: bool = True,
    time_zone: str = "UTC",
    password: str | None = None,
) -> Person:
    person = Person(
        username=name or f"person-{next(_count)}", is_superuser=superadmin, is_active=active, time_zone=time_zone
    )
    person.set_password(password) if password else person.set_unusable_password()
    person.save()
    for tenant in administers or []:
        grant_tenant_administration(person=person, tenant=tenant)
    for server in owns or []:
        grant_server_ownership(person=person, server=server)
    return person


def make_token(person: Person, *, now: datetime | None = None, **wanted: Any) -> str:
    """The text of a token of the person's; with all his rights unless said otherwise."""
    values = {"label": "test", "scope": Scope.ADMIN, "may_restore": True, **wanted}
    _, text = create_token(person=person, wanted=NewToken(**values), now=now or timezone.now())
    return text


def make_agent(server: Server, *, status: str = Agent.Status.ENROLLED) -> tuple[Agent, bytes]:
    """The agent of the server, and the private key that its program would hold."""
    key = generate_writer_key()
    agent = Agent.objects.create(server=server, name=server.name, public_key=key.public, status=status)
    return agent, key.private


def make_enrolment_token(server: Server, **changes: Any) -> EnrolmentToken:
    """An open one that nobody knows the secret of."""
    values = {"secret_hash": f"{next(_count):064x}", "expires_at": timezone.now() + timedelta(minutes=30), **changes}
    return EnrolmentToken.objects.create(server=server, **values)


def make_order(server: Server) -> ServerOrder:
    number = next(_count)
    return ServerOrder.objects.create(key=f"{number}", server=server, email=f"ordered-{number}@example.org")


def make_release(**changes: Any) -> Release:
    number = next(_count)
    values = {"number": number, "version": f"1.{number}", "file": f"agent-{number}.pyz", **changes}
    return Release.objects.create(manifest=b"{}", signature=b"x", **values)


def make_asked_restore(agent: Agent, backup: Backup, **changes: Any) -> AskedRestore:
    values = {"target": "/srv/new", "code": "ABCD-EFGH", "expires_at": timezone.now() + timedelta(hours=1), **changes}
    return AskedRestore.objects.create(agent=agent, backup=backup, **values)


def make_invitation(tenant: Tenant, *, email: str = "", inviter: Person | None = None, **changes: Any) -> Invitation:
    """An open one, to administer the tenant; its link's token is its address."""
    email = email or f"invited-{next(_count)}@example.org"
    values = {"administers": True, "expires_at": timezone.now() + timedelta(days=3), **changes}
    return Invitation.objects.create(
        tenant=tenant, email=email, token_hash=hash_token(email), invited_by=inviter, **values
    )


def a_moment(text: str = "2026-01-15 12:00") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
