"""Verbs over backup definitions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Count

from agents.models import Disk, Server
from common.errors import ConflictError, InvalidInputError
from definitions.models import Definition
from definitions.schedule import check_cron, check_time_zone, next_run
from tenants import approvals, quotas
from tenants.approval_states import ApprovalKind
from tenants.audit import fields_of, record, record_change
from tenants.models import Person, QuotaKind, Tenant
from tenants.services import require_active
from vaults.models import Vault
from vaults.services import endpoint_for

EDITABLE = frozenset(
    {"cron", "time_zone", "retention_count", "immutable_days", "bandwidth_limit", "active", "description"}
)
LONGEST_IMMUTABLE_DAYS = 3650
LEAST_BANDWIDTH = 64 * 1024


@transaction.atomic
def create_definition(
    *,
    disk: Disk,
    name: str,
    cron: str,
    now: datetime,
    time_zone: str = "UTC",
    retention_count: int = 14,
    immutable_days: int | None = None,
    bandwidth_limit: int | None = None,
    active: bool = True,
    description: str = "",
    run_at_once: bool = False,
    actor: Person | None = None,
) -> Definition:
    """Make a definition. With `run_at_once` its first backup is due now instead of at the next time of its schedule.

    Raises TenantSuspendedError, and QuotaError for one too many or for a promise longer than the tenant may give.
    """
    server = disk.server
    require_active(server.tenant)
    quotas.check(tenant=server.tenant, kind=QuotaKind.DEFINITIONS_PER_SERVER, within=server)
    definition = Definition(
        tenant_id=disk.server.tenant_id,
        disk=disk,
        name=name,
        vault=_vault_for(disk),
        cron=check_cron(cron),
        time_zone=check_time_zone(time_zone),
        retention_count=retention_count,
        immutable_days=immutable_days,
        bandwidth_limit=bandwidth_limit,
        active=active,
        description=description,
    )
    check_caps(definition, ["immutable_days", "retention_count"], tenant=server.tenant)
    _plan(definition, now=now, run_at_once=run_at_once)
    if Definition.objects.filter(disk=disk, name=name).exists():
        raise ConflictError(
            f"{disk} has a definition {name!r} already. Choose another name.", code="name_taken", field="name"
        )
    _save(definition)
    told = fields_of(definition, ["disk", "vault", *sorted(EDITABLE)])
    record(action="definition.create", subject=definition, actor=actor, after=told)
    return definition


@transaction.atomic
def update_definition(
    *,
    definition: Definition,
    changes: Mapping[str, Any],
    now: datetime,
    run_at_once: bool = False,
    actor: Person | None = None,
) -> Definition:
    """Change fields of EDITABLE; the next run follows. Name and disk stay for life: backups are named by them.

    Raises ApprovalNeededError when fewer backups or a shorter lock need a second person.
    """
    refused = sorted(set(changes) - EDITABLE)
    if refused:
        raise InvalidInputError(
            f"{', '.join(refused)} cannot be changed after creation.", code="read_only", field=refused[0]
        )
    changed = [field for field, value in changes.items() if getattr(definition, field) != value]
    before, locked_days = fields_of(definition, EDITABLE), _locked_days(definition)
    for field, value in changes.items():
        setattr(definition, field, value)
    check_caps(definition, changed, tenant=definition.tenant)
    definition.cron = check_cron(definition.cron)
    definition.time_zone = check_time_zone(definition.time_zone)
    if run_at_once or {"cron", "time_zone", "active"} & set(changes):
        _plan(definition, now=now, run_at_once=run_at_once)
    _save(definition)
    _ask_for_shorter(definition, before=before, locked_days=locked_days, actor=actor, now=now)
    record_change(action="definition.edit", subject=definition, actor=actor, before=before)
    if run_at_once:
        record(action="definition.run_at_once", subject=definition, actor=actor)
    return definition


def _ask_for_shorter(
    definition: Definition, *, before: Mapping[str, Any], locked_days: int, actor: Person | None, now: datetime
) -> None:
    """Fewer backups than before, or a shorter lock on the next ones, may need a second person."""
    if definition.retention_count < before["retention_count"]:
        told = {"from": before["retention_count"], "to": definition.retention_count}
        kind = ApprovalKind.RETENTION_SHORTEN
        approvals.require(kind=kind, subject=definition, actor=actor, parameters=told, now=now)
    if _locked_days(definition) < locked_days:
        told = {"from": locked_days, "to": _locked_days(definition)}
        kind = ApprovalKind.LOCK_SHORTEN
        approvals.require(kind=kind, subject=definition, actor=actor, parameters=told, now=now)


def _locked_days(definition: Definition) -> int:
    return definition.immutable_days or definition.vault.immutable_days


@transaction.atomic
def delete_definition(*, definition: Definition, actor: Person | None = None) -> None:
    """Remove the definition. Its backups stay, and no retention removes them any more."""
    record(action="definition.delete", subject=definition, actor=actor, before=fields_of(definition, EDITABLE))
    definition.delete()


def advance(*, definition: Definition, now: datetime) -> bool:
    """Move the next run behind `now`; False when somebody else moved it first. Runs missed meanwhile count as one."""
    following = next_run(cron=definition.cron, time_zone=definition.time_zone, after=now)
    due = Definition.objects.filter(pk=definition.pk, next_run_at=definition.next_run_at, active=True)
    return due.update(next_run_at=following) == 1


def _vault_for(disk: Disk) -> Vault:
    endpoint = endpoint_for(disk.server.region_id)
    vault = Vault.objects.filter(tenant_id=disk.server.tenant_id, endpoint=endpoint).first()
    if vault is None:
        raise InvalidInputError(f"The tenant has no vault for servers in {disk.server.region_id} yet.", code="no_vault")
    return vault


def _plan(definition: Definition, *, now: datetime, run_at_once: bool) -> None:
    if not definition.active:
        definition.next_run_at = None
        return
    following = next_run(cron=definition.cron, time_zone=definition.time_zone, after=now)
    definition.next_run_at = now.replace(microsecond=0) if run_at_once else following
    if following is None:
        raise InvalidInputError(
            f"The schedule {definition.cron!r} has no run within the next years.", code="bad_cron", field="cron"
        )


def _check_limits(definition: Definition) -> None:
    """Say in words what the table would only refuse."""
    least, days = definition.vault.immutable_days, definition.immutable_days
    if days is not None and not least <= days <= LONGEST_IMMUTABLE_DAYS:
        raise InvalidInputError(
            f"The vault keeps every backup unremovable for {least} days; choose {least} to "
            f"{LONGEST_IMMUTABLE_DAYS} days, or leave it empty.",
            code="bad_immutable_days",
            field="immutable_days",
        )
    limit = definition.bandwidth_limit
    if limit is not None and not LEAST_BANDWIDTH <= limit < 1 << 62:
        raise InvalidInputError(
            f"Choose at least {LEAST_BANDWIDTH} bytes per second, or leave it empty for no limit.",
            code="bad_bandwidth",
            field="bandwidth_limit",
        )


def definitions_per_server(tenant: Tenant, server: Server | None) -> int:
    """How many definitions the server has; without one, how many the tenant's server with the most has."""
    found = Definition.objects.filter(disk__server=server) if server else Definition.objects.filter(tenant=tenant)
    counts = found.order_by().values("disk__server").annotate(count=Count("pk")).values_list("count", flat=True)
    return max(counts, default=0)


def check_caps(definition: Definition, changed: Collection[str], *, tenant: Tenant) -> None:
    """The tenant's caps, on what is set anew: a definition from before a lower cap can still be changed otherwise."""
    if "immutable_days" in changed:
        days = definition.immutable_days or definition.vault.immutable_days
        quotas.check_cap(tenant=tenant, kind=QuotaKind.RETENTION_DAYS, value=days, field="immutable_days")
    if "retention_count" in changed:
        count = definition.retention_count or None
        quotas.check_cap(tenant=tenant, kind=QuotaKind.RETENTION_COUNT, value=count, field="retention_count")


def _save(definition: Definition) -> None:
    _check_limits(definition)
    try:
        definition.full_clean()
        with transaction.atomic():
            definition.save()
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise InvalidInputError(" ".join(messages), field=None if field == "__all__" else field) from error
    except IntegrityError as error:
        raise ConflictError("The definition collides with another one.", code="name_taken", field="name") from error
