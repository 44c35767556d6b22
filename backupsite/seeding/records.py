"""What is told of the made-up fleet: the audit with its chain, requests for approval, webhooks and what they sent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Any

from backupsite.seeding.places import Places
from backupsite.seeding.shape import Shape, id_at
from backupsite.seeding.writing import Table
from tenants.audit_chain import GENESIS, hash_of
from tenants.models import (
    ApprovalRequest,
    ApprovalRule,
    AuditEvent,
    AuditHead,
    NoticeEvent,
    OutboxMessage,
    Person,
    Subscription,
    Webhook,
)

# One record and one message for so many backups.
BACKUPS_PER_RECORD = 5
BACKUPS_PER_MESSAGE = 10
_ACTIONS = ("definition.change", "backup.remove", "job.cancel", "person.sign_in")


def write_records(shape: Shape, random: Random, places: Places) -> None:
    _write_audit(shape, random, places)
    _write_approvals(shape, random, places)
    _write_notices(shape, random, places)


def _any_tenant(random: Random, places: Places) -> int:
    """As often as it has servers."""
    return random.choice(places.servers).tenant


def _write_audit(shape: Shape, random: Random, places: Places) -> None:
    count = max(1, shape.backups // BACKUPS_PER_RECORD)
    span = timedelta(days=shape.days) / count
    previous = GENESIS

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal previous
        for number in range(1, count + 1):
            at = shape.at - timedelta(days=shape.days) + span * number
            server = random.choice(places.servers)
            content = {
                "id": id_at(at, random),
                "at": at,
                "tenant_id": places.tenants[server.tenant],
                "tenant_name": places.names[server.tenant],
                "actor_kind": "person",
                "actor_name": f"admin-{server.tenant:05}-1",
                "action": random.choice(_ACTIONS),
                "subject_type": "server",
                "subject_id": str(server.id),
                "subject_name": server.name,
                "before": {"active": True},
                "after": {"active": False},
                "outcome": "refused" if number % 50 == 0 else "done",
            }
            own = hash_of(AuditEvent(**content), sequence=number, previous_hash=previous)
            yield {**content, "sequence": number, "previous_hash": previous, "hash": own}
            previous = own

    Table(AuditEvent, now=shape.at).write(rows())
    AuditHead.objects.update_or_create(pk=1, defaults={"sequence": count, "hash": previous})


def _write_approvals(shape: Shape, random: Random, places: Places) -> None:
    Table(ApprovalRule, now=shape.at).write(
        {"id": id_at(shape.at, random), "tenant_id": tenant, "kind": "retention.shorten", "required": True}
        for number, tenant in enumerate(places.tenants)
        if number % 4 == 0
    )
    Table(ApprovalRequest, now=shape.at).write(_requests(shape, random, places))


def _requests(shape: Shape, random: Random, places: Places) -> Iterator[dict[str, Any]]:
    administrators = dict(Person.objects.filter(username__regex=r"^admin-\d+-1$").values_list("username", "pk"))
    for number in range(shape.tenants * 10):
        tenant, at = _any_tenant(random, places), shape.at - timedelta(minutes=number)
        waits = number < shape.tenants // 4
        yield {
            "id": id_at(at, random),
            "tenant_id": places.tenants[tenant],
            "kind": "retention.shorten",
            "subject_type": "definition",
            "subject_id": str(number),
            "subject_name": "daily",
            "parameters": {"from": 14, "to": 3},
            "parameters_hash": f"{number:064x}",
            "requested_by_id": administrators[f"admin-{tenant:05}-1"],
            "requested_by_name": f"admin-{tenant:05}-1",
            "expires_at": at + timedelta(days=3),
            "status": "pending" if waits else "declined",
            "created_at": at,
        }


def _write_notices(shape: Shape, random: Random, places: Places) -> None:
    webhooks = [id_at(shape.at, random) for _ in places.tenants]
    Table(Webhook, now=shape.at).write(
        {"id": webhook, "tenant_id": tenant, "label": "our monitoring", "url": "https://hook.example.com/in"}
        | {"sealed_secret": "seeded"}
        for webhook, tenant in zip(webhooks, places.tenants, strict=True)
    )
    Table(Subscription, now=shape.at).write(
        {"id": id_at(shape.at, random), "tenant_id": tenant, "address": f"team-{number}@example.org"}
        for number, tenant in enumerate(places.tenants)
    )
    chosen = [
        (id_at(at, random), id_at(at, random), _any_tenant(random, places), at)
        for at in (
            shape.at - timedelta(seconds=30 * number) for number in range(shape.backups // BACKUPS_PER_MESSAGE, 0, -1)
        )
    ]
    Table(NoticeEvent, now=shape.at).write(
        {"id": event, "code": "backup.failed", "severity": 3, "tenant_id": places.tenants[tenant], "at": at}
        | {"subject_model": "backups.Job", "subject_id": str(event), "subject_name": "daily", "created_at": at}
        for event, _, tenant, at in chosen
    )
    Table(OutboxMessage, now=shape.at).write(
        {"id": message, "event_id": event, "kind": "webhook", "webhook_id": webhooks[tenant], "state": "done"}
        | {"next_try_at": at, "give_up_at": at, "finished_at": at, "created_at": at}
        for event, message, tenant, at in chosen
    )
