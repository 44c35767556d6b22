"""The main menu: one row for each page that can be reached from everywhere, and for whom it is.

A page that is not here is reached from one that is. Whether somebody may open a page is never decided here: a row that
he could not use is left out, and that is all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from django import template
from django.http import HttpRequest
from django.urls import reverse

register = template.Library()


class Who(IntEnum):
    """Each sees what those before him see."""

    EVERYBODY = 0
    ADMINISTRATOR = 1
    SUPER_ADMIN = 2


@dataclass(frozen=True, slots=True)
class Page:
    """`of` are the beginnings of the names of addresses that belong to the page; its own name does without."""

    title: str
    name: str
    who: Who = Who.EVERYBODY
    of: tuple[str, ...] = ()

    def claim(self, here: str) -> int:
        """How much of the name of an address speaks for this page; 0: nothing."""
        if here == self.name:
            return len(here) + 1
        return max((len(prefix) for prefix in self.of if here.startswith(prefix)), default=0)


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    pages: tuple[Page, ...]


_ADMINISTRATOR, _SUPER_ADMIN = Who.ADMINISTRATOR, Who.SUPER_ADMIN
DIRECT = (
    Page("Overview", "dashboard", of=("overview",)),
    Page("Servers", "server-list", of=("server",)),
    Page("Definitions", "definition-list", of=("definition", "schedule")),
    Page("Backups", "backup-list", of=("backup",)),
    Page("Jobs", "job-list", of=("job",)),
    Page("Restores", "restore-list", of=("restore", "asked-restore")),
    Page("Agents", "agent-list", of=("agent", "enrolment")),
)
GROUPS = (
    Group(
        "Planning",
        (
            Page("How definitions stand", "definition-overview", _ADMINISTRATOR),
            Page("Planner", "definition-load", _ADMINISTRATOR, of=("definition-spread", "planner")),
            Page("Policies", "policy-list", _ADMINISTRATOR, of=("policy",)),
            Page("What is kept", "simulation", _ADMINISTRATOR),
            Page("Pauses", "hold-list", _ADMINISTRATOR, of=("hold", "pause", "blackout")),
        ),
    ),
    Group(
        "Places",
        (
            Page("Nodes", "node-list", _ADMINISTRATOR, of=("node", "storage")),
            Page("Vaults", "vault-list", _ADMINISTRATOR, of=("vault", "alarm")),
            Page("Regions", "region-list", _ADMINISTRATOR, of=("region",)),
            Page("Budgets", "budget-list", _SUPER_ADMIN, of=("budget",)),
            Page("Unknown copies", "stray-list", _SUPER_ADMIN, of=("stray",)),
        ),
    ),
    Group(
        "Administration",
        (
            Page("Tenants", "tenant-list", _ADMINISTRATOR, of=("tenant",)),
            Page("Orders", "order-list", _SUPER_ADMIN, of=("order",)),
            Page("People", "people-list", _ADMINISTRATOR, of=("people", "person", "invitation")),
            Page("Keys", "key-list", _ADMINISTRATOR, of=("key",)),
            Page("Approvals", "approval-list", _ADMINISTRATOR, of=("approval",)),
            Page("Audit", "audit-list", _ADMINISTRATOR, of=("audit",)),
            Page("Releases of the agent", "release-list", _SUPER_ADMIN, of=("release",)),
            Page("Health", "health", _SUPER_ADMIN),
            Page("Settings", "settings", _SUPER_ADMIN, of=("settings",)),
        ),
    ),
)
PERSONAL = (
    Page("Your sign-in", "mfa_index", of=("mfa_", "account_", "password")),
    Page("Notifications", "notice-list", of=("notice", "webhook", "subscription")),
    Page("Tokens", "token-list", of=("token",)),
    Page("API", "api:docs"),
)


@dataclass(frozen=True, slots=True)
class ShownPage:
    title: str
    address: str
    is_here: bool


@dataclass(frozen=True, slots=True)
class ShownGroup:
    title: str
    pages: list[ShownPage] = field(default_factory=list)

    @property
    def is_here(self) -> bool:
        return any(page.is_here for page in self.pages)


@register.inclusion_tag("_menu.html", takes_context=True)
def main_menu(context: dict[str, Any]) -> dict[str, Any]:
    """What the person who looks can use, with the page that he is on marked."""
    request: HttpRequest = context["request"]
    who = role_of(request)
    here = _here(request.resolver_match.view_name or "" if request.resolver_match else "", who)
    groups = [ShownGroup(group.title, _shown(group.pages, who, here)) for group in GROUPS]
    return {
        "direct": _shown(DIRECT, who, here),
        "groups": [group for group in groups if group.pages],
        "personal": ShownGroup(request.user.username, _shown(PERSONAL, who, here)),
    }


@register.inclusion_tag("_crumbs.html", takes_context=True)
def way_back(context: dict[str, Any]) -> dict[str, Any]:
    """To the page of the menu that this one belongs to, or to the first one; for pages that say no more exact way.

    Nothing where that is the page itself, or nobody signed in.
    """
    request: HttpRequest = context["request"]
    # A request that is refused before anybody looks who asks has no user.
    who = getattr(request, "user", None)
    if who is None or not who.is_authenticated or request.resolver_match is None:
        return {}
    name = request.resolver_match.view_name or ""
    here = _here(name, role_of(request)) or DIRECT[0]
    if here.name == name:
        return {}
    return {"first": here.title, "first_url": reverse(here.name)}


@register.simple_tag(takes_context=True)
def administers(context: dict[str, Any]) -> bool:
    """Whether somebody looks who administers anything: for sentences that say who does the next step."""
    return role_of(context["request"]) >= Who.ADMINISTRATOR


@register.simple_tag(takes_context=True)
def nearby(context: dict[str, Any]) -> list[ShownPage]:
    """Where to look for what is not at this address: the list of that kind; where that is not known, the main lists."""
    request: HttpRequest = context["request"]
    person = getattr(request, "user", None)
    if person is None or not person.is_authenticated:
        return []
    who = role_of(request)
    here = _here(request.resolver_match.view_name or "", who) if request.resolver_match else None
    found = (here,) if here is not None and here is not DIRECT[0] else DIRECT[1:5]
    return _shown(found, who, None)


def role_of(request: HttpRequest) -> Who:
    """As the session knows it: looked up once a minute, which is soon enough for a menu."""
    if request.user.is_superuser:
        return Who.SUPER_ADMIN
    guard = request.session.get("guard", {})
    return Who.ADMINISTRATOR if guard.get("administrator") else Who.EVERYBODY


def every_page() -> Iterator[Page]:
    yield from DIRECT
    for group in GROUPS:
        yield from group.pages
    yield from PERSONAL


def _here(name: str, who: Who) -> Page | None:
    """The page of the menu that the address belongs to most closely."""
    best = max((page for page in every_page() if page.who <= who), key=lambda page: page.claim(name))
    return best if best.claim(name) else None


def _shown(pages: tuple[Page, ...], who: Who, here: Page | None) -> list[ShownPage]:
    return [ShownPage(page.title, reverse(page.name), page is here) for page in pages if page.who <= who]
