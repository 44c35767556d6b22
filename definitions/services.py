"""Verbs over backup definitions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Count
from django.utils import timezone

from agents.fleet import look_again
from agents.models import HOST_DRIVER, Agent, Disk, Node, Server, Storage
from common.errors import ConflictError, InvalidInputError, NotAllowedError
from definitions.choices import check_choices
from definitions.models import Definition, Policy
from definitions.presets import RESERVED, preset_for
from definitions.retention import Rules
from definitions.rule_fields import RULE_FIELDS
from definitions.schedule import check_cron, check_time_zone, next_run
from definitions.schedule_history import keep_schedules
from tenants import approvals, quotas
from tenants.approval_states import ApprovalKind
from tenants.audit import fields_of, record, record_change
from tenants.models import Person, QuotaKind, Tenant
from tenants.services import require_active
from vaults.models import Vault
from vaults.services import endpoint_for, refuse_leaving

EDITABLE = frozenset(
    {
        *("cron", "time_zone", "immutable_days", "bandwidth_limit", "active", "description"),
        *("rpo_hours", "compression", "freeze_filesystem", "excludes"),
        *RULE_FIELDS,
    }
)
# What a restricted policy leaves to the tenant.
_LEFT_BY_POLICY = frozenset({"description", "bandwidth_limit"})
LONGEST_IMMUTABLE_DAYS = 3650
LEAST_BANDWIDTH = 64 * 1024


@transaction.atomic
def create_definition(
    *,
    disk: Disk,
    name: str,
    now: datetime,
    cron: str | None = None,
    time_zone: str = "UTC",
    run_at_once: bool = False,
    policy: Policy | None = None,
    actor: Person | None = None,
    type: str = Definition.Type.VAULT,
    backup_node: Node | None = None,
    storage: Storage | None = None,
    **values: Any,
) -> Definition:
    """Make a definition; `values` are fields of EDITABLE. The names hourly, daily, weekly and monthly fill in the
    schedule and the number to keep where these are not given. A storage brings its node.

    With `run_at_once` its first backup is due now instead of at the next time of its schedule. Raises
    TenantSuspendedError, and QuotaError for one too many or for a promise longer than the tenant may give.
    """
    server = disk.server
    require_active(server.tenant)
    quotas.check(tenant=server.tenant, kind=QuotaKind.DEFINITIONS_PER_SERVER, within=server)
    _refuse_fields(values)
    definition = Definition(
        tenant_id=disk.server.tenant_id,
        disk=disk,
        name=name,
        type=type,
        vault=vault_for(disk) if type == Definition.Type.VAULT else None,
        backup_node=storage.node if storage is not None and backup_node is None else backup_node,
        storage=storage,
        cron=check_cron(_fill_in(name, cron, values, disk=disk)),
        time_zone=check_time_zone(time_zone),
        policy=policy,
        **values,
    )
    check_caps(definition, ["immutable_days", *RULE_FIELDS], tenant=server.tenant)
    _plan(definition, now=now, run_at_once=run_at_once)
    if Definition.objects.filter(disk=disk, name=name).exists():
        raise ConflictError(
            f"{disk} has a definition {name!r} already. Choose another name.", code="name_taken", field="name"
        )
    _save(definition)
    told = fields_of(definition, ["disk", "type", "vault", "storage", *sorted(EDITABLE)])
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
    _refuse_fields(changes)
    if definition.retired_at is not None:
        raise ConflictError("It was deleted and only keeps its backups until they are old enough.", code="retired")
    changed = [field for field, value in changes.items() if getattr(definition, field) != value]
    _refuse_restricted(definition, set(changed) - _LEFT_BY_POLICY, actor=actor)
    before, locked_days, rules = fields_of(definition, EDITABLE), _locked_days(definition), definition.rules
    for field, value in changes.items():
        setattr(definition, field, value)
    check_caps(definition, changed, tenant=definition.tenant)
    definition.cron = check_cron(definition.cron)
    definition.time_zone = check_time_zone(definition.time_zone)
    if run_at_once or {"cron", "time_zone", "active"} & set(changes):
        _plan(definition, now=now, run_at_once=run_at_once)
    keep_schedules([definition], now=now)
    _save(definition)
    _ask_for_shorter(definition, rules=rules, locked_days=locked_days, actor=actor, now=now)
    record_change(action="definition.edit", subject=definition, actor=actor, before=before)
    if run_at_once:
        record(action="definition.run_at_once", subject=definition, actor=actor)
    return definition


def _ask_for_shorter(
    definition: Definition, *, rules: Rules, locked_days: int, actor: Person | None, now: datetime
) -> None:
    """Fewer backups than before, or a shorter lock on the next ones, may need a second person."""
    if definition.rules.keep_less_than(rules):
        told: dict[str, Any] = {"from": asdict(rules), "to": asdict(definition.rules)}
        _ask_for_fewer(definition, told, actor=actor, now=now)
    if _locked_days(definition) < locked_days:
        told = {"from": locked_days, "to": _locked_days(definition)}
        kind = ApprovalKind.LOCK_SHORTEN
        approvals.require(kind=kind, subject=definition, actor=actor, parameters=told, now=now)


def _ask_for_fewer(definition: Definition, told: Mapping[str, Any], *, actor: Person | None, now: datetime) -> None:
    kind = ApprovalKind.RETENTION_SHORTEN
    approvals.require(kind=kind, subject=definition, actor=actor, parameters=told, now=now)


def _locked_days(definition: Definition) -> int:
    return definition.immutable_days or definition.least_lock_days


class Fate(StrEnum):
    """What becomes of the backups of a definition that is deleted."""

    # They stay, and no rule removes them.
    KEEP = "keep"
    # They stay until they are of an age; the last good one stays for good. The definition is retired until then.
    KEEP_UNTIL_AGE = "keep_until_age"
    # Another definition of the same disk takes them over, with its rules.
    ADOPT = "adopt"
    # They are deleted, too; what is locked stays in the vault until its lock ends.
    DELETE = "delete"


@transaction.atomic
def delete_definition(
    *,
    definition: Definition,
    actor: Person | None = None,
    backups: Fate = Fate.KEEP,
    days: int | None = None,
    adopter: Definition | None = None,
    now: datetime | None = None,
) -> None:
    """Remove the definition and say what becomes of its backups; `days` and `adopter` go with their fate.

    With DELETE they were taken out of the catalogue before, in the same transaction. Raises ApprovalNeededError where
    fewer backups than before need a second person.
    """
    # Before what hangs on it, as everybody takes them: deleting begins with the rows that name it.
    list(Definition.objects.select_for_update(of=("self",)).filter(pk=definition.pk))
    _refuse_restricted(definition, {"definition"}, actor=actor)
    now = now or timezone.now()
    told: dict[str, Any] = {"backups": backups}
    if backups is Fate.ADOPT:
        told["adopter"] = _adopt(definition, adopter, actor=actor, now=now)
    if backups is Fate.DELETE:
        _ask_for_fewer(definition, {"from": asdict(definition.rules), "to": "none"}, actor=actor, now=now)
    before = fields_of(definition, EDITABLE)
    if backups is Fate.KEEP_UNTIL_AGE:
        told["days"] = _retire(definition, days=days, actor=actor, now=now)
    record(action="definition.delete", subject=definition, actor=actor, before=before, after=told)
    if backups is not Fate.KEEP_UNTIL_AGE:
        definition.delete()


def _adopt(definition: Definition, adopter: Definition | None, *, actor: Person | None, now: datetime) -> str:
    if adopter is None or adopter.pk == definition.pk or adopter.disk_id != definition.disk_id or adopter.retired_at:
        raise InvalidInputError("Choose another definition of the same disk.", code="bad_adopter", field="adopter")
    if adopter.rules.keep_less_than(definition.rules):
        told = {"from": asdict(definition.rules), "to": asdict(adopter.rules)}
        _ask_for_fewer(definition, told, actor=actor, now=now)
    definition.backups.update(definition=adopter)
    return str(adopter.pk)


def _retire(definition: Definition, *, days: int | None, actor: Person | None, now: datetime) -> int:
    if days is None or not 1 <= days <= LONGEST_IMMUTABLE_DAYS:
        raise InvalidInputError(f"Say for how many days, 1 to {LONGEST_IMMUTABLE_DAYS}.", code="bad_days", field="days")
    rules = definition.rules
    for name in RULE_FIELDS:
        setattr(definition, name, 0)
    definition.retention_days, definition.retired_at = days, now
    definition.active, definition.next_run_at, definition.policy = False, None, None
    keep_schedules([definition], now=now)
    definition.save()
    definition.earlier_rules.all().delete()
    _ask_for_shorter(definition, rules=rules, locked_days=_locked_days(definition), actor=actor, now=now)
    return days


def advance(*, definition: Definition, now: datetime) -> bool:
    """Move the next run behind `now`; False when somebody else moved it first. Runs missed meanwhile count as one."""
    following = next_run(cron=definition.cron, time_zone=definition.time_zone, after=now)
    due = Definition.objects.filter(pk=definition.pk, next_run_at=definition.next_run_at, active=True)
    return due.update(next_run_at=following) == 1


def vault_for(disk: Disk) -> Vault:
    """Where the disk's backups go: where its server's data lies, before the first backup where affinity says.

    Raises InvalidInputError while its tenant has no vault for the region, ConflictError for one that is being removed.
    """
    server = disk.server
    vault = server.domain.vault if server.domain is not None else _vault_by_affinity(server)
    refuse_leaving(vault)
    return vault


def _vault_by_affinity(server: Server) -> Vault:
    endpoint = endpoint_for(server.region_id)
    vault = Vault.objects.filter(tenant_id=server.tenant_id, endpoint=endpoint).first()
    if vault is None:
        raise InvalidInputError(f"The tenant has no vault for servers in {server.region_id} yet.", code="no_vault")
    return vault


def _fill_in(name: str, cron: str | None, values: dict[str, Any], *, disk: Disk) -> str:
    """The schedule, and into `values` the number to keep, where the name says them."""
    preset = preset_for(name, seed=str(disk.pk))
    if preset is not None and not set(RULE_FIELDS) & set(values):
        values["retention_count"] = preset.retention.count
    if cron is None and preset is None:
        named = ", ".join(RESERVED)
        raise InvalidInputError(f"Give a schedule, or one of the names that bring one: {named}.", field="cron")
    return cron if cron is not None else preset.cron if preset else ""


def _refuse_fields(values: Mapping[str, Any]) -> None:
    if refused := sorted(set(values) - EDITABLE):
        raise InvalidInputError(
            f"{', '.join(refused)} cannot be changed after creation.", code="read_only", field=refused[0]
        )


def _refuse_restricted(definition: Definition, fields: Collection[str], *, actor: Person | None) -> None:
    policy = definition.policy
    if not fields or policy is None or not policy.restricted or actor is None or actor.is_superuser:
        return
    raise NotAllowedError(
        f"The policy {policy.name} of your provider sets this definition: {', '.join(sorted(fields))} cannot be "
        "changed here. Ask the provider."
    )


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
    check_choices(definition)
    least, days = definition.least_lock_days, definition.immutable_days
    if days is not None and definition.vault is None:
        raise InvalidInputError(
            "Nothing on a storage can be locked: leave it empty, or keep the backups in the vault.",
            code="bad_immutable_days",
            field="immutable_days",
        )
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
    # The database looks for it, so that one row comes and not one for each server.
    return counts.order_by("-count").first() or 0


def check_caps(definition: Definition, changed: Collection[str], *, tenant: Tenant) -> None:
    """The tenant's caps, on what is set anew: a definition from before a lower cap can still be changed otherwise."""
    if "immutable_days" in changed:
        days = definition.immutable_days or definition.least_lock_days
        quotas.check_cap(tenant=tenant, kind=QuotaKind.RETENTION_DAYS, value=days, field="immutable_days")
    if set(RULE_FIELDS) & set(changed):
        # By age there is one a day at least.
        count = None if definition.rules.keep_all else sum(getattr(definition, name) for name in RULE_FIELDS)
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
    if definition.disk.driver == HOST_DRIVER:
        look_again(Agent.objects.filter(server__disks=definition.disk_id))
