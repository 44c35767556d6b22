"""The portal in a real browser against the running stack: a first backup, and a restore behind the typed name."""

from __future__ import annotations

import os

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import Running, running  # noqa: F401  # a fixture
from tests.ui.looking import PHONE, looking, needs_chromium, picture

# Of a job that takes seconds, however slow the machine is.
JOB_MS = 300_000
pytestmark = [
    pytest.mark.long,
    pytest.mark.stack,
    pytest.mark.browser,
    pytest.mark.timeout(1800),
    needs_chromium,
]


def sign_in(page: Page, running: Running, name: str) -> str:  # noqa: F811  # the fixture's value
    """Returns the portal's address."""
    portal = running.stack.settings.portal_url
    login = next(login for login in running.rows["logins"] if login["username"] == name)
    page.goto(portal + "/login/")
    picture(page, "sign-in")
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(login["password"])
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_label("Password")).to_have_count(0)
    return portal


def choose_disk(page: Page, server: str) -> None:
    """As docs/first-steps.md says: menu, list, form; one types the server's name and takes what is offered."""
    page.get_by_role("banner").get_by_role("link", name="Definitions", exact=True).click()
    page.get_by_role("link", name="New definition").first.click()
    field = page.get_by_label("Disk", exact=True)
    field.press_sequentially(server)
    offered = page.locator("datalist#id_disk_list option")
    expect(offered).to_have_count(1)
    name = offered.get_attribute("value") or ""
    assert name.startswith(f"{server} disk 1")
    # To choose it is to have its value in the field: the list itself is drawn by the system.
    field.fill(name)
    field.blur()


def test_an_administrator_backs_up_for_the_first_time_and_restores(browser: Browser, running: Running) -> None:  # noqa: F811  # the fixture of that name
    with looking(browser) as looker:
        page = looker.page
        portal = sign_in(page, running, "admin")

        choose_disk(page, "web01")
        page.get_by_label("Name", exact=True).fill("evening")
        page.get_by_label("Time zone").fill("Europe/Paris")
        page.locator("#id_cron").fill("0 22 * * *")
        expect(page.locator("#schedule")).to_contain_text("22:00")
        picture(page, "definition")
        page.get_by_role("button", name="Create the definition").last.click()
        page.get_by_role("button", name="Backup now").click()
        expect(page.locator("#live")).to_contain_text("seen in the vault, locked", timeout=JOB_MS)
        looker.look()
        picture(page, "job")

        backup = running.good_backups()[0]
        page.goto(f"{portal}/backups/{backup['id']}/restore/")
        page.get_by_label("web02 disk 1").check()
        picture(page, "restore-target")
        page.get_by_role("button", name="Continue").click()
        expect(page.locator("main")).to_contain_text("destroys all data and all snapshots on web02")
        page.locator("#id_confirmation").fill("web02")
        picture(page, "restore")
        page.locator("#id_confirmation").fill("web01")
        page.get_by_role("button", name="Destroy and restore").click()
        expect(page.get_by_role("alert").first).to_contain_text("type the name of its server")
        looker.look()
        page.locator("#id_confirmation").fill("web02")
        page.get_by_role("button", name="Destroy and restore").click()
        expect(page.locator("#live")).to_contain_text("every block was checked", timeout=JOB_MS)
        looker.look()

        assert running.disk_path("web02").read_bytes() == running.disk_path("web01").read_bytes()
        if "PICTURES" in os.environ:
            # As it is when all that is defined has run.
            assert running.wait_until_ended(running.back_up_now(), timeout_seconds=300)["state"] == "ok"
            page.goto(portal + "/")
            expect(page.locator(".tile", has_text="a good backup in time")).to_contain_text("1 server", timeout=JOB_MS)
        page.goto(portal + "/")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        looker.wait_for_parts()
        expect(page.get_by_text("Counting …")).to_have_count(0)
        if "PICTURES" in os.environ:
            # With the days and the vaults.
            page.set_viewport_size({"width": 1280, "height": 1300})
        picture(page, "dashboard")


def test_an_owner_sees_his_server_only_and_no_way_to_change_it(browser: Browser, running: Running) -> None:  # noqa: F811  # the fixture of that name
    with looking(browser) as looker:
        page = looker.page
        portal = sign_in(page, running, "owner")

        page.goto(portal + "/servers/")
        expect(page.locator("main")).to_contain_text("web01")
        assert "web02" not in page.content()
        page.goto(f"{portal}/definitions/{running.definition_id}/")
        assert page.get_by_role("button", name="Backup now").count() == 0
        page.goto(portal + "/servers/")
        page.get_by_role("link", name="web01").first.click()
        picture(page, "owner")


def test_the_portal_fits_a_phone(browser: Browser, running: Running) -> None:  # noqa: F811  # the fixture of that name
    with looking(browser) as looker:
        page = looker.page
        portal = sign_in(page, running, "admin")
        page.set_viewport_size(PHONE)

        for path in ("/", "/servers/", "/definitions/", "/backups/", "/jobs/"):
            page.goto(portal + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
        picture(page, "phone")
