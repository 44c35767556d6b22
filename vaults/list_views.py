"""The list of vaults: where each is, what it holds, when a lock of it ends next, and which alarms need a person."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.models import Count
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_GET

from tenants.listing import Listed, Listing, Sort, administers
from tenants.models import Person
from tenants.views import portal_page
from vaults.list_forms import VaultFilters
from vaults.models import Alarm, Vault
from vaults.serializers import VaultSerializer

# A vault without figures would be lost from an order by them: a cursor goes by what is never empty.
VAULTS = Listing(
    name="vaults",
    form=VaultFilters,
    sorts={
        "name": Sort("Vault", ("name",)),
        "region": Sort("Region", ("endpoint__region_id",)),
        "status": Sort("Status", ("status",)),
        "added": Sort("Added", ("created_at",), falls=True),
    },
    order="name",
    serializer=VaultSerializer,
)
# Of the figures what a list does not show, and what grows with the length of locks.
_UNSHOWN = ("figures__violations", "figures__lock_tail", "figures__remains")


@require_GET
@portal_page
def vault_list(request: HttpRequest) -> HttpResponseBase:
    rows = Vault.objects.for_user(request.user).select_related("tenant", "endpoint", "figures", "deletion")
    listed = VAULTS.read(request, rows.defer(*_UNSHOWN))
    if not isinstance(listed, Listed):
        return listed
    alarms = alarm_counts(request.user, listed.rows)
    context = {
        "listed": listed,
        "rows": [(vault, getattr(vault, "figures", None), alarms.get(vault.pk, 0)) for vault in listed.rows],
        "administers": administers(request.user),
    }
    return render(request, "vaults/vaults.html", context)


def alarm_counts(person: Person, vaults: Iterable[Vault]) -> dict[Any, int]:
    """How many alarms of each of these vaults need a person, by the vault's key; those without one are left out."""
    alarms = Alarm.objects.for_user(person).needing_a_person().filter(vault__in=[vault.pk for vault in vaults])
    return dict(alarms.order_by().values_list("vault").annotate(count=Count("pk")))
