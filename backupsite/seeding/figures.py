"""What is kept of the made-up fleet's tenants, days and vaults, as the counts of every hour and day would find it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.db.models import Count, Max, Min, Q, QuerySet, Sum
from django.db.models.functions import TruncDate

from agents.models import Server
from backups.days import shown_days
from backups.models import Backup, DayFigures, Job, TenantFigures, VaultFigures
from backups.remains import Remains, VaultRemains, to_keep
from backupsite.seeding.shape import Shape
from backupsite.seeding.writing import Table
from definitions.models import Definition
from vaults.models import StoredObject


def write_figures(shape: Shape) -> None:
    """One statement for all tenants, where the count itself takes a few for each."""
    Table(TenantFigures, now=shape.at).write(_tenants(shape))
    Table(VaultFigures, now=shape.at).write(_vaults(shape))
    Table(DayFigures, now=shape.at).write(_days(shape))


def _tenants(shape: Shape) -> Iterator[dict[str, Any]]:
    good = Backup.objects.in_catalogue().filter(status="ok")
    stored = _by_tenant(good, Sum("stored_bytes"))
    unique = _by_tenant(Backup.objects.in_catalogue(), Sum("unique_bytes"))
    definitions = _by_tenant(Definition.objects.all(), Count("pk"))
    protected = _by_tenant(Definition.objects.filter(active=True), Count("disk__server", distinct=True))
    goods = _by_tenant(good, Count("pk"))
    counts, sizes = (_by_tenant(Backup.objects.in_catalogue(), of) for of in (Count("pk"), Sum("stored_bytes")))
    objects = _objects_by("domain__tenant_id")
    for tenant, servers in _by_tenant(Server.objects.all(), Count("pk")).items():
        yield {
            "tenant_id": tenant,
            "counted_at": shape.at,
            "server_count": servers,
            "protected_count": protected.get(tenant, 0),
            "unprotected_count": servers - protected.get(tenant, 0),
            "definition_count": definitions.get(tenant, 0),
            "most_definitions": 1,
            "good_count": goods.get(tenant, 0),
            "stored_bytes": stored.get(tenant, 0),
            "unique_bytes": unique.get(tenant, 0),
            "shared_bytes": 0,
            "locked_bytes": 0,
            "pending_delete_bytes": 0,
            "backup_count": counts.get(tenant, 0),
            "backup_bytes": sizes.get(tenant, 0),
            "remains": to_keep(Remains(counts.get(tenant, 0), 0, *objects[tenant][:2], 0, 0, objects[tenant][2])),
        }


def _vaults(shape: Shape) -> Iterator[dict[str, Any]]:
    rows = Backup.objects.in_catalogue().exclude(vault=None).order_by().values("vault_id")
    locked, objects = defaultdict(list), _objects_by("vault_id")
    ends = rows.annotate(day=TruncDate("manifest__retain_until"), held=Sum("stored_bytes")).order_by("day")
    for vault, day, held in ends.values_list("vault_id", "day", "held"):
        locked[vault].append([str(day), held])
    for row in rows.annotate(
        backup_count=Count("pk"), soonest_end=Min("manifest__retain_until"), stored_bytes=Sum("stored_bytes")
    ):
        tail = {"lock_tail": locked[row["vault_id"]], "violation_count": 0, "ending_count": 0}
        left = to_keep(VaultRemains(row["backup_count"], *objects[row["vault_id"]]))
        yield {**row, **tail, "remains": left, "counted_at": shape.at}


def _days(shape: Shape) -> Iterator[dict[str, Any]]:
    """Of what was asked for on each; the bytes of a tenant grow evenly up to what it holds now."""
    days = shown_days(shape.at)
    jobs = Job.objects.filter(kind="backup", created_at__gte=shape.at - timedelta(days=len(days))).order_by()
    counted = jobs.values("tenant_id", day=TruncDate("created_at")).annotate(
        good=Count("pk", filter=Q(state="ok")), failed=Count("pk", filter=Q(state="failed"))
    )
    found = {(row["tenant_id"], row["day"]): (row["good"], row["failed"]) for row in counted}
    for tenant, held in TenantFigures.objects.values_list("tenant_id", "stored_bytes"):
        for number, day in enumerate(days, start=1):
            good, failed = found.get((tenant, day), (0, 0))
            counts = {"good_count": good, "failed_count": failed, "missed_count": 0}
            total = held * number // len(days)
            yield {"tenant_id": tenant, "day": day, "counted_at": shape.at, "total_bytes": total, **counts}


def _objects_by(column: str) -> dict[Any, tuple[int, int, Any]]:
    """How many there are, their bytes, and when the last lock ends."""
    sums = {"count": Count("pk"), "size": Sum("size_bytes"), "last": Max("retain_until")}
    rows = StoredObject.objects.order_by().values(column).annotate(**sums)
    return defaultdict(lambda: (0, 0, None), {row[column]: (row["count"], row["size"], row["last"]) for row in rows})


def _by_tenant(rows: QuerySet[Any], figure: Any) -> dict[Any, Any]:
    return dict(rows.order_by().values("tenant_id").annotate(figure=figure).values_list("tenant_id", "figure"))
