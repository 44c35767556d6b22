"""Who looks at the seeded fleet, and at which pages. Needs Django to be set up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rest_framework.pagination import BasePagination

from backupsite.api_router import router
from tenants.api.paging import KeysetPaging
from tenants.models import Person, Tenant
from tests.api.test_permission_matrix import TABLE
from tests.portal.test_pages import COLLECTIONS, READ_PAGES

# Pages of the portal as people search and open them; all others are asked for plainly.
PORTAL_VARIANTS = {
    "servers/": (
        "q=web-01",
        "q=nothing",
        "state=protected",
        "state=failed",
        "state=unprotected",
        "kind=metal",
        "sort=tenant",
    ),
    "definitions/": ("q=web-01", "q=nothing", "state=late", "state=active", "sort=name", "sort=next"),
    "definitions/preview/": ("cron=0 3 * * *&time_zone=Europe/Prague",),
    "restores/": ("q=web-01", "q=nothing"),
    "nodes/": ("q=node-01", "q=nothing"),
    "vaults/": ("q=00012", "q=nothing", "status=ready", "alarms=on", "sort=-region", "rows=200"),
    "tenants/": ("q=00012", "q=nothing"),
    "people/": ("q=admin-00012", "q=nothing"),
    "orders/": ("q=web-01", "q=nothing"),
    "tokens/": ("q=nothing",),
    "approvals/": ("state=all", "state=you", "state=all&sort=by"),
    "keys/": ("to_do=on", "status=retired", "q=00012"),
    "policies/": ("given=no", "sort=-window"),
    "audit/": ("actor=admin-00001", "actor=nobody", "sort=who", "actor=admin-00001&sort=object"),
    "backups/": (
        *("status=lost", "health=damaged", "type=file", "gone=on", "q=web-01", "q=nothing", "sort=size"),
        *("size_from=1 TiB", "since=2026-11-01&until=2026-11-02", "rows=200"),
        *("sort=name", "status=lost&sort=-took", "q=web-01&sort=server"),
    ),
    "jobs/": ("state=failed", "state=running", "kind=restore", "q=web-01", "since=2026-11-01&until=2026-11-02"),
    "agents/": ("unused", "q=web-01", "q=nothing"),
    "choices/tenants/": ("q=00012",),
    "choices/servers/": ("q=web-01", "q=nothing"),
    "choices/disks/": ("q=web-01", "q=nothing"),
}
# What pages ask for again and again while they are open.
POLLS = ("", "?part=state", "jobs/", "restores/")
EXPORTED = (
    *("servers", "definitions", "backups", "jobs", "restores", "nodes", "vaults", "tenants", "agents", "people"),
    *("audit", "keys", "policies", "approvals"),
)
# Pages of one object that need to be told more than its number.
TOLD = {
    "definitions/places/?disk=%(id)s": "disks",
    "definitions/load/spread/?node=%(id)s&hour=22": "nodes",
    "definitions/overview/?node=%(id)s": "nodes",
    "definitions/overview/?tenant=%(id)s": "tenants",
    "backups/%(id)s/note/": "backups",
    "backups/?server=%(id)s": "servers",
}
# What the API's own tables ask for beside the number, and of which list's first row that is.
API_QUERIES = {
    "definitions/choices/": ("?disk=%(id)s", "disks"),
    "backups/<pk>/restore-preview/": ("?target=%(disk)s", "backups"),
}
# What everybody sees alike.
API_OTHERS = ("schema/", "docs/", "/api/accounts/logout/?")
# Where the API's list of a page's objects is called otherwise.
OBJECTS = {"copies": "stray-copies"}
# GET of the es grammar below /api/, of a row of the API's list; whole lists are asked for by the page.
WHOLE = "full=true&extended=true&page=1&limit=100"
ES = {
    f"vm?{WHOLE}": "",
    "vm?page=1": "",
    "vm/%(name)s": "servers",
    f"vm/define/backup?{WHOLE}": "",
    f"vm/%(name)s/define/backup?{WHOLE}": "servers",
    "vm/%(server_name)s/define/backup/%(name)s": "definitions",
    f"vm/%(name)s/backup?{WHOLE}": "servers",
    "vm/%(server_name)s/backup/%(name)s": "backups",
    f"dc?{WHOLE}": "",
    "dc/%(name)s": "tenants",
    f"node?{WHOLE}": "",
    "node/%(name)s": "nodes",
    f"node/%(name)s/define/backup?{WHOLE}": "nodes",
    f"node/%(name)s/backup?{WHOLE}": "nodes",
    f"node/%(name)s/storage?{WHOLE}": "nodes",
    "task": "",
    "task/log": "",
    "task/log/stats": "",
    "task/%(id)s": "jobs",
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
    """`kind`: list, next (the page after the first), page, detail, es, poll, export.

    A detail is that of the first row of `of`, of tenants and vaults that of the largest one.
    """

    name: str
    kind: str
    address: str
    of: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def filled(self, row: dict[str, Any]) -> str:
        return self.address % {**row, "key": row.get("id") or row.get("code")}


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
    """Every list of the API, from its router, every page of the portal, from the tables of its tests, and es."""
    yield from _of_api()
    yield from _of_portal()
    for path, of in ES.items():
        yield Page(f"es {path.partition('?full')[0]}", "es", f"/api/{path}", of=of)


def _of_api() -> Iterator[Page]:
    for prefix, viewset, _ in router.registry:
        yield Page(f"api {prefix}", "list", f"/api/v1/{prefix}/")
        yield from (
            Page(f"api {prefix}?{query}", "list", f"/api/v1/{prefix}/?{query}") for query in VARIANTS.get(prefix, ())
        )
        if issubclass(viewset.pagination_class or BasePagination, KeysetPaging):
            yield Page(f"api {prefix}, 2nd page", "next", f"/api/v1/{prefix}/")
        yield Page(f"api {prefix}/<id>", "detail", f"/api/v1/{prefix}/%(key)s/", of=prefix)
    lists = {f"{prefix}/{rest}" for prefix, _, _ in router.registry for rest in ("", "<pk>/")}
    for method, path in TABLE:
        if method == "GET" and path not in lists and path not in API_OTHERS:
            query, of = API_QUERIES.get(path, ("", path.split("/")[0] if "<pk>" in path else ""))
            yield Page(f"api {path}", "detail", f"/api/v1/{path.replace('<pk>', '%(key)s')}{query}", of=of)
    for prefix in EXPORTED:
        yield Page(f"api {prefix}?format=csv", "export", f"/api/v1/{prefix}/?format=csv")


def _of_portal() -> Iterator[Page]:
    """A list is what has a list of the same name in the API, or was always one."""
    lists = {prefix for prefix, _, _ in router.registry}
    for path in COLLECTIONS:
        kind = "list" if path.removesuffix("/") in lists else "page"
        yield Page(f"portal /{path}", kind, f"/{path}")
        for query in PORTAL_VARIANTS.get(path, ()):
            # Four times as many as one gets unasked are no usual list.
            asked = "page" if "rows=200" in query else kind
            yield Page(f"portal /{path}?{query}", asked, f"/{path}?{query}")
    for path in READ_PAGES:
        first = path.split("/")[0]
        of = OBJECTS.get(first, first)
        yield Page(f"portal /{path}", "detail", f"/{path.replace('<pk>', '%(key)s')}", of=of)
    yield from (Page(f"portal /{path}", "detail", f"/{path}", of=of) for path, of in TOLD.items())
    for path in POLLS:
        yield Page(f"portal /{path}, asked again", "poll", f"/{path}", headers={"HX-Request": "true"})
    yield from (Page(f"portal /{path}/ as CSV", "export", f"/{path}/?format=csv") for path in EXPORTED)
