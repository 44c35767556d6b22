"""What scripts do for people on the pages of definitions: help with the schedule, why not, dragging to another hour."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.cache import cache
from django.db import transaction
from playwright.sync_api import Browser, expect

from definitions.models import Definition
from tests.factories import disk_of, make_definition
from tests.ui.looking import CARET, OUTPUT, PHONE, looking, needs_chromium, picture
from tests.ui.test_every_page import let_in
from tests.worlds import make_world

pytestmark = [pytest.mark.browser, needs_chromium, pytest.mark.django_db(transaction=True)]


def test_a_schedule_is_filled_in_and_a_definition_dragged_to_another_hour(browser: Browser, live_server: Any) -> None:
    cache.clear()
    with transaction.atomic():
        world = make_world()
        row = make_definition(world.ours.server, name="dragged", cron="30 22 * * *", time_zone="UTC")
    disk, node = disk_of(world.ours.server), world.ours.node
    with looking(browser) as looker:
        page = looker.page
        let_in(looker, world.client("admin_a"), live_server.url)

        page.goto(f"{live_server.url}/definitions/new/")
        page.get_by_label("Disk").fill(str(disk.pk))
        page.get_by_label("Disk").blur()
        expect(page.locator("#places")).to_contain_text("Only disks on ZFS are sent as datasets")
        page.get_by_label("How often").select_option("weekdays")
        page.get_by_label("At what time").fill("05:10")
        page.get_by_role("button", name="Fill it in").click()
        expect(page.locator("#id_cron")).to_have_value("10 5 * * 1-5")
        expect(page.locator("#schedule time")).to_have_count(10)
        picture(page, "definition-help")
        # The field that was exchanged is still listened to.
        page.locator("#id_cron").fill("0 3 * *")
        expect(page.locator("#schedule")).to_contain_text("five fields")

        page.goto(f"{live_server.url}/definitions/load/spread/?node={node.pk}&hour=22")
        picture(page, "planner-hour")
        page.locator(f"[data-drag='{row.pk}'] code").first.drag_to(page.locator("[data-drop='4']"))
        expect(page.locator("main")).to_contain_text("1 definition moved")
        page.get_by_role("button", name="Take back").click()
        expect(page.locator("main")).to_contain_text("have the schedule that they had before")

        page.set_viewport_size(PHONE)
        page.goto(f"{live_server.url}/servers/{world.ours.server.pk}/")
        looker.look()
        page.set_viewport_size(PHONE)
        page.locator(".timeline").first.scroll_into_view_if_needed()
        page.screenshot(path=OUTPUT / "timeline-phone.png", caret=CARET)
    assert Definition.objects.get(pk=row.pk).cron == "30 22 * * *"


def test_by_keys_alone_a_definition_is_moved_and_all_of_a_page_is_reached(browser: Browser, live_server: Any) -> None:
    cache.clear()
    with transaction.atomic():
        world = make_world()
        row = make_definition(world.ours.server, name="moved", cron="30 22 * * *", time_zone="UTC")
    node, server = world.ours.node.pk, world.ours.server.pk
    with looking(browser) as looker:
        page = looker.page
        let_in(looker, world.client("admin_a"), live_server.url)
        for path in ("/", "/definitions/new/", f"/servers/{server}/", "/backups/", "/definitions/load/"):
            page.goto(live_server.url + path)
            looker.wait_for_parts()
            looker.look_at_whole_round()

        page.goto(f"{live_server.url}/definitions/load/spread/?node={node}&hour=22")
        looker.look_at_whole_round()
        assert looker.tab_to(f"[value='{row.pk}']", start="main")
        page.keyboard.press("Space")
        assert looker.tab_to("#to")
        page.keyboard.type("04:")
        assert looker.tab_to("#move .btn-primary")
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_contain_text("1 definition moved")
    assert Definition.objects.get(pk=row.pk).cron.split()[1] == "4"


def test_the_planner_is_by_the_clock_of_who_looks_and_stays_true(browser: Browser, live_server: Any) -> None:
    """Half past the hours of UTC: dragged onto 09:30 is moved to 4:00 UTC. What is open renews itself where it is."""
    cache.clear()
    with transaction.atomic():
        world = make_world()
        row = make_definition(world.ours.server, name="dragged", cron="0 4 * * *", time_zone="Asia/Kolkata")
        world.people["admin_a"].time_zone = "Asia/Kolkata"
        world.people["admin_a"].save()
    with looking(browser) as looker:
        page = looker.page
        let_in(looker, world.client("admin_a"), live_server.url)

        looker.visit(f"{live_server.url}/definitions/load/spread/?node={world.ours.node.pk}&hour=22")
        expect(page.locator("h1")).to_contain_text("between 03:30 and 04:29 Asia/Kolkata")
        drop = page.locator("[data-drop]", has_text="09:30")
        expect(drop).to_have_attribute("title", re.compile("^04:00 UTC, "))
        page.locator(f"[data-drag='{row.pk}'] code").first.drag_to(drop)
        expect(page.locator("main")).to_contain_text("1 definition moved")
        minute, hour = map(int, Definition.objects.get(pk=row.pk).cron.split()[:2])
        assert 9 * 60 + 30 <= hour * 60 + minute < 10 * 60 + 30

        looker.visit(f"{live_server.url}/definitions/load/")
        heads = page.locator("th.numbers")
        expect(heads.first).to_have_text("00:30")
        expect(heads.last).to_have_attribute("title", "18:00 UTC")
        colours = "cells => [...new Set(cells.map(cell => getComputedStyle(cell).backgroundColor))]"
        busy, plain = (page.locator(f"td.{kind}").evaluate_all(colours) for kind in ("heat-9", "ps-2"))
        assert len(busy) == len(plain) == 1 and busy != plain, "the map has no heat"
        page.set_viewport_size(PHONE)
        wide = page.locator(".table-responsive")
        wide.evaluate("element => { element.scrollLeft = 150; window.stays = true; }")
        Definition.objects.filter(pk=row.pk).update(active=False)
        page.evaluate("htmx.trigger('#renewed', 'renew')")
        expect(page.locator(f"a[href$='node={world.ours.node.pk}&hour=4']")).to_have_count(0)
        # It is put back a moment after what is new is shown.
        expect(wide).to_have_js_property("scrollLeft", 150)
        assert page.evaluate("window.stays") is True
