"""Sign-in of the es grammar: the same tokens, the same rules, the same counters as everywhere."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.core.cache import cache
from rest_framework.test import APIClient
from time_machine import travel

from tenants.models import ApiToken, AuditEvent, Person
from tenants.sign_in.factors import end_sessions
from tests.factories import a_moment, make_person, make_server, make_tenant, make_token

pytestmark = pytest.mark.django_db
LOGIN, LOGOUT = "/api/accounts/login", "/api/accounts/logout"
PASSWORD = "a-long-password-1"
NOW = a_moment()


@pytest.fixture
def anna() -> Person:
    return make_person("anna", password=PASSWORD, owns=[make_server(name="web01")])


@pytest.fixture(autouse=True)
def _fresh_counters() -> None:
    cache.clear()


def login(username: str = "anna", password: str = PASSWORD, **more: Any) -> Any:
    return APIClient(**more).post(LOGIN, {"username": username, "password": password})


def me(text: str, header: str = "HTTP_AUTHORIZATION", form: str = "Token {}") -> int:
    return int(APIClient(**{header: form.format(text)}).get("/api/v1/me/").status_code)


def test_a_password_gives_a_token(anna: Person) -> None:
    with travel(NOW, tick=False):
        answer = login()

        assert answer.status_code == 200
        assert set(answer.json()) == {"token", "expires", "detail"}
        assert datetime.fromisoformat(answer.json()["expires"]) == NOW + timedelta(hours=1)
        assert me(answer.json()["token"]) == 200


@pytest.mark.parametrize(
    ("header", "form"),
    [("HTTP_AUTHORIZATION", "Token {}"), ("HTTP_AUTHORIZATION", "Bearer {}"), ("HTTP_ES_API_KEY", "{}")],
)
def test_any_token_comes_any_way(anna: Person, header: str, form: str) -> None:
    for text in (login().json()["token"], make_token(anna)):
        assert me(text, header, form) == 200


@pytest.mark.parametrize("path", [LOGIN, f"{LOGIN}/"])
def test_with_and_without_a_slash(anna: Person, path: str) -> None:
    assert APIClient().post(path, {"username": "anna", "password": PASSWORD}).status_code == 200


def test_it_ends_an_hour_after_its_last_use_and_after_a_day_of_work(anna: Person) -> None:
    with travel(NOW, tick=False) as clock:
        idle, used = login().json()["token"], None
        clock.shift(timedelta(minutes=61))
        assert me(idle) == 401

        used = login().json()["token"]
        for _ in range(14):
            clock.shift(timedelta(minutes=50))
            assert me(used) == 200
        clock.shift(timedelta(minutes=50))
        assert me(used) == 401


def test_a_new_one_ends_the_one_before(anna: Person) -> None:
    first, second = login().json()["token"], login().json()["token"]

    assert (me(first), me(second)) == (401, 200)
    assert ApiToken.objects.filter(person=anna).count() == 1


@pytest.mark.case("AZ-23")
def test_wrong_unknown_and_disabled_are_answered_alike(anna: Person) -> None:
    make_person("gone", password=PASSWORD, active=False)

    answers = [login("anna", "wrong"), login("nobody"), login("gone")]

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert ApiToken.objects.count() == 0


def test_an_account_is_locked_as_at_the_portal(anna: Person, settings: Any) -> None:
    settings.API_RATES = {"password-pair": "3/m"}
    with travel(NOW, tick=False):
        found = [login("anna", "wrong").status_code for _ in range(5)]
        right = login()

    assert found == [401, 401, 401, 429, 429]
    assert right.status_code == 429
    assert int(right["Retry-After"]) > 0
    assert right["Content-Type"] == "application/problem+json"


def test_trying_at_the_portal_counts_here(anna: Person, settings: Any) -> None:
    settings.API_RATES = {"password-pair": "2/m"}
    with travel(NOW, tick=False):
        for _ in range(2):
            APIClient().post("/login/", {"username": "anna", "password": "wrong"}, format="multipart")

        assert login().status_code == 429


def test_the_address_has_a_rate_of_its_own(anna: Person, settings: Any) -> None:
    settings.API_RATES = {"sign-in": "2/m"}
    with travel(NOW, tick=False):
        assert [login(f"name{number}", "x").status_code for number in range(4)] == [401, 401, 429, 429]


def test_with_a_second_factor_an_api_key_is_needed(anna: Person) -> None:
    Authenticator.objects.create(user=anna, type=Authenticator.Type.TOTP, data={"secret": "x"})

    right, wrong = login(), login(password="wrong")

    assert (right.status_code, right.json()["code"]) == (403, "api_key_needed")
    assert "API key" in right.json()["detail"]
    assert wrong.status_code == 401
    assert me(make_token(anna)) == 200


def test_who_must_have_a_second_factor_too(settings: Any) -> None:
    make_person("admin", password=PASSWORD, administers=[make_tenant()])
    settings.CONFIG = settings.CONFIG.model_copy(update={"admin_mfa": "required"})
    assert login("admin").status_code == 403

    settings.CONFIG = settings.CONFIG.model_copy(update={"admin_mfa": "advised"})
    assert login("admin").status_code == 200


@pytest.mark.parametrize("method", ["get", "post"])
def test_signing_out_ends_the_token(anna: Person, method: str) -> None:
    text = login().json()["token"]
    client = APIClient(HTTP_AUTHORIZATION=f"Token {text}")

    assert getattr(client, method)(LOGOUT).status_code == 200
    assert me(text) == 401
    assert getattr(client, method)(LOGOUT).status_code == 401


def test_signing_out_leaves_an_api_key(anna: Person) -> None:
    text = make_token(anna, scope="read")

    answer = APIClient(HTTP_ES_API_KEY=text).get(LOGOUT)

    assert "API key" in answer.json()["detail"]
    assert me(text) == 200


def test_a_session_of_the_portal_is_not_signed_out_here(anna: Person) -> None:
    client = APIClient()
    client.force_login(anna)

    assert client.get(LOGOUT).status_code == 401
    assert client.get("/api/v1/me/").status_code == 200


def test_it_is_in_the_audit(anna: Person) -> None:
    text = login().json()["token"]
    login(password="wrong")
    APIClient(HTTP_AUTHORIZATION=f"Token {text}").get(LOGOUT)

    told = list(AuditEvent.objects.filter(subject_id=str(anna.pk)).order_by("pk").values_list("action", flat=True))
    assert told[-3:] == ["sign_in.done", "sign_in.failed", "sign_out.done"]
    assert not [event for event in AuditEvent.objects.values() if text in str(event) or PASSWORD in str(event)]


@pytest.mark.parametrize(
    "body", [{}, {"username": "anna"}, {"username": "anna", "password": PASSWORD, "x": 1}, [], "x"]
)
def test_what_is_no_sign_in(anna: Person, body: Any) -> None:
    assert APIClient().post(LOGIN, body, format="json").status_code == 400


def test_signing_out_everywhere_ends_what_a_password_gave_and_no_key(anna: Person) -> None:
    signed_in, key = login().json()["token"], make_token(anna)

    assert end_sessions(anna) == 1

    assert (me(signed_in), me(key)) == (401, 200)


@pytest.mark.parametrize("role", ["SuperAdmin", "DCAdmin", "VmOwner", "nobody"])
def test_each_role_signs_in_sees_its_own_servers_and_signs_out(role: str, settings: Any) -> None:
    """As a script does: sign in, list, sign out."""
    # Whether administrators need a second factor is a test of its own.
    settings.CONFIG = settings.CONFIG.model_copy(update={"admin_mfa": "advised"})
    own, other = make_server(name="web01"), make_server(name="mail01")
    rights: dict[str, dict[str, Any]] = {
        "SuperAdmin": {"superadmin": True},
        "DCAdmin": {"administers": [own.tenant]},
        "VmOwner": {"owns": [own]},
        "nobody": {},
    }
    make_person("anna", password=PASSWORD, **rights[role])
    seen = {"SuperAdmin": {own.name, other.name}, "nobody": set()}.get(role, {own.name})

    signed_in = login()
    client = APIClient(HTTP_AUTHORIZATION=f"Token {signed_in.json()['token']}")
    listed = client.get("/api/vm/?full=true")
    signed_out = client.get(LOGOUT)

    assert (signed_in.status_code, signed_out.status_code) == (200, 200)
    assert {row["hostname"] for row in listed.json()["result"]} == seen
    assert client.get("/api/vm/").status_code == 401


@pytest.mark.parametrize("path", [LOGIN, LOGOUT])
@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_other_methods_are_not_there(anna: Person, path: str, method: str) -> None:
    client = APIClient(HTTP_AUTHORIZATION=f"Token {make_token(anna)}")

    assert getattr(client, method)(path, {"username": "anna", "password": PASSWORD}).status_code == 405
