"""Verbs over policies: making, changing, assigning, and giving servers the definitions that follow from them.

The nearest assignment counts: of the server, of one of its tags (the first by alphabet), of its tenant, of its region.
A change reaches all definitions that follow the policy, for the backups that they make from then on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import ProtectedError, Q

from agents.fleet import look_again
from agents.models import Agent, Disk, Server
from common.errors import BackupsiteError, ConflictError, InvalidInputError, NotAllowedError
from definitions.agent_limits import read_limits
from definitions.keeping import remember_rules
from definitions.models import Definition, Policy, PolicyAssignment, ServerTag
from definitions.planner import load_of_place, task_of
from definitions.retention import Rules
from definitions.rule_fields import RULE_FIELDS
from definitions.schedule import check_time_zone, next_run
from definitions.schedule_history import keep_schedules
from definitions.services import LONGEST_IMMUTABLE_DAYS, create_definition, vault_for
from definitions.spread import Load, Placed, nearest_night, place, rebalance
from tenants import approvals
from tenants.approval_states import ApprovalKind
from tenants.audit import fields_of, record, record_change
from tenants.models import Person, Tenant
from vaults.models import Region, Vault

logger = logging.getLogger(__name__)

POLICY_FIELDS = (
    "description",
    "window_start",
    "window_end",
    "time_zone",
    *RULE_FIELDS,
    "lock_days",
    "lock_whole_retention",
    "restricted",
    "agent_limits",
)
_WINDOW = ("window_start", "window_end", "time_zone")


def create_policy(*, name: str, actor: Person, **values: Any) -> Policy:
    """Raises InvalidInputError for fields that cannot be, ConflictError for a name that is taken."""
    _refuse_others(actor)
    policy = Policy(name=name, **values)
    if Policy.objects.filter(name=name).exists():
        raise ConflictError(f"There is a policy {name!r} already.", code="name_taken", field="name")
    _clean(policy)
    with transaction.atomic():
        policy.save(force_insert=True)
        record(action="policy.create", subject=policy, actor=actor, tenant=None, after=fields_of(policy, POLICY_FIELDS))
    return policy


@transaction.atomic
def update_policy(*, policy: Policy, changes: Mapping[str, Any], actor: Person, now: datetime) -> Policy:
    """Change it, and the definitions that follow it: schedule, rules and lock of the backups from now on.

    Raises ApprovalNeededError when fewer backups or a shorter lock need a second person; so do the verbs below.
    """
    _refuse_others(actor)
    if refused := sorted(set(changes) - set(POLICY_FIELDS)):
        raise InvalidInputError(f"{', '.join(refused)} cannot be changed.", code="read_only", field=refused[0])
    policy = Policy.objects.select_for_update().get(pk=policy.pk)
    before, rules = fields_of(policy, POLICY_FIELDS), policy.rules
    for field, value in changes.items():
        setattr(policy, field, value)
    _clean(policy)
    policy.save()
    record_change(action="policy.edit", subject=policy, actor=actor, before=before)
    following = list(
        policy.definitions.select_related("disk__server__node", "tenant", "vault", "policy").filter(retired_at=None)
    )
    moved = any(before[field] != getattr(policy, field) for field in _WINDOW)
    if rules != policy.rules:
        remember_rules([one for one in following if one.rules != policy.rules], until=now)
    _ask_for_shorter(policy, following, actor=actor, now=now)
    _hand_down(policy, following, now=now, with_window=moved)
    return policy


@transaction.atomic
def delete_policy(*, policy: Policy, actor: Person) -> None:
    """Definitions that followed it stay as they are. Raises ConflictError while it is assigned to anything."""
    _refuse_others(actor)
    before = fields_of(policy, POLICY_FIELDS)
    try:
        with transaction.atomic():
            policy.delete()
    except ProtectedError as error:
        shown = ", ".join(sorted(assignment.target for assignment in policy.assignments.all()[:5]))
        raise ConflictError(f"It is assigned to {shown}. Take that back first.", code="policy_assigned") from error
    record(action="policy.delete", subject=policy, actor=actor, tenant=None, before=before)


@transaction.atomic
def assign(
    *,
    policy: Policy,
    actor: Person,
    now: datetime,
    server: Server | None = None,
    tag: str | None = None,
    tenant: Tenant | None = None,
    region: Region | None = None,
) -> PolicyAssignment:
    """Give it to one of these; what the target had before is replaced. Its servers get their definitions at once."""
    _refuse_others(actor)
    target = {"server": server, "tag": tag or None, "tenant": tenant, "region": region}
    named = {name: value for name, value in target.items() if value is not None}
    if len(named) != 1:
        raise InvalidInputError("Name one of server, tag, tenant and region.", field="server")
    assignment = PolicyAssignment.objects.filter(**named).first() or PolicyAssignment(**named)
    assignment.policy = policy
    _full_clean(assignment)
    assignment.save()
    record(
        action="policy.assign",
        subject=policy,
        actor=actor,
        tenant=tenant or (server.tenant if server else None),
        after={"to": assignment.target},
    )
    apply_to_servers(_servers_of(assignment), now=now, actor=actor)
    return assignment


@transaction.atomic
def unassign(*, assignment: PolicyAssignment, actor: Person, now: datetime) -> None:
    """Take it back: its servers follow what is assigned less near. With nothing left their definitions stay, freed."""
    _refuse_others(actor)
    servers = list(_servers_of(assignment))
    record(
        action="policy.unassign",
        subject=assignment.policy,
        actor=actor,
        tenant=assignment.tenant or (assignment.server.tenant if assignment.server else None),
        before={"to": assignment.target},
    )
    assignment.delete()
    apply_to_servers(servers, now=now, actor=actor)


@transaction.atomic
def set_tags(*, server: Server, tags: list[str], actor: Person, now: datetime) -> None:
    """The tags of the server, instead of those that it had."""
    _refuse_others(actor)
    before = sorted(server.tags.values_list("tag", flat=True))
    wanted = sorted(set(tags))
    if before == wanted:
        return
    server.tags.exclude(tag__in=wanted).delete()
    for tag in set(wanted) - set(before):
        row = ServerTag(server=server, tag=tag)
        _full_clean(row)
        row.save()
    record(action="server.tags", subject=server, actor=actor, before={"tags": before}, after={"tags": wanted})
    apply_to_servers([server], now=now, actor=actor)


def policy_for(server: Server) -> Policy | None:
    """The one that counts for the server: by server, tag, tenant, region, in this order."""
    tags = list(server.tags.values_list("tag", flat=True))
    mine = Q(server=server) | Q(tag__in=tags) | Q(tenant_id=server.tenant_id) | Q(region_id=server.region_id)
    found = PolicyAssignment.objects.filter(mine).select_related("policy")
    nearest = min(found, key=_nearness, default=None)
    return nearest.policy if nearest else None


def apply_to_servers(servers: Any, *, now: datetime, actor: Person) -> None:
    given = [(server, policy_for(server)) for server in servers]
    taking: dict[Policy, list[Definition]] = {}
    for server, policy in given:
        if policy is not None:
            followed = Definition.objects.filter(disk__server=server).exclude(policy=None).exclude(policy=policy)
            taking.setdefault(policy, []).extend(followed.select_related("tenant", "vault"))
    for policy, definitions in taking.items():
        _ask_for_shorter(policy, definitions, actor=actor, now=now)
    for server, policy in given:
        for disk in server.disks.order_by("number"):
            apply_to_disk(disk, policy=policy, now=now)


def apply_to_new_disk(disk: Disk) -> None:
    """Called where a disk is added: a new server gets what its policy gives at once."""
    apply_to_disk(disk, policy=policy_for(disk.server), now=disk.created_at)


def apply_to_disk(disk: Disk, *, policy: Policy | None, now: datetime) -> Definition | None:
    """One definition of the disk follows the policy. What a person made stays beside it. May be called twice."""
    followed = list(disk.definitions.exclude(policy=None).select_related("policy", "vault", "disk__server__node"))
    if policy is None:
        disk.definitions.filter(policy__isnull=False).update(policy=None)
        return None
    if not followed:
        return _make(disk, policy, now=now)
    definition = followed[0]
    if definition.policy_id != policy.pk:
        definition.policy = policy
        if definition.rules != policy.rules:
            remember_rules([definition], until=now)
        _hand_down(policy, [definition], now=now, with_window=True)
    return definition


def span_days(rules: Rules) -> int | None:
    """How long the rules may keep a backup; None where no age says so."""
    if rules.keep_all or rules.count:
        return None
    by_period = (rules.daily, rules.weekly * 7, rules.monthly * 31, rules.yearly * 366, -(-rules.hourly // 24))
    return max(rules.days, *by_period)


def _make(disk: Disk, policy: Policy, *, now: datetime) -> Definition | None:
    """Through the same door as a person's: quotas and the vault are looked at. What is refused is recorded."""
    server = disk.server
    taken = set(disk.definitions.values_list("name", flat=True))
    name = next(one for one in (policy.name, *(f"{policy.name[:13]}-{n}" for n in range(2, 99))) if one not in taken)
    draft = Definition(disk=disk, tenant_id=server.tenant_id, name=name, policy=policy, time_zone=policy.time_zone)
    placed = place(task_of(draft), load=load_of_place(server, now=now))
    rules = {field: getattr(policy, field) for field in RULE_FIELDS}
    try:
        locked = _lock_days(policy, vault_for(disk))
        return create_definition(
            disk=disk,
            name=name,
            cron=placed.cron,
            time_zone=policy.time_zone,
            now=now,
            policy=policy,
            immutable_days=locked,
            **rules,
        )
    except BackupsiteError as error:
        logger.warning("a policy could not be given to a disk", extra={"disk": str(disk.pk), "error": error.code})
        record(action="policy.refused", subject=disk, after={"policy": policy.name, "reason": error.message})
        return None


