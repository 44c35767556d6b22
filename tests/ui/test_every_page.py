"""Every page of the portal in a real browser, by role: what axe-core, the console, a phone and the keyboard say.

And where its links lead: nobody is shown one that does not work for him.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from django.conf import settings
from django.contrib.auth.tokens import default_token_generator
from django.core.cache import cache
from django.db import transaction
from django.urls import get_resolver, resolve
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode
from playwright.sync_api import Browser

from tenants.models import Invitation
from tests.factories import disk_of, make_backup, make_definition, make_invitation, make_job
from tests.portal.test_pages import COLLECTIONS, READ_PAGES, WRITE_PAGES, _portal_paths, address_of
from tests.signing_in import confirm
from tests.soft_passkey import SoftPasskey
from tests.statements import MOST_STATEMENTS, counted_statements, leave_session_alone
from tests.ui.form_rows import BACKUP, DISK, FORMS
from tests.ui.looking import DOCS, Looker, looking, needs_chromium, shown_pictures
from tests.worlds import World, make_world

pytestmark = [
    pytest.mark.long,
    pytest.mark.browser,
    pytest.mark.timeout(1200),
    needs_chromium,
    pytest.mark.django_db(transaction=True),
]
# Who looks, and the place of his status in the tables of tests/portal/test_pages.py.
ROLES = {"super": 0, "admin_a": 1, "owner_a1": 2}
# Addresses that need more than the id of a row of the world.
FILLED: dict[str, Callable[[World], str]] = {
    "join/<str:token>/": lambda world: f"join/{invited(world).email}/",
    "password/reset/<uidb64>/<token>/": lambda world: f"password/reset/{_reset_link(world)}/",
    "sign-in/passkeys/<int:pk>/remove/": lambda world: f"sign-in/passkeys/{Authenticator.objects.first().pk}/remove/",
    "regions/<str:code>/edit/": lambda world: f"regions/{world.ours.server.region_id}/edit/",
    "definitions/load/spread/": lambda world: f"definitions/load/spread/?node={world.ours.node.pk}&hour=1",
    "definitions/new/": lambda world: f"definitions/new/?disk={disk_of(world.ours.other_server).pk}",
}
# No pages of ours, each with an argument of its own; and signing out, which would end the round.
NO_PAGES = {
    "agent/downloads/<str:file>",
    "login/oidc/<slug:provider_id>/",
    "login/oidc/<slug:provider_id>/callback/",
    "policies/<pk>/take-back/<int:assignment_pk>/",
    "sign-in/sessions/<slug:key>/end/",
    "logout/",
}
ASKED_PASSKEY = {"publicKey": {"user": {"id": ""}, "rp": {"id": "localhost"}, "challenge": ""}}
# They put the secret of the link into the session, and lead to the page.
LEADING = ("/join/", "/password/reset/")
# In between two pages: one goes on, or back by the browser.
WITHOUT_WAY_BACK = ("/join/", "/confirm/", "/login/")
# One that a person fills in, and that the browser would send.
VISIBLE_FIELD = re.compile(r'<(?:select|textarea)\b|<input\b(?![^>]*type="(?:hidden|checkbox|radio)")')
# What is alike is looked at once, whatever its role: as the browser has it, and as it is sent.
SHAPES: set[str] = set()
SENT: set[frozenset[str]] = set()


def all_paths() -> set[str]:
    return set(_portal_paths(get_resolver().url_patterns)) - NO_PAGES


def test_every_address_can_be_opened() -> None:
    """A new page with an argument of its own needs a line in FILLED; others are looked at by themselves."""
    assert {path for path in all_paths() if "<" in path.replace("<pk>", "")} <= set(FILLED)


def test_the_guides_show_pictures_that_are_there() -> None:
    """`make pictures` makes them."""
    shown = shown_pictures()

    assert len(shown) >= 9
    assert {path.name for path in (DOCS / "pictures").iterdir()} == {f"{name}.png" for name in shown}


@pytest.mark.parametrize("role", [*ROLES, "anonymous"])
def test_every_page_of_a_role(browser: Browser, live_server: Any, role: str, record_property: Any) -> None:
    world = rich_world()
    client = client_of(world, role)
    addresses = [address(path, world) for path in sorted(all_paths()) if may_be_open(path, role)]
    answers = {page: client.get(page, follow=page.startswith(LEADING)) for page in addresses}
    pages = {page: answer.content.decode() for page, answer in answers.items() if is_page(answer)}
    new = [page for page, text in pages.items() if is_new(text)]
    with looking(browser, shapes=SHAPES) as looker:
        looker.links |= {link for text in pages.values() for link in re.findall(r'<a [^>]*href="(/[^"]*)"', text)}
        let_in(looker, client, live_server.url)
        for page in new:
            looker.visit(live_server.url + page)
        if role in ROLES:
            looker.page.goto(live_server.url)
            looker.look_at_menus()
        assert looker.page_count == len(new)
        look_at_forms(looker, client, world, role, live_server.url)
        record_property("counted", ("pages in the browser", looker.page_count))
        for link in one_of_each_kind({html.unescape(link) for link in looker.links} - set(pages)):
            if (status := client.get(link).status_code) >= 400:
                looker.faults.append(f"a link on the pages leads to {link}, which answers {status}")

    assert set().union(*(forms_on(answers[page].request["PATH_INFO"], text) for page, text in pages.items())) <= set(
        FORMS
    )
    assert len(pages) >= (4 if role == "anonymous" else 30)
    assert role == "anonymous" or {page for page, text in pages.items() if not has_way_back(page, text)} == set()


def look_at_forms(looker: Looker, client: Any, world: World, role: str, portal: str) -> None:
    """Each form of the table that the role fills in, after it was refused. Only a POST of one makes nothing."""
    if role in ROLES:
        confirm_by_passkey(client)
        leave_session_alone(client)
    for route, row in FORMS.items():
        if row.by != role:
            continue
        page = filled_address(route, client, world)
        ids = {BACKUP: str(world.ours.backup.pk), DISK: str(disk_of(world.ours.server).pk)}
        typed = {name: ids.get(value, value) for name, value in row.typed.items()}
        with counted_statements() as statements:
            answer = client.post(page, typed, format="multipart")
        if len(statements) > MOST_STATEMENTS:
            looker.faults.append(f"{route} refuses with {len(statements)} statements")
        if answer.status_code != row.status:
            looker.faults.append(f"{route} answers {answer.status_code} to what is wrong, not {row.status}")
        looker.look_at_errors(portal + page, answer, typed=typed, wrong=row.fields)


def filled_address(route: str, client: Any, world: World) -> str:
    """Of the route, as a person comes there. The invitation is known since its link was opened, as all pages were."""
    page = address(route.replace("<uuid:pk>", "<pk>"), world)
    if route == "sign-in/app/" or page.startswith(LEADING):
        return str(client.get(page, follow=True).request["PATH_INFO"])
    return page


def forms_on(page: str, text: str) -> set[str]:
    """The routes of the forms that post and have a field to fill in."""
    found = re.findall(r'<form\b([^>]*method="post"[^>]*)>(.*?)</form>', text, re.DOTALL)
    actions = [re.search(r'action="([^"]*)"', head) for head, body in found if VISIBLE_FIELD.search(body)]
    return {resolve(urlsplit(html.unescape(action[1]) if action else page).path).route for action in actions}


def has_way_back(page: str, text: str) -> bool:
    """A page that is not in the menu leads to one that is."""
    in_menu = f'href="{urlsplit(page).path}"' in text[: text.index("</header>")] if "</header>" in text else True
    return in_menu or 'aria-label="Breadcrumb"' in text or page.startswith(WITHOUT_WAY_BACK)


class Shape(HTMLParser):
    """The elements of a document, each with its class and the names of its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.elements.add(f"{tag} {named.get('class')} {sorted(named)}")


