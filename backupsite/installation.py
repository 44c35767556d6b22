"""The rows that every installation begins with."""

from __future__ import annotations

from django.conf import settings
from django.db import transaction

from agents.models import Node, Storage
from backups.beat import write_periodic_tasks
from vaults.models import Affinity, Endpoint, Region

# Where the vaults of a region's servers are; a SuperAdmin edits the table, so present rows are left alone.
AFFINITY = {
    "BHS": "TOR", "SGP": "SYD", "MUM": "SGP", "SYD": "SGP", "RBX": "GRA", "GRA": "SBG",
    "LIM": "SBG", "PAR": "RBX", "ERI": "LIM", "WAR": "LIM", "SBG": "RBX", "TOR": "BHS",
}  # fmt: skip
EMBEDDED_NODE_REGION = "RBX"


@transaction.atomic
def write_fixed_rows(*, embedded: bool) -> None:
    """Regions, affinity and periodic tasks; embedded also the endpoints, the node `local` and its storage."""
    for code in sorted({*AFFINITY, *AFFINITY.values()}):
        Region.objects.get_or_create(code=code)
    for code, vault_code in AFFINITY.items():
        Affinity.objects.get_or_create(region_id=code, defaults={"vault_region_id": vault_code})
    write_periodic_tasks()
    if embedded:
        _write_embedded_rows()


def _write_embedded_rows() -> None:
    for code in sorted(set(AFFINITY.values())):
        # The port may differ from the last start; the data is the same.
        Endpoint.objects.update_or_create(region_id=code, defaults={"url": settings.CONFIG.s3_endpoint})
    node, _ = Node.objects.get_or_create(name=settings.CONFIG.node, defaults={"region_id": EMBEDDED_NODE_REGION})
    disks = settings.CONFIG.data.absolute() / "disks"
    disks.mkdir(parents=True, exist_ok=True, mode=0o700)
    Storage.objects.update_or_create(node=node, name="disks", defaults={"path": str(disks)})
