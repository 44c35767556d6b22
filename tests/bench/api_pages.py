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

# Pages of the portal that look at everything there is, forms that choose from it, and their suggestions.
PORTAL_PAGES = {
    "dashboard": "",
    "vault-overview": "",
    "people-invite": "",
    "definition-create": "",
    "webhook-new": "",
    "tenant-choices": "",
    "tenant-choices?q": "q=00012",
    "server-choices": "",
    "server-choices?q": "q=web-01",
    "server-choices?none": "q=nothing",
    "disk-choices": "",
    "disk-choices?q": "q=web-01",
    "disk-choices?none": "q=nothing",
}
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
    "token-list",
)
# The same lists as somebody searches them.
PORTAL_SEARCHES = {
    "server-list": ("q=web-01", "q=nothing"),
    "definition-list": ("q=web-01", "q=nothing"),
    "audit-list": ("actor=admin-00001", "actor=nobody"),
}
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
    "webhook-detail": "webhooks",
    "backup-restore": "backups",
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
        "search=web-01",
        "search=nothing",
    ),
    "jobs": ("search=daily", "search=nothing", "state=failed", "state=running,pending", "kind=verify", "count=true"),
    "servers": ("ordering=-created_at", "count=true"),
    "disks": ("ordering=size_bytes", "incomplete=true"),
    "definitions": ("ordering=name", "active=false"),
    "audit": ("outcome=refused",),
    "people": ("active=true",),
}


@dataclass(frozen=True, slots=True)
class Page:
    """`kind`: list, next (the page after the first), page, or detail. A detail is that of the first row of `of`."""

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
        for query in PORTAL_SEARCHES.get(name, ()):
            yield Page(f"portal {name}?{query}", "list", f"{reverse(name)}?{query}")
    for name, query in PORTAL_PAGES.items():
        yield Page(f"portal {name}", "page", f"{reverse(name.partition('?')[0])}?{query}".rstrip("?"))
    for name, of in PORTAL_DETAILS.items():
        yield Page(f"portal {name}", "detail", _pattern(name), of=of)


def _pattern(name: str) -> str:
    some: Any = "00000000-0000-0000-0000-000000000000"
    try:
        return reverse(name, args=[some]).replace(some, "%s")
    except NoReverseMatch:
        return reverse(name, args=[0]).replace("0", "%s")
