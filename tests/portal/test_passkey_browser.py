"""Passkeys in a real browser, with an authenticator that Chromium plays: set up, used to sign in, removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.core.cache import cache
from playwright.sync_api import Page, expect, sync_playwright

from tests.factories import make_person
from tests.ui.looking import CHROMIUM, needs_chromium

pytestmark = [pytest.mark.browser, needs_chromium]
# A touch that always comes, of somebody whose finger it knows, and which keeps whom its passkeys are for.
AUTHENTICATOR = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        troubles: list[str] = []
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.set_default_timeout(20_000)
        devices = page.context.new_cdp_session(page)
        devices.send("WebAuthn.enable")
        devices.send("WebAuthn.addVirtualAuthenticator", {"options": AUTHENTICATOR})
        yield page
        browser.close()
        assert not troubles


@pytest.mark.django_db(transaction=True)
def test_a_passkey_is_set_up_signs_in_alone_and_is_removed(page: Page, live_server: Any, settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    cache.clear()
    make_person("anna", superadmin=True, password="a-long-password-1")
    portal = live_server.url
    assert portal.startswith("http://localhost:")
    page.goto(f"{portal}/login/")
    page.get_by_label("User name").fill("anna")
    page.get_by_label("Password").fill("a-long-password-1")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_label("Password")).to_have_count(0)

    page.goto(f"{portal}/sign-in/passkeys/add/")
    page.get_by_label("Password").fill("a-long-password-1")
    page.get_by_role("button", name="Confirm").click()
    page.get_by_label("Name").fill("laptop")
    page.locator("input[name=passwordless]").check()
    page.get_by_role("button", name="Add", exact=True).click()
    page.wait_for_url(lambda url: not url.endswith("/passkeys/add/"))
    assert Authenticator.objects.filter(type=Authenticator.Type.WEBAUTHN).count() == 1

    page.context.clear_cookies()
    page.goto(f"{portal}/servers/")
    assert "/login/" in page.url
    page.get_by_role("button", name="Sign in with a passkey").click()
    page.wait_for_url(f"{portal}/servers/")
    expect(page.locator("header")).to_contain_text("anna")

    page.goto(f"{portal}/sign-in/")
    expect(page.locator("main")).to_contain_text("laptop")
    page.locator("li", has_text="laptop").get_by_role("link", name="Remove").click()
    page.get_by_role("link", name="Use a security key").click()
    page.get_by_role("button", name="Use a passkey").click()
    page.get_by_role("button", name="Remove it").click()
    page.wait_for_url(f"{portal}/sign-in/")
    expect(page.locator("main")).not_to_contain_text("laptop, since")
    assert not Authenticator.objects.filter(type=Authenticator.Type.WEBAUTHN).exists()


# The browser's driver runs an event loop in this thread, where Django refuses the database otherwise.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
