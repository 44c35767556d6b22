"""Pages that only a POST, an error or a half-done sign-in shows, in a real browser; what their scripts do there."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.cache import cache
from django.template.loader import render_to_string
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Browser, expect
from rest_framework.test import APIClient

from agents.models import Server
from backups.models import VaultFigures
from backupsite.templatetags.menu import DIRECT, every_page
from tenants.sign_in.enrolling import EnrolForm
from tests.factories import make_definition, make_person, make_tenant
from tests.signing_in import sign_in
from tests.ui.looking import Looker, looking, needs_chromium
from tests.ui.test_every_page import Shape, client_of, let_in, rich_world
from tests.worlds import World

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    needs_chromium,
    pytest.mark.django_db(transaction=True),
]
# What a page says where a list would be.
EMPTY = re.compile(r'<div class="empty.*?</div>', re.DOTALL)
PASSWORD = "a-long-password-of-the-test"


def till(world: World) -> Any:
    """The id of a server on no node, which needs an agent."""
    return Server.objects.create(name="till", tenant=world.ours.tenant, region=world.ours.server.region).pk


def posts(world: World) -> dict[str, tuple[dict[str, str], int]]:
    """The address, what is typed there, and the status of the answer."""
    node, server, key = world.ours.node.pk, till(world), world.ours.key.pk
    row = make_definition(world.ours.server, name="late", cron="30 22 * * *", time_zone="UTC")
    return {
        "/tokens/new/": ({"label": "script", "scope": "read", "days": "30"}, 200),
        f"/webhooks/{world.ours.webhook.pk}/rotate/": ({}, 200),
        f"/keys/{key}/test/": ({}, 200),
        f"/definitions/load/move/?node={node}&hour=22": ({"definition": str(row.pk), "to": "9", "look": "1"}, 200),
        f"/definitions/load/spread/?node={node}&hour=22": ({"start": "22:00", "end": "23:59", "look": "1"}, 200),
        "/backups/bulk/": ({"ids": str(world.ours.backup.pk)}, 200),
        f"/servers/{server}/enrol/": ({"expected_host": "till01", "minutes": "60"}, 200),
    }


def show(looker: Looker, address: str, answer: Any, *, status: int = 200) -> None:
    """The answer as the browser would have had it, with its own headers."""
    names = ("Content-Type", "Content-Security-Policy")
    sent = {name: answer[name] for name in names if name in answer.headers}
    looker.page.route(address, lambda route: route.fulfill(status=status, headers=sent, body=answer.content))
    looker.page.goto(address)
    looker.page.unroute(address)
    looker.look()


def test_what_answers_a_post(browser: Browser, live_server: Any) -> None:
    world = rich_world()
    client = client_of(world, "admin_a")
    with looking(browser) as looker:
        let_in(looker, client, live_server.url)
        for address, (typed, status) in posts(world).items():
            answer = client.post(address, typed, format="multipart")
            assert answer.status_code == status, f"{address}: {answer.status_code} {answer.content[-1500:]!r}"
            show(looker, live_server.url + address, answer)


def test_errors_have_pages_too(browser: Browser, live_server: Any) -> None:
    world = rich_world()
    forged = Client(enforce_csrf_checks=True).post("/login/", {"username": "a", "password": "b"})
    broken = world.client("admin_a").get("/nothing/")
    broken.content = render_to_string("500.html", {"problem": {"detail": "It broke."}}).encode()
    assert forged.status_code == 403
    with looking(browser) as looker:
        show(looker, live_server.url + "/login/", forged)
        show(looker, live_server.url + "/broken/", broken)
        show(looker, live_server.url + "/nothing/", world.client("admin_a").get("/nothing/"))
        assert looker.page_count == 3


def test_the_api_is_described_on_pages_that_can_be_read(browser: Browser, live_server: Any) -> None:
    """By a person who is signed in, who comes by the menu and goes on, and by others."""
    world = rich_world()
    with looking(browser) as looker:
        page = looker.page
        looker.visit(live_server.url + "/api/v1/docs/")
        let_in(looker, client_of(world, "owner_a1"), live_server.url)
        page.goto(live_server.url + "/servers/")
        page.locator("header .portal-person summary").first.click()
        page.get_by_role("link", name="API", exact=True).click()
        page.get_by_role("link", name="jobs", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("API: jobs")
        looker.look()
        expect(page.get_by_role("navigation", name="Breadcrumb").get_by_role("link", name="API")).to_be_visible()
        assert looker.page_count == 2


def test_pages_with_nothing_on_them_yet(browser: Browser, live_server: Any) -> None:
    """Of somebody whose tenant is new, and of who has nothing at all; one page of each way to say so."""
    cache.clear()
    known: set[frozenset[str]] = set()
    people = {
        "super": make_person("first", superadmin=True),
        "admin": make_person("new", administers=[make_tenant("Empty")]),
        "owner": make_person("guest"),
    }
    with looking(browser) as looker:
        for name, person in people.items():
            client = APIClient()
            sign_in(client, person)
            let_in(looker, client, live_server.url)
            for page in every_page() if name != "super" else DIRECT[:1]:
                answer = client.get(reverse(page.name))
                said = frozenset(Shape("".join(EMPTY.findall(answer.content.decode()))).elements)
                if answer.status_code == 200 and (page in DIRECT[:1] or (said and said not in known)):
                    looker.visit(live_server.url + reverse(page.name))
                    known.add(said)
        assert len(known) > 2


def rendered(world: World) -> dict[str, tuple[str, dict[str, Any]]]:
    """What is shown once, or after something that no test of a browser does: the address, the template, and its values.

    No address makes these without changing who may come in.
    """
    key = world.ours.key
    return {
        f"/keys/{key.pk}/show/": ("vaults/recovery_key.html", {"key": key, "recovery_key": "ABCD-EFGH-" * 12}),
        "/too-many/": ("429.html", {}),
        "/password/reset/sent/": ("tenants/password_reset_sent.html", {}),
        "/sign-in/app/remove/": ("mfa/totp/deactivate_form.html", {}),
        "/confirm/": ("account/reauthenticate.html", {"form": {}}),
        "/sign-in/code/": ("mfa/enrol_code.html", {"has_address": True, "is_sent": True, "form": EnrolForm()}),
    }


def test_what_is_shown_after_a_step_that_cannot_be_repeated(browser: Browser, live_server: Any) -> None:
    world = rich_world()
    client = client_of(world, "admin_a")
    request = RequestFactory().get("/")
    request.user, request.session = world.people["admin_a"], client.session
    with looking(browser) as looker:
        let_in(looker, client, live_server.url)
        for address, (template, values) in rendered(world).items():
            answer = client.get("/nothing/")
            answer.content = render_to_string(template, values, request=request).encode()
            show(looker, live_server.url + address, answer)


def test_a_full_hour_and_much_in_a_vault_can_be_read(browser: Browser, live_server: Any) -> None:
    """Every shade of the planner, in both colours; the charts, and what a vault says of its locks."""
    world = rich_world()
    for hour in range(24):
        for minute in range(hour // 2 + 1):
            make_definition(world.ours.server, name=f"h{hour}m{minute}", cron=f"{minute} {hour} * * *", time_zone="UTC")
    tail = [[f"{timezone.now():%Y-%m-%d}", 3 << 30]]
    VaultFigures.objects.update_or_create(
        vault=world.ours.vault,
        defaults={
            "counted_at": timezone.now(),
            "backup_count": 2,
            "violation_count": 1,
            "ending_count": 1,
            "stored_bytes": 5 << 30,
            "lock_tail": tail,
        },
    )
    simulation = "cron=0+3+*+*+*&time_zone=UTC&retention_count=5&size_gib=10&change_percent=2&days=60&lock_days=14"
    with looking(browser) as looker:
        let_in(looker, client_of(world, "admin_a"), live_server.url)
        for address in (
            "/definitions/load/",
            f"/vaults/{world.ours.vault.pk}/",
            f"/definitions/simulation/?{simulation}",
        ):
            looker.visit(live_server.url + address)
        looker.page.goto(live_server.url + "/definitions/load/")
        assert looker.page.locator(".heat-9").count() > 0, "no hour is full"


def test_the_second_factor_is_asked_on_a_page_that_can_be_read(browser: Browser, live_server: Any) -> None:
    world = rich_world()
    person = world.people["admin_a"]
    assert person is not None
    person.set_password(PASSWORD)
    person.save()
    with looking(browser) as looker:
        page = looker.page
        page.goto(live_server.url + "/login/")
        page.get_by_label("User name").fill(person.username)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in", exact=True).click()
        expect(page.get_by_label("Password")).to_have_count(0)
        looker.look()


def test_the_chosen_colours_stay(browser: Browser, live_server: Any) -> None:
    world = rich_world()
    with looking(browser) as looker:
        page = looker.page
        let_in(looker, client_of(world, "owner_a1"), live_server.url)
        page.goto(live_server.url + "/")
        root = page.locator("html")
        expect(root).to_have_attribute("data-bs-theme", "light")
        for chosen in ("dark", "light", "auto"):
            page.locator("header .portal-person summary").last.click()
            page.locator(f"[data-theme={chosen}]").click()
            shown = "light" if chosen == "auto" else chosen
            expect(root).to_have_attribute("data-bs-theme", shown)
            page.reload()
            expect(root).to_have_attribute("data-bs-theme", shown)
            expect(page.locator(f"[data-theme={chosen}]")).to_have_attribute("aria-pressed", "true")


def test_the_install_line_is_copied(browser: Browser, live_server: Any) -> None:
    world = rich_world()
    with looking(browser, permissions=["clipboard-read", "clipboard-write"]) as looker:
        page = looker.page
        let_in(looker, client_of(world, "admin_a"), live_server.url)
        page.goto(f"{live_server.url}/servers/{till(world)}/enrol/")
        page.locator("#id_expected_host").fill("till01")
        page.get_by_role("button", name="Make the token").click()
        line = page.locator("#install-line").inner_text()
        page.get_by_role("button", name="Copy the line").click()
        expect(page.locator("#install-line-said")).to_have_text("Copied.")

        assert "install.sh" in line
        assert page.evaluate("navigator.clipboard.readText()") == line