def _hand_down(policy: Policy, definitions: list[Definition], *, now: datetime, with_window: bool) -> None:
    starts = _starts(policy, definitions, now=now) if with_window else {}
    for one in definitions:
        for field in RULE_FIELDS:
            setattr(one, field, getattr(policy, field))
        one.immutable_days = _lock_days(policy, one.vault) if one.vault is not None else None
        one.policy = policy
        if str(one.pk) in starts:
            one.cron, one.time_zone = starts[str(one.pk)].cron, policy.time_zone
            if one.active:
                one.next_run_at = next_run(cron=one.cron, time_zone=one.time_zone, after=now)
    keep_schedules(definitions, now=now)
    fields = [*RULE_FIELDS, "immutable_days", "policy", "cron", "time_zone", "next_run_at"]
    Definition.objects.bulk_update(definitions, fields, batch_size=500)
    look_again(Agent.objects.filter(server__disks__definitions__policy=policy))


def _ask_for_shorter(policy: Policy, definitions: list[Definition], *, actor: Person, now: datetime) -> None:
    """As for one definition: fewer backups, or a shorter lock on the next ones, may need a second person.

    One request where a rule holds everywhere, else one for each tenant that has the rule.
    """
    fewer = {one.tenant for one in definitions if policy.rules.keep_less_than(one.rules)}
    shorter = {one.tenant for one in definitions if _locks_shorter(policy, one)}
    asked = {
        ApprovalKind.RETENTION_SHORTEN: (fewer, asdict(policy.rules)),
        ApprovalKind.LOCK_SHORTEN: (shorter, {"days": policy.lock_days, "whole": policy.lock_whole_retention}),
    }
    for kind, (tenants, told) in asked.items():
        whole: list[Tenant | None] = [None] if approvals.is_required(kind, None) else sorted(tenants, key=str)
        for tenant in whole if tenants else []:
            approvals.require(kind=kind, subject=policy, actor=actor, parameters={"to": told}, tenant=tenant, now=now)


