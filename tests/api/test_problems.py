"""Errors have one shape, whatever made them, and tell nothing of the inside."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.test import Client
from rest_framework.test import APIClient

from common.errors import ConfigurationError, ConflictError, UnavailableError
from tests.factories import make_person, make_token
from tests.worlds import World

MEMBERS = {"type", "title", "status", "detail", "code", "errors"}


def assert_problem(answer: Any, *, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert answer.status_code == status
    assert answer["Content-Type"] == "application/problem+json"
    assert set(body) == MEMBERS
    assert (body["status"], body["code"]) == (status, code)
    assert body["type"] == f"urn:backupsite:problem:{code}"
    assert body["detail"]
    for item in body["errors"]:
        assert set(item) == {"field", "code", "detail"}
    return body


def test_unknown_address(db: None) -> None:
    for address in ("/api/v1/nothing/", "/api/v2/", "/api/"):
        assert_problem(Client().get(address), status=404, code="not_found")


def test_missing_object_and_bad_id(world: World) -> None:
    client = world.client("super")

    assert_problem(client.get("/api/v1/backups/nonsense/"), status=404, code="not_found")


def test_nobody_is_told_how_to_sign_in(db: None) -> None:
    answer = APIClient().get("/api/v1/servers/")

    assert_problem(answer, status=401, code="not_signed_in")
    assert answer["WWW-Authenticate"] == 'Bearer realm="backupsite"'


def test_wrong_token(db: None) -> None:
    answer = APIClient(HTTP_AUTHORIZATION="Bearer bks_wrong").get("/api/v1/me/")

    assert_problem(answer, status=401, code="not_signed_in")


def test_token_of_a_disabled_person(db: None) -> None:
    person = make_person(superadmin=True)
    token = make_token(person)
    client = APIClient(HTTP_AUTHORIZATION=f"Bearer {token}")
    assert client.get("/api/v1/me/").status_code == 200

    person.is_active = False
    person.save()

    assert_problem(client.get("/api/v1/me/"), status=401, code="not_signed_in")


def test_not_allowed(world: World) -> None:
    answer = world.client("owner_a1").delete(f"/api/v1/backups/{world.ours.backup.pk}/")

    assert_problem(answer, status=403, code="not_allowed")


def test_broken_json(world: World) -> None:
    answer = world.client("super").post("/api/v1/tenants/", data="{", content_type="application/json")

    assert_problem(answer, status=400, code="invalid_input")


@pytest.mark.parametrize("body", ["[]", '"text"', "1", "null"])
def test_a_body_that_is_no_object(world: World, body: str) -> None:
    answer = world.client("super").post("/api/v1/tenants/", data=body, content_type="application/json")

    assert_problem(answer, status=400, code="invalid_input")


def test_wrong_media_type(world: World) -> None:
    answer = world.client("super").post("/api/v1/tenants/", data="a=1", content_type="text/plain")

    assert_problem(answer, status=415, code="unsupported_media_type")


def test_html_is_not_offered(world: World) -> None:
    answer = world.client("super").get("/api/v1/tenants/", HTTP_ACCEPT="text/html")

    assert_problem(answer, status=406, code="not_acceptable")


def test_fields_are_named(world: World) -> None:
    body = assert_problem(world.client("super").post("/api/v1/servers/", {}), status=400, code="invalid_input")

    assert {item["field"] for item in body["errors"]} == {"name", "tenant", "region"}
    assert {item["code"] for item in body["errors"]} == {"required"}


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("tenants/", {"title": "x"}),
        ("servers/", {"name": "x"}),
        ("disks/", {}),
        ("definitions/", {}),
        ("definitions/preview/", {"cron": "0 1 * * *"}),
    ],
)
def test_an_unknown_field_is_refused(world: World, address: str, body: dict[str, Any]) -> None:
    answer = world.client("super").post(f"/api/v1/{address}", {**body, "surprise": 1})

    problem = assert_problem(answer, status=400, code="invalid_input")
    assert {"field": "surprise", "code": "unknown_field"}.items() <= problem["errors"][0].items()


@pytest.mark.parametrize("number", [5, 1.5, True])
def test_a_number_is_no_text(world: World, number: float) -> None:
    body = {"label": number, "url": "https://hooks.example.com/x"}
    answer = world.client("super").post("/api/v1/webhooks/", body, format="json")

    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == ["label"]


@pytest.mark.case("AZ-04")
@pytest.mark.parametrize("field", ["status", "tenant", "id", "immutable_until", "size_bytes", "removed_at"])
def test_nothing_but_the_note_of_a_backup_is_writable(world: World, field: str) -> None:
    address = f"/api/v1/backups/{world.ours.backup.pk}/"
    before = world.client("super").get(address).json()

    answer = world.client("super").patch(address, {field: None})

    assert_problem(answer, status=400, code="invalid_input")
    assert world.client("super").get(address).json() == before


def test_an_unknown_filter_is_refused(world: World) -> None:
    answer = world.client("super").get("/api/v1/backups/?sever=1")

    assert assert_problem(answer, status=400, code="invalid_input")["errors"][0]["field"] == "sever"


@pytest.mark.parametrize("query", ["server=1", "status=fine", "removed=perhaps"])
def test_a_filter_value_that_cannot_be(world: World, query: str) -> None:
    answer = world.client("super").get(f"/api/v1/backups/?{query}")

    body = assert_problem(answer, status=400, code="invalid_input")
    assert body["errors"][0]["field"] == query.split("=")[0]


@pytest.mark.parametrize("query", ["limit=501", "limit=0", "limit=-1", "limit=x", "limit=", "count=1", "limit=٣"])
def test_a_page_that_cannot_be(world: World, query: str) -> None:
    answer = world.client("super").get(f"/api/v1/jobs/?{query}")

    assert assert_problem(answer, status=400, code="invalid_input")["errors"][0]["field"] == query.split("=")[0]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ConflictError("Not now.", code="job_ended"), 409, "job_ended"),
        (UnavailableError("Later."), 503, "unavailable"),
        (ValidationError({"title": ["Too long."]}), 400, "invalid_input"),
        (ValidationError("Collides."), 400, "invalid_input"),
    ],
)
def test_what_services_raise(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    monkeypatch.setattr("vaults.api.create_tenant", _raiser(error))

    answer = world.client("super").post("/api/v1/tenants/", {"title": "x"})

    assert_problem(answer, status=status, code=code)


@pytest.mark.parametrize("error", [RuntimeError("secret inside"), ConfigurationError("BACKUPSITE_SECRET is wrong")])
def test_a_bug_tells_nothing_of_the_inside(world: World, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr("vaults.api.create_tenant", _raiser(error))
    client = world.client("super")
    client.raise_request_exception = False

    answer = client.post("/api/v1/tenants/", {"title": "x"})

    assert_problem(answer, status=500, code="internal")
    assert b"secret" not in answer.content.lower()


def test_a_session_needs_its_csrf_token_and_a_bearer_token_does_not(world: World) -> None:
    person = world.people["super"]
    assert person is not None
    session = APIClient(enforce_csrf_checks=True)
    session.force_login(person)
    token = make_token(person)
    bearer = APIClient(enforce_csrf_checks=True, HTTP_AUTHORIZATION=f"Bearer {token}")

    refused = session.post("/api/v1/tenants/", {"title": "x"})
    made = bearer.post("/api/v1/tenants/", {"title": "x"})

    assert_problem(refused, status=403, code="not_allowed")
    assert made.status_code == 201


def _raiser(error: Exception) -> Any:
    def fail(**_: object) -> None:
        raise error

    return fail
