"""Who looks at the seeded fleet, and at which pages. Needs Django to be set up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.urls import NoReverseMatch, reverse
from rest_framework.pagination import BasePagination

from backupsite.api_router import router
from tenants.api.paging import KeysetPaging
from tenants.models import Person, Tenant

# Pages of the portal that count over everything there is, and no lists: shown, without a verdict. The vaults overview,
# a fragment that is loaded behind the first page, reads every backup of every vault: minutes for a SuperAdmin.
PORTAL_REPORTS = ("dashboard",)
# Lists of the portal, by their names; each is for everybody.
PORTAL_LISTS = (
    "server-list",
    "definition-list",
    "backup-list",
    "job-list",
    "restore-list",
    "tenant-list",
    "people-list",
    "key-list",
    "notice-list",
    "audit-list",
    "approval-list",
)
# Details of the portal, with the API's list that an object is taken from.
PORTAL_DETAILS = {
    "server-detail": "servers",
    "definition-detail": "definitions",
    "backup-detail": "backups",
    "job-detail": "jobs",
    "tenant-detail": "tenants",
    "person-detail": "people",
    "key-detail": "keys",
    "vault-detail": "vaults",
}
# Other ways to ask for a list: orders that it offers, and what people filter by.
VARIANTS = {
    "backups": (
        "status=lost",
        "status=pending",
        "health=damaged",
        "ordering=size_bytes",
        "ordering=created_at",
        "count=true",
    ),
    "jobs": ("state=failed", "state=running,pending", "kind=verify", "count=true"),
    "servers": ("ordering=-created_at", "count=true"),
    "disks": ("ordering=size_bytes", "incomplete=true"),
    "definitions": ("ordering=name", "active=false"),
    "audit": ("outcome=refused",),
    "people": ("active=true",),
}


@dataclass(frozen=True, slots=True)
class Page:
    """`kind`: list, next (the page after the first), detail or report. A detail is that of the first row of `of`."""

    name: str
    kind: str
    address: str
    of: str = ""


def people() -> dict[str, Person]:
    """One for each role; the last tenant is the smallest."""
    last = Tenant.objects.count() - 1
    names = {
        "SuperAdmin": "super-1",
        "DCAdmin, big tenant": "admin-00000-1",
        "DCAdmin, small tenant": f"admin-{last:05}-1",
        "DCAdmin of 20 tenants": "reseller-1",
        "VmOwner, 10 servers": "owner-00000-1",
    }
    return {role: Person.objects.get(username=name) for role, name in names.items()}


def pages() -> Iterator[Page]:
    """Every list of the API, from its router, and of the portal, with their details."""
    for prefix, viewset, _ in router.registry:
        yield Page(f"api {prefix}", "list", f"/api/v1/{prefix}/")
        yield from (
            Page(f"api {prefix}?{query}", "list", f"/api/v1/{prefix}/?{query}") for query in VARIANTS.get(prefix, ())
        )
        if issubclass(viewset.pagination_class or BasePagination, KeysetPaging):
            yield Page(f"api {prefix}, 2nd page", "next", f"/api/v1/{prefix}/")
        yield Page(f"api {prefix}/<id>", "detail", f"/api/v1/{prefix}/%s/", of=prefix)
    for name in PORTAL_LISTS:
        yield Page(f"portal {name}", "list", reverse(name))
    for name in PORTAL_REPORTS:
        yield Page(f"portal {name}", "report", reverse(name))
    for name, of in PORTAL_DETAILS.items():
        yield Page(f"portal {name}", "detail", _pattern(name), of=of)


def _pattern(name: str) -> str:
    some: Any = "00000000-0000-0000-0000-000000000000"
    try:
        return reverse(name, args=[some]).replace(some, "%s")
    except NoReverseMatch:
        return reverse(name, args=[0]).replace("0", "%s")
