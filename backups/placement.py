"""Where vaults are, beside the servers that are backed up there: one row for each region of vaults.

placements_of(person) -> [Placement]     what the person sees of it, by region; servers without one come last
"""

from __future__ import annotations

from dataclasses import dataclass, field

from django.db.models import Count, Sum

from agents.models import Server
from tenants.models import Person
from vaults.models import Affinity, Alarm, Region, Vault


@dataclass(slots=True)
class Placement:
    """`region` is None for servers of regions whose vaults the person has none of, or that have no affinity.

    `stored_bytes` is as the vaults were looked over last; None while none was. `alarm_count` counts vaults.
    """

    region: Region | None
    sources: list[Region] = field(default_factory=list)
    server_count: int = 0
    vault_count: int = 0
    stored_bytes: int | None = None
    alarm_count: int = 0


def placements_of(person: Person) -> list[Placement]:
    """In five queries."""
    regions = {region.code: region for region in Region.objects.for_user(person)}
    if not regions:
        return []
    meant = dict(Affinity.objects.values_list("region", "vault_region"))
    vaults = Vault.objects.for_user(person).order_by().values("endpoint__region")
    rows: dict[str | None, Placement] = {}
    for found in vaults.annotate(count=Count("pk"), stored=Sum("figures__stored_bytes")):
        code = found["endpoint__region"]
        rows[code] = Placement(regions.get(code), vault_count=found["count"], stored_bytes=found["stored"])
    servers = Server.objects.for_user(person).order_by().values_list("region").annotate(count=Count("pk"))
    for code, count in sorted(servers):
        target = meant.get(code)
        # Where the region of a new vault would be is told by whoever orders it.
        row = rows.setdefault(target if target in regions else None, Placement(regions.get(target or "")))
        row.sources += [regions[code]] if code in regions else []
        row.server_count += count
    alarms = Alarm.objects.for_user(person).needing_a_person().order_by().values_list("vault__endpoint__region")
    for code, count in alarms.annotate(count=Count("vault", distinct=True)):
        rows[code].alarm_count = count
    return [rows[code] for code in sorted(rows, key=lambda code: (code is None, code or ""))]
