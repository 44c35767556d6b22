"""Lists in a real browser: renewed in place, sorted by the keyboard, remembered, and what is done to many rows."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.cache import cache
from django.db import transaction
from playwright.sync_api import Browser, expect

from backups.models import Backup
from tests.factories import GIB, make_backup
from tests.ui.looking import Looker, looking, needs_chromium
from tests.ui.test_every_page import let_in
from tests.worlds import World, make_world

pytestmark = [pytest.mark.browser, needs_chromium, pytest.mark.django_db(transaction=True)]
# A mark on the page that is gone when the page is loaded anew.
STAYS = "window.stays === true"


def test_a_list_is_filtered_sorted_paged_and_worked_on(browser: Browser, live_server: Any) -> None:
    cache.clear()
    with transaction.atomic():
        world = make_world()
        for number in range(30):
            make_backup(world.ours.server, size_bytes=number * GIB, status="lost" if number == 7 else "ok")
    with looking(browser) as looker:
        let_in(looker, world.client("admin_a"), live_server.url)
        looker.page.goto(f"{live_server.url}/backups/?rows=25")
        looker.page.evaluate("window.stays = true")
        look_around(looker)
        work(looker, world, f"{live_server.url}/backups/")


def look_around(looker: Looker) -> None:
    page = looker.page
    first = page.locator("tbody tr").first
    page.get_by_role("link", name="Size").focus()
    page.keyboard.press("Enter")
    expect(page.locator("th[aria-sort=descending]")).to_contain_text("Size")
    expect(first).to_contain_text("29.0 GiB")
    page.get_by_role("link", name="Next").click()
    expect(page.get_by_role("link", name="Previous")).to_be_visible()
    expect(page.locator("tbody tr")).to_have_count(6)
    page.get_by_label("Status").select_option("lost")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("#list-said")).to_have_text("1 in all")
    assert page.evaluate(STAYS) and "status=lost" in page.url
    page.get_by_text("More filters").click()
    page.get_by_label("Size from").fill("much")
    page.keyboard.press("Enter")
    expect(page.locator("#id_size_from_error")).to_contain_text("Write a size as 5 GiB")
    expect(page.locator("#list-said")).to_contain_text("Nothing is listed")
    assert page.evaluate(STAYS)
    page.get_by_label("Size from").fill("7 GiB")
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.go_back()
    looker.look()


def work(looker: Looker, world: World, address: str) -> None:
    """A bare address shows what was asked for last; then a note, and three are chosen and deleted."""
    page = looker.page
    page.goto(address)
    expect(page.get_by_label("Status")).to_have_value("lost")
    page.get_by_role("link", name="Reset").click()
    page.goto(f"{address}?sort=size&rows=50&keep=1")
    page.evaluate("window.stays = true")
    page.get_by_role("link", name="Add a note").first.click()
    expect(page.get_by_label("Note of")).to_be_focused()
    page.keyboard.type("smallest of all")
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr").first).to_contain_text("smallest of all")
    assert page.evaluate(STAYS)
    for row in range(3):
        page.locator("tbody tr input[type=checkbox]").nth(row).check()
    page.get_by_role("button", name="Delete what is chosen (3)").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Delete 3 backups?")
    looker.look()
    page.get_by_label("Confirmation").fill("delete 3 backups")
    page.get_by_role("button", name="Delete them").click()
    expect(page.locator("main")).to_contain_text("3 of 3 deleted.")
    looker.look()
    assert Backup.objects.filter(tenant=world.ours.tenant).exclude(removed_at=None).count() == 3
