"""A person who may only look is refused everywhere, by what his browser sends: every page and every form of the portal,
of his own tenant and of another one, with his session and the right token against forgery."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.apps import apps
from django.core.cache import cache
from django.db import transaction
from django.urls import get_resolver
from playwright.sync_api import Browser, Page, expect

from definitions.models import PolicyAssignment
from tenants.models import AuditEvent, AuditHead, RefusalBucket
from tenants.models.sign_in import PortalSession
from tests.portal.test_pages import COLLECTIONS, READ_PAGES, WRITE_PAGES, _portal_paths, address_of, form_of
from tests.ui.looking import looking, needs_chromium, picture
from tests.ui.test_every_page import let_in
from tests.worlds import Estate, World, make_world

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    needs_chromium,
    pytest.mark.django_db(transaction=True),
]
# [method, address, [[name, value], ...]] -> [status, what <main> says], as forms send it, in the session of the page.
_SEND = """async requests => {
  const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
  const told = [];
  for (const [method, address, fields] of requests) {
    const options = { method, redirect: "manual" };
    if (method === "POST") {
      options.body = new FormData();
      for (const [name, value] of [["csrfmiddlewaretoken", token], ...fields]) options.body.append(name, value);
    }
    const answer = await fetch(address, options);
    const shown = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = shown.querySelector("main:has(h1)");
    // Where a redirection leads is told to no script.
    told.push([answer.type === "opaqueredirect" ? 302 : answer.status, main ? main.textContent : ""]);
  }
  return told;
}"""
# Of everybody for himself, or of nobody: what they do to whom is in tests/portal/test_sign_in*.py, test_tokens.py, ...
OF_EVERYBODY = {
    *("login/", "logout/", "login/code/", "login/passkey/", "login/cancelled/", "login/error/"),
    *("login/oidc/<slug:provider_id>/", "login/oidc/<slug:provider_id>/callback/"),
    *("confirm/", "confirm/code/", "confirm/passkey/", "password/reset/", "password/reset/<uidb64>/<token>/"),
    *("sign-in/", "sign-in/password/", "sign-in/app/", "sign-in/code/", "sign-in/app/remove/", "sign-in/passkeys/add/"),
    *("sign-in/recovery-codes/", "sign-in/recovery-codes/new/", "sign-in/sessions/end/"),
    *("join/", "join/<str:token>/", "livez", "readyz", "agent/install.sh", "agent/downloads/<str:file>"),
    # Tokens and mails of his own.
    *("tokens/new/", "subscriptions/new/"),
}
ONLY_READ = {"people/<pk>/sign-in/"}
# Of what is a list for some and a form for others: 405 where nobody sends anything, and that is no page.
SOME_REFUSAL, NO_FORM = 0, 405
Request = tuple[str, str, list[tuple[str, str]]]


def others(world: World, estate: Estate) -> dict[str, tuple[str, list[tuple[str, str]], int]]:
    """What is in no table of pages: the address, what is typed, and the status of the refusal."""
    person = f"people/{estate.member.pk}/sign-in/"
    assignment = PolicyAssignment.objects.get(tenant=estate.tenant)
    backup, definition = str(estate.backup.pk), str(estate.definition.pk)
    session = PortalSession.objects.get(person=world.people["super"])
    passkey = Authenticator.objects.get(user=world.people["super"])
    return {
        "regions/<str:code>/edit/": (f"regions/{estate.server.region_id}/edit/", [("title", "x")], 404),
        "policies/<pk>/take-back/<int:assignment_pk>/": (
            f"policies/{estate.policy.pk}/take-back/{assignment.pk}/",
            [],
            404,
        ),
        "approvals/rules/": (
            "approvals/rules/",
            [("kind", "key.export"), ("tenant", str(estate.tenant.pk)), ("required", "on")],
            403,
        ),
        "backups/bulk/": ("backups/bulk/", [("ids", backup), ("confirmation", "delete 1 backup")], 403),
        "definitions/bulk/": ("definitions/bulk/", [("ids", definition), ("action", "pause")], 403),
        "definitions/load/move/": (
            f"definitions/load/move/?node={estate.node.pk}&hour=22",
            [("definition", definition), ("to", "9")],
            404,
        ),
        "people/<pk>/sign-in/": (person, [], 404),
        "people/<pk>/sign-in/reset-mfa/": (f"{person}reset-mfa/", [], 404),
        "people/<pk>/sign-in/end-sessions/": (f"{person}end-sessions/", [], 404),
        "tokens/<pk>/end/": (f"tokens/{estate.token.pk}/end/", [], 404),
        "tokens/<pk>/rotate/": (f"tokens/{estate.token.pk}/rotate/", [], 404),
        "sign-in/passkeys/<int:pk>/remove/": (f"sign-in/passkeys/{passkey.pk}/remove/", [], 404),
        "sign-in/sessions/<slug:key>/end/": (f"sign-in/sessions/{session.pk}/end/", [], 404),
    }


def what_is_refused(world: World) -> list[tuple[Request, int]]:
    """Each page that he may not open and each form that he may not send, with the status of the answer."""
    found: list[tuple[Request, int]] = []
    for estate in (world.ours, world.theirs):
        is_foreign = estate is world.theirs
        for method, table in (("GET", READ_PAGES), ("GET", COLLECTIONS), ("POST", WRITE_PAGES)):
            for path, statuses in table.items():
                if is_foreign and "<pk>" not in path:
                    continue
                status = 404 if is_foreign else statuses[2]
                fields = [(name, str(value)) for name, value in form_of(estate, path).items()]
                # The rest is his to see.
                if status >= 400:
                    found.append(((method, address_of(path, estate), fields if method == "POST" else []), status))
        for path, (address, typed, status) in others(world, estate).items():
            found.append((("GET" if path in ONLY_READ else "POST", f"/{address}", typed), status))
    found += [(("POST", f"/{path}", []), SOME_REFUSAL) for path in COLLECTIONS if path not in OF_EVERYBODY]
    return found


def every_row() -> dict[str, str]:
    """A digest of each table; without sessions, which note each request, and of the audit without the refusals."""
    models = [model for model in apps.get_models() if model not in {PortalSession, AuditHead, RefusalBucket}]
    tables = {model._meta.label: model._default_manager.order_by("pk") for model in models}
    tables[AuditEvent._meta.label] = AuditEvent.objects.exclude(action="access.refused").order_by("pk")
    return {name: sha256(repr(list(rows.values_list())).encode()).hexdigest() for name, rows in tables.items()}


def send(page: Page, requests: list[Request]) -> list[tuple[int, str]]:
    return [tuple(told) for told in page.evaluate(_SEND, requests)]


@pytest.fixture
def world(transactional_db: None) -> World:
    cache.clear()
    with transaction.atomic():
        made = make_world()
        for estate in (made.ours, made.theirs):
            PolicyAssignment.objects.create(policy=estate.policy, tenant=estate.tenant)
        Authenticator.objects.create(user=made.people["super"], type=Authenticator.Type.WEBAUTHN, data={})
        made.client("super")
    return made


def test_every_form_and_page_is_among_what_is_tried(world: World) -> None:
    tried = {*READ_PAGES, *WRITE_PAGES, *COLLECTIONS, *others(world, world.ours)}

    assert set(_portal_paths(get_resolver().url_patterns)) == tried | OF_EVERYBODY


def test_an_owner_is_refused_everywhere(browser: Browser, live_server: Any, world: World) -> None:
    """With words, as a page; and nothing is any other than before."""
    refused = what_is_refused(world)
    with looking(browser) as looker:
        page = looker.page
        looker.may_be_refused = True
        let_in(looker, world.client("owner_a1"), live_server.url)
        page.goto(f"{live_server.url}/servers/")
        before = every_row()
        told = send(page, [request for request, _ in refused])
        for ((method, address, _), status), (answered, text) in zip(refused, told, strict=True):
            if answered != status and not (status == SOME_REFUSAL and answered in {403, 404, NO_FORM}):
                looker.fault(f"{method} {address} answers {answered} instead of {status}: {text.split()[:20]}")
            if not text.strip() and answered != NO_FORM:
                looker.fault(f"{method} {address} is refused without a word")
        after = every_row()
        page.goto(f"{live_server.url}/backups/{world.ours.backup.pk}/restore/")
        looker.look()
        expect(page.locator("main")).to_contain_text("Ask an administrator of the tenant")
        picture(page, "owner-restore")
    assert after == before
