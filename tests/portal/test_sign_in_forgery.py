"""Requests that another site makes a browser send, and requests that say to be what they are not."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.urls import URLPattern, get_resolver

from tests.factories import make_person
from tests.signing_in import confirm
from tests.worlds import World

ANY = "00000000-0000-7000-8000-000000000000"


def unsafe_paths(patterns: list[Any], prefix: str = "") -> list[str]:
    """Every address of the portal and the API, with something in place of each parameter."""
    found = []
    for pattern in patterns:
        path = prefix + str(pattern.pattern)
        found += [path] if isinstance(pattern, URLPattern) else unsafe_paths(pattern.url_patterns, path)
    return found


def filled(path: str) -> str | None:
    if "(?P" in path or path.startswith("static"):
        return None
    for kind, value in (("uuid:pk", ANY), ("int:pk", "1"), ("slug:provider_id", "corp"), ("slug:key", "a" * 40)):
        path = path.replace(f"<{kind}>", value)
    return None if "<" in path else "/" + path


PORTAL = sorted({address for path in unsafe_paths(get_resolver().url_patterns) if (address := filled(path))})
# Not of the portal's session: agents and tokens, and answers to everybody.
WITHOUT_SESSION = ("/api/", "/agent/", "/livez", "/readyz")


def forging(person: Any) -> Client:
    client = Client(enforce_csrf_checks=True)
    client.force_login(person)
    confirm(client)
    return client


@pytest.fixture
def victim(db: None) -> Any:
    return make_person("anna", superadmin=True, password="a-long-password-1")


@pytest.mark.case("AZ-19")
def test_no_address_of_the_portal_takes_a_forged_post(victim: Any) -> None:
    client = forging(victim)
    checked = [address for address in PORTAL if not address.startswith(WITHOUT_SESSION)]

    found = {address: client.post(address).status_code for address in checked}

    assert len(found) > 40
    assert {address: status for address, status in found.items() if status not in {403, 405}} == {}


@pytest.mark.case("AZ-19")
@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_the_api_takes_a_session_only_with_the_token_against_forgery(world: World, method: str) -> None:
    client = forging(world.people["super"])

    answer = getattr(client, method)(
        f"/api/v1/definitions/{world.ours.definition.pk}/", content_type="application/json"
    )

    assert answer.status_code == 403
    assert "CSRF" in answer.json()["detail"]
    world.ours.definition.refresh_from_db()


@pytest.mark.case("AZ-19")
def test_no_other_site_may_read(world: World) -> None:
    client = world.client("super")

    for address in ("/", "/api/v1/servers/", "/login/"):
        for send in (client.get, client.options):
            answer = send(address, HTTP_ORIGIN="https://evil.example", HTTP_ACCESS_CONTROL_REQUEST_METHOD="DELETE")
            assert not [name for name in answer.headers if name.lower().startswith("access-control-")], address


@pytest.mark.case("AZ-19")
def test_another_host_is_refused(world: World) -> None:
    client = world.client("super")

    for host in ("evil.example", "127.0.0.1.evil.example", "localhost:80@evil.example"):
        assert client.get("/login/", HTTP_HOST=host).status_code == 400
        assert client.get("/api/v1/servers/", HTTP_HOST=host).status_code == 400
    assert settings.ALLOWED_HOSTS != ["*"]
    assert client.get("/", HTTP_X_FORWARDED_HOST="evil.example").status_code == 200


@pytest.mark.case("AZ-19")
@pytest.mark.parametrize("how", ["header", "field", "query"])
def test_a_method_is_what_it_is(world: World, how: str) -> None:
    client, address = world.client("super"), f"/api/v1/definitions/{world.ours.definition.pk}/"
    headers = {"HTTP_X_HTTP_METHOD_OVERRIDE": "DELETE"} if how == "header" else {}
    query = "?_method=DELETE" if how == "query" else ""
    body = {"_method": "DELETE"} if how == "field" else {}

    assert client.post(address + query, body, format="json", **headers).status_code == 405
    assert client.get(address + query, **headers).status_code == (400 if query else 200)
    world.ours.definition.refresh_from_db()


def test_nothing_of_sign_in_runs_inline(db: None) -> None:
    for address in ("/login/", "/password/reset/"):
        answer = Client().get(address)
        assert "script-src 'self';" in answer["Content-Security-Policy"]
        assert " onclick" not in answer.content.decode() and "style=" not in answer.content.decode()


def test_nobody_signs_up(db: None) -> None:
    for address in ("/signup/", "/accounts/signup/", "/login/signup/", "/sign-in/email/"):
        assert Client().get(address).status_code == 404