def _locks_shorter(policy: Policy, definition: Definition) -> bool:
    if definition.vault is None:
        return False
    least = definition.vault.immutable_days
    return (_lock_days(policy, definition.vault) or least) < (definition.immutable_days or least)


def _starts(policy: Policy, definitions: list[Definition], *, now: datetime) -> dict[str, Placed]:
    tasks = [task_of(one, window=policy.window) for one in definitions]
    if len(definitions) != 1:
        return {item.task.key: item for item in rebalance(tasks, on=nearest_night(now.date()))}
    load: Load = load_of_place(definitions[0].disk.server, now=now, without=[definitions[0].pk])
    return {task.key: place(task, load=load) for task in tasks}


def _lock_days(policy: Policy, vault: Vault) -> int | None:
    """Never shorter than the vault's own; None: as the vault says."""
    days = span_days(policy.rules) if policy.lock_whole_retention else policy.lock_days
    return max(days, vault.immutable_days) if days else None


def _servers_of(assignment: PolicyAssignment) -> Any:
    servers = Server.objects.order_by("pk")
    if assignment.server_id:
        return servers.filter(pk=assignment.server_id)
    if assignment.tag:
        return servers.filter(tags__tag=assignment.tag)
    if assignment.tenant_id:
        return servers.filter(tenant_id=assignment.tenant_id)
    return servers.filter(region_id=assignment.region_id)


def _nearness(assignment: PolicyAssignment) -> tuple[int, str]:
    if assignment.server_id:
        return 0, ""
    if assignment.tag:
        return 1, assignment.tag
    return (2, "") if assignment.tenant_id else (3, "")


def _clean(policy: Policy) -> None:
    check_time_zone(policy.time_zone)
    read_limits(policy.agent_limits)
    if policy.lock_whole_retention and span_days(policy.rules) is None:
        raise InvalidInputError(
            "To lock as long as backups are kept, keep them by age: a number of backups says no time.",
            field="lock_whole_retention",
        )
    days = (span_days(policy.rules) or 0) if policy.lock_whole_retention else policy.lock_days or 1
    if not 1 <= days <= LONGEST_IMMUTABLE_DAYS:
        raise InvalidInputError(f"A lock is of 1 to {LONGEST_IMMUTABLE_DAYS} days.", field="lock_days")
    _full_clean(policy)


def _full_clean(instance: Policy | PolicyAssignment | ServerTag) -> None:
    try:
        instance.full_clean()
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise InvalidInputError(" ".join(messages), field=None if field == "__all__" else field) from error


def _refuse_others(actor: Person) -> None:
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin makes, changes and assigns policies.")
