"""Writing the audit: `record` is called by services, inside the transaction of the write that it tells of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any

from django.db import models, transaction
from django.utils import timezone

from tenants.audit_chain import seal_quietly
from tenants.models.audit import AuditEvent
from tenants.models.core import Person, Tenant
from tenants.origin import PERSON, Origin, current_origin
from tenants.querysets import ScopedQuerySet

LONGEST_TEXT = 1000
MOST_ITEMS = 200
HIDDEN = "[hidden]"
# A guard behind the rule that callers give no secrets: a field with such a name is never written.
_SECRET_NAMES = ("secret", "password", "private", "recovery_key", "token_hash", "wrapped", "totp", "api_key", "answer")
_LARGEST_NUMBER = 1 << 53


def record(
    *,
    action: str,
    subject: models.Model | None = None,
    actor: Person | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    outcome: str = AuditEvent.Outcome.DONE,
    tenant: Tenant | None = None,
) -> AuditEvent:
    """Write what was done. The tenant is the subject's unless given; who and where come from the origin.

    `actor` says who it was where the origin does not know him (a service called by another process in his name).
    The row joins the transaction that is open: what is rolled back was not done. The chain is continued after it.
    """
    tenant = tenant or tenant_of(subject)
    event = _unsaved(
        action=action, subject=subject, tenant=tenant, actor=actor, before=before, after=after, outcome=outcome
    )
    event.save()
    transaction.on_commit(seal_quietly, robust=True)
    return event


def record_many(*, action: str, told: Iterable[tuple[models.Model, Mapping[str, Any]]]) -> None:
    """As `record` for many subjects at once, in one statement: each with what is told of it as `after`."""
    events = [_unsaved(action=action, subject=row, tenant=tenant_of(row), after=after) for row, after in told]
    AuditEvent.objects.bulk_create(events)
    transaction.on_commit(seal_quietly, robust=True)


def _unsaved(
    *,
    action: str,
    subject: models.Model | None,
    tenant: Tenant | None,
    actor: Person | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    outcome: str = AuditEvent.Outcome.DONE,
) -> AuditEvent:
    who = _with_actor(current_origin(), actor)
    return AuditEvent(
        at=timezone.now(),
        tenant=tenant,
        tenant_name=tenant.name if tenant is not None else "",
        action=action,
        subject_type=subject._meta.model_name or "" if subject is not None else "",
        subject_id=str(subject.pk) if subject is not None else "",
        subject_name=_text(str(subject))[:200] if subject is not None else "",
        before=cleaned(before) if before is not None else None,
        after=cleaned(after) if after is not None else None,
        outcome=outcome,
        **{name: _text(getattr(who, name))[:limit] for name, limit in _ORIGIN_LIMITS.items()},
    )


_ORIGIN_LIMITS = {
    "actor_kind": 12,
    "actor_id": 64,
    "actor_name": 200,
    "address": 45,
    "token_id": 64,
    "request_id": 64,
}


def record_change(
    *,
    action: str,
    subject: models.Model,
    before: Mapping[str, Any],
    actor: Person | None = None,
    tenant: Tenant | None = None,
) -> AuditEvent | None:
    """Write the fields of `before` (made by `fields_of`) that are different now. None when none is."""
    after = fields_of(subject, before)
    changed = {name for name in before if before[name] != after[name]}
    if not changed:
        return None
    return record(
        action=action,
        subject=subject,
        actor=actor,
        before={name: before[name] for name in changed},
        after={name: after[name] for name in changed},
        tenant=tenant,
    )


def fields_of(instance: models.Model, names: Iterable[str]) -> dict[str, Any]:
    """The values of the named columns, for `before`; relations as their keys."""
    return {name: getattr(instance, instance._meta.get_field(name).attname) for name in names}


def tenant_of(subject: models.Model | None) -> Tenant | None:
    """The tenant that the object belongs to, by the path that its queryset names; None when it has no one tenant."""
    if subject is None or isinstance(subject, Tenant):
        return subject
    rows = subject._meta.model._default_manager.all()
    path = rows.tenant_path if isinstance(rows, ScopedQuerySet) and not rows.many_tenants else "tenant"
    found: Any = subject
    for name in (path or "tenant").split("__"):
        found = getattr(found, name, None)
    return found if isinstance(found, Tenant) else None


def _with_actor(origin: Origin, actor: Person | None) -> Origin:
    if actor is None or origin.actor_id == str(actor.pk):
        return origin
    return Origin(
        getattr(actor, "actor_kind", PERSON),
        str(actor.pk),
        str(actor),
        address=origin.address,
        token_id=origin.token_id,
        request_id=origin.request_id,
    )


def cleaned(value: Any, *, depth: int = 0) -> Any:
    """As it is kept: only what both databases give back as it was, no overlong texts, no field named like a secret."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        items = list(value.items())[:MOST_ITEMS] if depth < 6 else []
        return {
            _text(str(name)): HIDDEN if _is_secret(str(name)) else cleaned(item, depth=depth + 1)
            for name, item in items
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else list(value)
        return [cleaned(item, depth=depth + 1) for item in (items[:MOST_ITEMS] if depth < 6 else [])]
    if isinstance(value, int):
        return int(value) if abs(value) < _LARGEST_NUMBER else str(int(value))
    if isinstance(value, float):
        return (
            int(value) if math.isfinite(value) and value.is_integer() and abs(value) < _LARGEST_NUMBER else str(value)
        )
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, models.Model):
        return str(value.pk)
    if isinstance(value, (bytes, memoryview)):
        return f"[{len(value)} bytes]"
    return _text(str(value))[:LONGEST_TEXT]


def _is_secret(name: str) -> bool:
    lowered = name.lower()
    return any(part in lowered for part in _SECRET_NAMES)


def _text(text: str) -> str:
    """Without what PostgreSQL cannot store or JSON cannot say."""
    return text.encode("utf-8", errors="replace").decode().replace("\0", "\ufffd")
