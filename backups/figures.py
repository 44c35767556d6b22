"""What tenants and vaults hold, for pages that have to come at once.

    count_everywhere(now=...)                    the tenants; a vault's figures are kept by its lock report
    overview_of(vaults, now=...) -> [Overview]   of a page of vaults
    totals_of(person) -> Totals                  of all that the person sees
    known_uses(tenant) -> {kind: used}           what limits are about, for a tenant that is not small

Counting reads every backup. What is small is counted when somebody looks, so that a first backup is seen at once;
otherwise the kept figures are shown, with the time at which they were counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Exists, Min, OuterRef, QuerySet, Sum

from agents.models import Server
from backups.accounting import Usage, usage_of
from backups.days import count_days
from backups.figure_models import TenantFigures, VaultFigures
from backups.lock_coverage import coverage_of
from backups.models import Backup, BackupQuerySet
from backups.remains import remains_of, to_keep
from backups.server_states import ServerState, count_states
from backups.states import BackupStatus
from definitions.models import Definition
from definitions.services import definitions_per_server
from tenants.models import Person, QuotaKind, Tenant
from vaults.coverage import Coverage
from vaults.models import Vault

# Counted while somebody waits: so many vaults, with so many backups each, at most.
LIVE_VAULTS = 3
LIVE_BACKUPS = 500
# Servers, or good backups, that are counted at once.
MOST_EXACT = 5_000
_GOOD = (BackupStatus.OK, BackupStatus.RESTORE)


@dataclass(frozen=True, slots=True)
class Overview:
    """A vault with its tenant; None for what was not counted yet. `counted_at` is None for what was counted now."""

    vault: Vault
    usage: Usage | TenantFigures | None
    coverage: Coverage | VaultFigures | None
    counted_at: datetime | None


@dataclass(frozen=True, slots=True)
class Totals:
    """Servers, how many of them are in each state, definitions, backups that can be restored, bytes stored for them.

    `counted_at` as in Overview. A figure is None, or a state is not there, where there is too much to count and nothing
    was kept.
    """

    server_count: int
    states: dict[str, int]
    definition_count: int | None
    good_count: int | None
    stored_bytes: int | None
    counted_at: datetime | None = None


def count_everywhere(*, now: datetime) -> None:
    """Every tenant that has a vault or a server."""
    vaults, servers = (model.objects.filter(tenant=OuterRef("pk")) for model in (Vault, Server))
    for tenant in Tenant.objects.filter(Exists(vaults) | Exists(servers)).order_by("pk"):
        count_tenant(tenant, now=now)


def count_tenant(tenant: Tenant, *, now: datetime) -> None:
    backups = Backup.objects.filter(tenant=tenant)
    good_count, stored_bytes = _summed(_good(backups))
    backup_count, backup_bytes = _summed(backups.in_catalogue())
    definitions, usage = Definition.objects.filter(tenant=tenant), usage_of(tenant, now=now)
    server_count, states = Server.objects.filter(tenant=tenant).count(), count_states(definitions)
    figures = {
        "counted_at": now,
        "server_count": server_count,
        "protected_count": states[ServerState.PROTECTED],
        "unprotected_count": server_count - sum(states.values()),
        "definition_count": definitions.count(),
        "most_definitions": definitions_per_server(tenant, None),
        "good_count": good_count,
        "stored_bytes": stored_bytes,
        "backup_count": backup_count,
        "backup_bytes": backup_bytes,
        "unique_bytes": usage.unique_bytes,
        "shared_bytes": usage.shared_bytes,
        "locked_bytes": usage.locked_bytes,
        "pending_delete_bytes": usage.pending_delete_bytes,
        "remains": to_keep(remains_of(tenant)),
    }
    TenantFigures.objects.update_or_create(tenant=tenant, defaults=figures)
    count_days(tenant, now=now)


def overview_of(vaults: Sequence[Vault], *, now: datetime) -> list[Overview]:
    """In the order of the vaults, which come with their tenants."""
    if len(vaults) <= LIVE_VAULTS and all(_is_small(vault) for vault in vaults):
        return [Overview(vault, usage_of(vault.tenant, now=now), coverage_of(vault, now=now), None) for vault in vaults]
    tenants = TenantFigures.objects.in_bulk([vault.tenant_id for vault in vaults])
    reports = VaultFigures.objects.in_bulk([vault.pk for vault in vaults])
    return [_kept(vault, tenants.get(vault.tenant_id), reports.get(vault.pk)) for vault in vaults]


def _is_small(vault: Vault) -> bool:
    return Backup.objects.filter(vault=vault).order_by()[: LIVE_BACKUPS + 1].count() <= LIVE_BACKUPS


def _kept(vault: Vault, usage: TenantFigures | None, coverage: VaultFigures | None) -> Overview:
    times = [kept.counted_at for kept in (usage, coverage) if kept is not None]
    return Overview(vault, usage, coverage, min(times, default=None))


def totals_of(person: Person) -> Totals:
    """Counted now up to MOST_EXACT servers and backups; beyond that what was kept of the tenants one administers.

    What was found against servers is rare, and always counted now.
    """
    definitions = Definition.objects.for_user(person)
    server_count = Server.objects.for_user(person).order_by()[: MOST_EXACT + 1].count()
    good_count, stored_bytes = _summed(_good(Backup.objects.for_user(person)).order_by()[: MOST_EXACT + 1])
    if max(server_count, good_count) <= MOST_EXACT:
        states = count_states(definitions)
        states[ServerState.UNPROTECTED] = server_count - sum(states.values())
        return Totals(server_count, _named(states), definitions.count(), good_count, stored_bytes)
    found = count_states(definitions, found_only=True)
    return _kept_totals(person, _named(found)) or Totals(server_count, _named(found), None, None, None)


def _kept_totals(person: Person, found: dict[str, int]) -> Totals | None:
    kept = TenantFigures.objects.filter(tenant__in=Tenant.objects.for_user(person).order_by().values("pk"))
    names = ("server_count", "protected_count", "unprotected_count", "definition_count", "good_count", "stored_bytes")
    sums = kept.aggregate(**{name: Sum(name) for name in names}, counted_at=Min("counted_at"))
    if not sums["counted_at"]:
        return None
    states = {state: sums.pop(f"{state}_count") for state in (ServerState.PROTECTED, ServerState.UNPROTECTED)}
    return Totals(states=found | _named(states), **sums)


def _named(states: dict[ServerState, int]) -> dict[str, int]:
    return {str(state): count for state, count in states.items()}


def known_usage_of(tenant: Tenant, *, now: datetime) -> Usage | TenantFigures:
    """The tenant's space: as it was counted last for one that is not small."""
    kept = TenantFigures.objects.filter(tenant=tenant, good_count__gt=LIVE_BACKUPS).first()
    return kept or usage_of(tenant, now=now)


def known_uses(tenant: Tenant) -> dict[QuotaKind, int]:
    """What limits are about, as far as it was kept; nothing for a small tenant, where it is counted at once."""
    kept = TenantFigures.objects.filter(tenant=tenant, good_count__gt=LIVE_BACKUPS).first()
    if kept is None:
        return {}
    return {QuotaKind.BYTES: kept.total_bytes, QuotaKind.DEFINITIONS_PER_SERVER: kept.most_definitions}


def _good(backups: BackupQuerySet) -> BackupQuerySet:
    return backups.in_catalogue().filter(status__in=_GOOD)


def _summed(backups: QuerySet[Backup]) -> tuple[int, int]:
    sums = backups.aggregate(count=Count("pk"), stored_bytes=Sum("stored_bytes", default=0))
    return sums["count"], sums["stored_bytes"]
