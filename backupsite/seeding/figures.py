"""What is kept of the made-up fleet's tenants and vaults, as the hourly count would find it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db.models import Count, Min, QuerySet, Sum

from agents.models import Server
from backups.models import Backup, TenantFigures, VaultFigures
from backupsite.seeding.shape import Shape
from backupsite.seeding.writing import Table
from definitions.models import Definition


def write_figures(shape: Shape) -> None:
    """One statement for all tenants, where the count itself takes a few for each."""
    Table(TenantFigures, now=shape.at).write(_tenants(shape))
    Table(VaultFigures, now=shape.at).write(_vaults(shape))


def _tenants(shape: Shape) -> Iterator[dict[str, Any]]:
    good = Backup.objects.in_catalogue().filter(status="ok")
    stored = _by_tenant(good, Sum("stored_bytes"))
    unique = _by_tenant(Backup.objects.in_catalogue(), Sum("unique_bytes"))
    definitions = _by_tenant(Definition.objects.all(), Count("pk"))
    protected = _by_tenant(Definition.objects.filter(active=True), Count("disk__server", distinct=True))
    goods = _by_tenant(good, Count("pk"))
    for tenant, servers in _by_tenant(Server.objects.all(), Count("pk")).items():
        yield {
            "tenant_id": tenant,
            "counted_at": shape.at,
            "server_count": servers,
            "protected_count": protected.get(tenant, 0),
            "definition_count": definitions.get(tenant, 0),
            "most_definitions": 1,
            "good_count": goods.get(tenant, 0),
            "stored_bytes": stored.get(tenant, 0),
            "unique_bytes": unique.get(tenant, 0),
            "shared_bytes": 0,
            "locked_bytes": 0,
            "pending_delete_bytes": 0,
        }


def _vaults(shape: Shape) -> Iterator[dict[str, Any]]:
    rows = Backup.objects.in_catalogue().exclude(vault=None).order_by().values("vault_id")
    for row in rows.annotate(backup_count=Count("pk"), soonest_end=Min("manifest__retain_until")):
        yield {**row, "counted_at": shape.at, "violation_count": 0, "ending_count": 0}


def _by_tenant(rows: QuerySet[Any], figure: Any) -> dict[Any, Any]:
    return dict(rows.order_by().values("tenant_id").annotate(figure=figure).values_list("tenant_id", "figure"))
