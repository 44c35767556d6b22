"""The portal in a real browser against the running stack: a backup now, and a restore behind the typed name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.e2e.conftest import Running, running  # noqa: F401  # a fixture

CHROMIUM = Path("/usr/bin/chromium")
OUTPUT = Path(__file__).resolve().parents[1] / "output"
pytestmark = [
    pytest.mark.long,
    pytest.mark.stack,
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not CHROMIUM.exists(), reason="chromium is not installed: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    """A fresh profile; every error on the console fails the test at its end."""
    # Django refuses the database where an event loop runs; these tests reach the stack by HTTP only.
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        troubles: list[str] = []
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.set_default_timeout(20_000)
        yield page
        browser.close()
        # The browser itself notes the answer to the wrong confirmation; nothing else may be there.
        assert not [trouble for trouble in troubles if "status of 400" not in trouble]


def sign_in(page: Page, running: Running, name: str) -> None:  # noqa: F811  # the fixture's value
    login = next(login for login in running.rows["logins"] if login["username"] == name)
    page.context.clear_cookies()
    page.goto(running.stack.settings.portal_url + "/login/")
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(login["password"])
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_label("Password")).to_have_count(0)


def picture(page: Page, name: str) -> None:
    OUTPUT.mkdir(exist_ok=True)
    page.screenshot(path=OUTPUT / f"{name}.png")


def test_an_administrator_backs_up_and_restores(browser_page: Page, running: Running) -> None:  # noqa: F811  # the fixture of that name
    page, portal = browser_page, running.stack.settings.portal_url
    sign_in(page, running, "admin")

    page.goto(f"{portal}/definitions/{running.definition_id}/")
    page.get_by_role("button", name="Backup now").click()
    expect(page.locator("#live")).to_contain_text("seen in the vault, locked", timeout=90_000)
    picture(page, "job")

    backup = running.good_backups()[0]
    page.goto(f"{portal}/backups/{backup['id']}/restore/")
    page.get_by_label("web02 disk 1").check()
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("main")).to_contain_text("destroys all data and all snapshots on web02")
    page.locator("#id_confirmation").fill("web01")
    page.get_by_role("button", name="Destroy and restore").click()
    expect(page.get_by_role("alert").first).to_contain_text("type the name of its server")
    picture(page, "restore")
    page.locator("#id_confirmation").fill("web02")
    page.get_by_role("button", name="Destroy and restore").click()
    expect(page.locator("#live")).to_contain_text("every block was checked", timeout=90_000)

    assert running.disk_path("web02").read_bytes() == running.disk_path("web01").read_bytes()
    page.goto(portal + "/")
    picture(page, "dashboard")


def test_an_owner_sees_his_server_only_and_no_way_to_change_it(browser_page: Page, running: Running) -> None:  # noqa: F811  # the fixture of that name
    page, portal = browser_page, running.stack.settings.portal_url
    sign_in(page, running, "owner")

    page.goto(portal + "/servers/")
    expect(page.locator("main")).to_contain_text("web01")
    assert "web02" not in page.content()
    page.goto(f"{portal}/definitions/{running.definition_id}/")

    assert page.get_by_role("button", name="Backup now").count() == 0
    picture(page, "owner")


def test_the_portal_fits_a_phone(browser_page: Page, running: Running) -> None:  # noqa: F811  # the fixture of that name
    page, portal = browser_page, running.stack.settings.portal_url
    sign_in(page, running, "admin")
    page.set_viewport_size({"width": 360, "height": 740})

    for path in ("/", "/servers/", "/definitions/", "/backups/", "/jobs/"):
        page.goto(portal + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path

    page.set_viewport_size({"width": 1280, "height": 800})


os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
