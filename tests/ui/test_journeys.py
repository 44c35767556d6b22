"""What people do in the portal, in a real browser against a server in this process: no worker is needed for it."""

from __future__ import annotations

import email
import re
from email.message import Message
from email.policy import default
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.core.cache import cache
from playwright.sync_api import Browser, Page, expect

from definitions.models import Definition
from tenants.models import Person
from tests.factories import disk_of, make_person, make_region, make_server, make_tenant
from tests.ui.looking import Looker, looking, needs_chromium, picture

pytestmark = [pytest.mark.browser, needs_chromium, pytest.mark.django_db(transaction=True)]
PASSWORD = "a-long-password-1"


@pytest.fixture(autouse=True)
def mails(settings: Any, tmp_path: Path) -> Path:
    """Where mails become files, as in an installation without a mail server."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.EMAIL_BACKEND, settings.EMAIL_FILE_PATH = "backupsite.mail_files.MailFolder", tmp_path / "mails"
    cache.clear()
    return tmp_path / "mails"


def test_a_superadmin_orders_a_tenant_and_its_owner_comes_in_by_the_mail(
    browser: Browser, live_server: Any, mails: Path
) -> None:
    make_region()
    make_person("super", superadmin=True, password=PASSWORD)
    with looking(browser) as looker:
        page = looker.page
        sign_in(page, live_server.url, "super")
        page.goto(f"{live_server.url}/orders/new/")
        page.get_by_label("Tenant").fill("Anna's bakery")
        page.get_by_label("E-mail").fill("anna@example.org")
        page.get_by_label("Server", exact=True).fill("till01")
        page.get_by_label("Region").select_option("RBX")
        picture(page, "order")
        page.get_by_role("button", name="Order", exact=True).click()
        expect(page.locator("main")).to_contain_text("the mail to anna@example.org is on its way")
        expect(page.locator("main")).to_contain_text("till01")
        page.get_by_role("link", name="till01").first.click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("till01")

        text = the_mail(mails, to="anna@example.org")
        assert "/agent/install.sh | sh -s -- " in text
        page.context.clear_cookies()
        join(looker, live_server.url, text)
        sign_in(page, live_server.url, "anna@example.org")
        page.goto(f"{live_server.url}/servers/")
        expect(page.locator("main")).to_contain_text("till01")
        assert page.goto(f"{live_server.url}/orders/").status == 403
        picture(page, "owner-refused")


def test_a_person_of_a_company_comes_in_by_the_link_of_its_administrator(browser: Browser, live_server: Any) -> None:
    tenant, foreign = make_tenant("Bakery"), make_server(make_tenant("Other"), name="foreign01")
    server = make_server(tenant, name="shop01")
    make_person("admin", administers=[tenant], password=PASSWORD)
    with looking(browser) as looker:
        page = looker.page
        sign_in(page, live_server.url, "admin")
        page.goto(f"{live_server.url}/people/invite/")
        expect(page.get_by_label("Tenant", exact=True)).to_have_value(f"{tenant.title} ({tenant.name})")
        page.get_by_label("E-mail").fill("bea@example.org")
        page.get_by_label("Administrator of the tenant").check()
        page.get_by_role("button", name="Make the link").click()
        link = page.locator("main code").inner_text()

        page.context.clear_cookies()
        join(looker, live_server.url, link)
        sign_in(page, live_server.url, "bea@example.org")
        page.goto(f"{live_server.url}/servers/")
        expect(page.locator("main")).to_contain_text(server.name)
        assert foreign.name not in page.content()
        assert page.goto(f"{live_server.url}/servers/{foreign.pk}/").status == 404
    assert Person.objects.get(email="bea@example.org").has_usable_password()


# Sundays of these months: whenever this runs, one of the next ten is the day on which Paris changes its clocks.
@pytest.mark.parametrize(
    ("month", "mark"), [("3", "skipped hour: runs at 03:00"), ("10", "hour comes twice: runs once")]
)
def test_a_definition_over_a_change_of_the_clocks(browser: Browser, live_server: Any, month: str, mark: str) -> None:
    tenant = make_tenant("Bakery")
    server = make_server(tenant, name="shop01")
    make_person("admin", administers=[tenant], password=PASSWORD, time_zone="Europe/Paris")
    with looking(browser) as looker:
        page = looker.page
        sign_in(page, live_server.url, "admin")
        page.goto(f"{live_server.url}/definitions/new/?disk={disk_of(server).pk}")
        page.get_by_label("Name", exact=True).fill("sundays")
        page.get_by_label("Time zone").fill("Europe/Paris")
        page.locator("#id_cron").press_sequentially("")
        page.locator("#id_cron").fill(f"30 2 * {month} 0")
        expect(page.locator("#schedule")).to_contain_text(mark)
        picture(page, f"clocks-{month}")
        page.get_by_role("button", name="Create the definition").last.click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("sundays")
        looker.look()
    made = Definition.objects.get()
    assert (made.cron, made.time_zone) == (f"30 2 * {month} 0", "Europe/Paris")


def sign_in(page: Page, portal: str, name: str) -> None:
    page.goto(f"{portal}/login/")
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_label("Password")).to_have_count(0)


def join(looker: Looker, portal: str, text: str) -> None:
    """Open the link that somebody was sent, and choose a password."""
    link = re.search(r"https?://\S+/join/\S+", text)
    assert link is not None
    looker.page.goto(portal + urlsplit(link[0]).path)
    looker.look()
    looker.page.get_by_label("Password").fill(PASSWORD)
    looker.page.get_by_role("button", name="Join").click()
    expect(looker.page.locator("main")).to_contain_text("Welcome")


def the_mail(folder: Path, *, to: str) -> str:
    """The text of the only mail to the address."""
    texts = [text for path in folder.iterdir() for text in path.read_bytes().split(b"-" * 79) if text.strip()]
    found: list[Message] = [email.message_from_bytes(text.strip(), policy=default) for text in texts]
    ours = [message for message in found if message["To"] == to]
    assert len(ours) == 1
    return str(ours[0].get_payload(decode=True), "utf-8")