def is_new(text: str) -> bool:
    """Whether no page with the same elements was met before, of any role."""
    shape = frozenset(Shape(text).elements)
    known = shape in SENT
    SENT.add(shape)
    return not known


def may_be_open(path: str, role: str) -> bool:
    """Of what the tables of test_pages.py know, what the role is shown; of others, all."""
    if path in READ_PAGES or path in COLLECTIONS:
        return role in ROLES and (READ_PAGES.get(path) or COLLECTIONS[path])[ROLES[role]] == 200
    return path not in WRITE_PAGES


def one_of_each_kind(links: set[str]) -> list[str]:
    """Of links to the same view with the same arguments in the query, the first."""
    found: dict[tuple[str, ...], str] = {}
    for link in sorted(links):
        parts = urlsplit(link)
        found.setdefault((resolve(parts.path).route, *sorted(parse_qs(parts.query, keep_blank_values=True))), link)
    return list(found.values())


def is_page(answer: Any) -> bool:
    """Fragments that htmx asks for have no document around them; what leads elsewhere is a page of its own."""
    is_html = answer.headers.get("Content-Type", "").startswith("text/html")
    # Not signed in after all: a page of the single sign-on.
    return answer.status_code in (200, 401) and is_html and b"<title>" in answer.content


def address(path: str, world: World) -> str:
    if path in FILLED:
        return "/" + FILLED[path](world)
    try:
        return address_of(path, world.ours)
    except KeyError as error:
        raise AssertionError(f"{path}: {error} is not in Estate.object_of") from None


def rich_world() -> World:
    """More than the world of all tests: jobs and backups of every state, and a passkey."""
    cache.clear()
    with transaction.atomic():
        world = make_world()
        server, definition = world.ours.server, world.ours.definition
        make_job(server, definition=definition, state="running")
        make_job(server, definition=definition, state="failed", message="The disk could not be read.")
        make_job(world.ours.other_server, definition=make_definition(world.ours.other_server))
        for number, (status, health) in enumerate([("lost", "missing"), ("ok", "damaged"), ("ok", "verified")]):
            note = "before the upgrade " * 10 if number else ""
            make_backup(server, definition=definition, status=status, health=health, note=note)
        for role in ROLES:
            passkey = SoftPasskey(origin="http://localhost").create(ASKED_PASSKEY)
            data = {"name": "laptop", "credential": json.loads(passkey)}
            Authenticator.objects.create(user=world.people[role], type=Authenticator.Type.WEBAUTHN, data=data)
            RecoveryCodes.activate(world.people[role])
    return world


def client_of(world: World, role: str) -> Any:
    """Signed in, and confirmed just now by the passkey."""
    client = world.client(role)
    if role in ROLES:
        confirm_by_passkey(client)
    return client


def confirm_by_passkey(client: Any) -> None:
    """It holds for five minutes, which are not enough for all pages on a busy machine."""
    confirm(client, method="mfa", type=Authenticator.Type.WEBAUTHN, reauthenticated=True)


def invited(world: World) -> Invitation:
    return make_invitation(world.ours.tenant, email="new@example.org", inviter=world.people["super"])


def let_in(looker: Looker, client: Any, portal: str) -> None:
    """The browser goes on with the client's session, if it has one."""
    if cookie := client.cookies.get(settings.SESSION_COOKIE_NAME):
        looker.page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": portal}])


def _reset_link(world: World) -> str:
    person = world.people["admin_b"]
    assert person is not None
    return f"{urlsafe_base64_encode(force_bytes(person.pk))}/{default_token_generator.make_token(person)}"
