"""Pages that are left open, in a real browser: what changes is shown, and nobody who is at work there is disturbed."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.cache import cache
from django.db import transaction
from playwright.sync_api import Browser, Page, expect

from backups.models import Backup
from tests.factories import make_backup
from tests.ui.looking import looking, needs_chromium
from tests.ui.test_every_page import let_in
from tests.worlds import World, make_world
from vaults.models import Vault

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600), needs_chromium, pytest.mark.django_db(transaction=True)]
STAYS = "window.stays === true"
# What asks by itself after 45 seconds asks when it is told to, and only then: a slow machine takes that long, too.
# How often anything has asked since the page came.
START = """() => { window.stays = true; window.asked = 0;
  document.addEventListener("htmx:confirm", event => {
    if (event.target.dataset.seen && event.detail.triggeringEvent?.type !== "renew") event.preventDefault(); });
  document.addEventListener("htmx:beforeSend", event => { if (event.target.dataset.seen) window.asked += 1; }); }"""
RENEW = "() => { htmx.trigger('#renewed', 'renew'); return window.asked; }"


@pytest.fixture
def world(transactional_db: None) -> World:
    cache.clear()
    with transaction.atomic():
        made = make_world()
        for number in range(3):
            make_backup(made.ours.server, note=f"number {number}")
    return made


def open_page(page: Page, address: str) -> None:
    page.goto(address)
    page.evaluate(START)


def renew(page: Page) -> int:
    """How often it has asked by then. What has come last hears it only when it has settled."""
    page.locator("#renewed:not(.htmx-settling)").wait_for()
    asked: int = page.evaluate(RENEW)
    return asked


def test_a_list_renews_itself_and_what_is_ticked_stays(browser: Browser, live_server: Any, world: World) -> None:
    with looking(browser) as looker:
        page = looker.page
        let_in(looker, world.client("admin_a"), live_server.url)
        open_page(page, f"{live_server.url}/backups/")
        ticked = page.locator("tbody input[type=checkbox]").nth(1)
        ticked.check()
        key = ticked.get_attribute("value")
        # The focus is on what was ticked: somebody is at work.
        assert renew(page) == 0
        ticked.blur()
        Backup.objects.exclude(pk=key).update(status="lost")

        assert renew(page) == 1
        expect(page.locator("tbody .status", has_text="lost")).to_have_count(3)
        expect(page.locator(f'tbody input[value="{key}"]')).to_be_checked()
        expect(page.locator("tbody input:checked")).to_have_count(1)
        expect(page.get_by_role("button", name="Delete what is chosen (1)")).to_be_visible()
        # Nothing has changed: 204, and what is there stays as it is.
        page.evaluate("document.querySelector('#renewed tbody').dataset.mark = 'same'")
        with page.expect_response(lambda answer: answer.status == 204):
            assert renew(page) == 2
        expect(page.locator("tbody[data-mark=same]")).to_have_count(1)
        assert page.evaluate(STAYS)
        looker.look()


def test_what_is_typed_and_what_is_opened_is_not_lost(browser: Browser, live_server: Any, world: World) -> None:
    with looking(browser) as looker:
        page = looker.page
        let_in(looker, world.client("super"), live_server.url)
        Vault.objects.update(probe_report=[{"check": "lock kept", "result": "ok", "note": ""}])
        open_page(page, f"{live_server.url}/vaults/{world.ours.vault.pk}/")
        page.get_by_text("Each call and its verdict").click()
        note = page.locator("main input[name$=note]").first
        note.fill("looked into")
        assert renew(page) == 0
        note.blur()
        # It is typed, and not sent.
        assert renew(page) == 0
        note.fill("")
        note.blur()
        page.evaluate("document.activeElement.blur()")
        Vault.objects.update(status="refused", refusal="It forgets locks.")

        assert renew(page) == 1
        expect(page.locator("main")).to_contain_text("It forgets locks.")
        expect(page.get_by_text("lock kept")).to_be_visible()
        assert page.evaluate(STAYS)
        looker.look()
