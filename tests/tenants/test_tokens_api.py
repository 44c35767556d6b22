"""Tokens over the API and in the portal: whose are seen, what a secret needs to be shown, what each scope may do."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from rest_framework.test import APIClient

from tenants.models import ApiToken, Person
from tests.factories import disk_of, make_person, make_token
from tests.signing_in import confirm
from tests.worlds import World

pytestmark = pytest.mark.django_db
TOKENS = "/api/v1/tokens/"


def bearer(person: Person | None, **wanted: Any) -> APIClient:
    assert person is not None
    return APIClient(HTTP_AUTHORIZATION=f"Bearer {make_token(person, **wanted)}")


def test_everybody_sees_his_own_and_a_super_admin_all(world: World) -> None:
    for name in ("super", "admin_a", "owner_a1"):
        make_token(world.people[name], label=name)

    seen = {
        name: {row["label"] for row in world.client(name).get(TOKENS).json()["results"]}
        for name in ("super", "admin_a", "admin_b", "owner_a1")
    }

    # "test" are those of the members of both tenants.
    assert seen == {
        "super": {"super", "admin_a", "owner_a1", "test"},
        "admin_a": {"admin_a"},
        "admin_b": set(),
        "owner_a1": {"owner_a1"},
    }


def test_no_answer_but_the_first_holds_a_secret(world: World) -> None:
    client = world.client("admin_a")
    made = client.post(TOKENS, {"label": "ci"}).json()
    secret = made["token"].partition(".")[2]
    row = ApiToken.objects.get(pk=made["id"])

    for path in (TOKENS, f"{TOKENS}{row.pk}/", f"{TOKENS}?format=csv", "/api/v1/audit/"):
        answer = client.get(path)
        text = (b"".join(answer.streaming_content) if answer.streaming else answer.content).decode()
        assert answer.status_code == 200
        assert secret not in text
        assert row.secret_mac not in text


def test_a_secret_is_not_given_again_by_the_same_idempotency_key(world: World) -> None:
    client = world.client("admin_a")
    first = client.post(TOKENS, {"label": "ci"}, HTTP_IDEMPOTENCY_KEY="k1")
    again = client.post(TOKENS, {"label": "ci"}, HTTP_IDEMPOTENCY_KEY="k1")

    assert (first.status_code, again.status_code, again.json()["code"]) == (201, 409, "already_done")
    assert ApiToken.objects.filter(label="ci").count() == 1


@pytest.mark.parametrize("ago_seconds", [301, 10_000])
def test_a_session_that_is_not_fresh_makes_none(world: World, ago_seconds: int) -> None:
    client = world.client("admin_a")
    made = client.post(TOKENS, {"label": "ci"}).json()
    confirm(client, ago_seconds=ago_seconds)

    for path in (TOKENS, f"{TOKENS}{made['id']}/rotate/"):
        answer = client.post(path, {"label": "x"} if path == TOKENS else {})

        assert (answer.status_code, answer.json()["code"]) == (403, "step_up_needed")
    assert client.delete(f"{TOKENS}{made['id']}/").status_code == 204


def test_a_token_is_made_used_renewed_and_ended(world: World) -> None:
    client = world.client("owner_a1")
    made = client.post(TOKENS, {"label": "watch", "scope": "read", "days": 7}).json()
    first = APIClient(HTTP_AUTHORIZATION=f"Bearer {made['token']}")
    assert first.get("/api/v1/me/").json()["name"] == "owner_a1"

    renewed = client.post(f"{TOKENS}{made['id']}/rotate/", {"days": 3}).json()
    second = APIClient(HTTP_ES_API_KEY=renewed["token"])
    assert (first.get("/api/v1/me/").status_code, second.get("/api/v1/me/").status_code) == (401, 200)

    assert client.delete(f"{TOKENS}{made['id']}/").status_code == 204
    assert second.get("/api/v1/me/").status_code == 401


def test_a_super_admin_ends_those_of_others(world: World) -> None:
    owner = world.people["owner_a1"]
    client = bearer(owner)

    world.client("super").delete(f"{TOKENS}{ApiToken.objects.get(person=owner).pk}/")

    assert client.get("/api/v1/me/").status_code == 401


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"label": ""}, "label"),
        ({"label": "x", "scope": "root"}, "scope"),
        ({"label": "x", "days": 366}, "days"),
        ({"label": "x", "days": 0}, "days"),
        ({"label": "x", "networks": ["10.0.0.1/8"]}, "networks"),
        ({"label": "x", "person": "018f2f6e-0000-7000-8000-000000000001"}, "person"),
        ({"label": "x", "expires_at": "2099-01-01T00:00:00Z"}, "expires_at"),
        ({"label": "x", "key": "mine"}, "key"),
    ],
)
def test_what_cannot_be_asked_for(world: World, body: dict[str, Any], field: str) -> None:
    answer = world.client("super").post(TOKENS, body)

    assert answer.status_code == 400
    assert [item["field"] for item in answer.json()["errors"]] == [field]


def test_a_foreign_tenant_cannot_be_bound(world: World) -> None:
    client = world.client("admin_a")

    foreign = client.post(TOKENS, {"label": "x", "tenant": str(world.theirs.tenant.pk)})
    own = client.post(TOKENS, {"label": "x", "tenant": str(world.ours.tenant.pk)})

    assert (foreign.status_code, own.status_code) == (404, 201)
    assert own.json()["tenant"] == str(world.ours.tenant.pk)


# --- scopes -----------------------------------------------------------------------------------------------------------


def requests(world: World) -> dict[str, tuple[str, str, Any]]:
    backup, definition = world.ours.backup.pk, world.ours.definition.pk
    return {
        "look": ("GET", f"/api/v1/backups/{backup}/", None),
        "preview": ("POST", "/api/v1/definitions/preview/", {"cron": "0 1 * * *"}),
        "verify": ("POST", f"/api/v1/backups/{backup}/verify/", {}),
        "cancel": ("POST", f"/api/v1/jobs/{world.ours.job.pk}/cancel/", {}),
        "note": ("PATCH", f"/api/v1/backups/{backup}/", {"note": "x"}),
        "bulk": ("POST", "/api/v1/backups/bulk/", {"action": "delete", "ids": [str(backup)]}),
        "restore": (
            "POST",
            f"/api/v1/backups/{backup}/restore/",
            {"target": str(disk_of(world.ours.other_server).pk), "confirmation": world.ours.other_server.name},
        ),
        "delete": ("DELETE", f"/api/v1/definitions/{definition}/", None),
    }


@pytest.mark.parametrize(
    ("wanted", "allowed"),
    [
        ({"scope": "read", "may_restore": False}, {"look"}),
        ({"scope": "read", "may_restore": True}, {"look"}),
        ({"scope": "operate", "may_restore": False}, {"look", "preview", "verify", "cancel"}),
        ({"scope": "operate", "may_restore": True}, {"look", "preview", "verify", "cancel", "restore"}),
        ({"scope": "admin", "may_restore": False}, {"look", "preview", "verify", "cancel", "note", "delete"}),
    ],
)
def test_what_each_scope_may_do(world: World, wanted: dict[str, Any], allowed: set[str]) -> None:
    client = bearer(world.people["admin_a"], **wanted)

    for name, (method, path, body) in requests(world).items():
        if name == "bulk" and wanted["scope"] == "admin":
            continue
        answer = client.generic(
            method, path, "" if body is None else __import__("json").dumps(body), "application/json"
        )

        if name in allowed:
            assert answer.status_code < 400, (name, answer.content)
        else:
            assert (answer.status_code, answer.json()["code"]) in {(403, "token_scope"), (403, "not_allowed")}, name


def test_a_scope_that_is_too_small_tells_nothing_about_objects(world: World) -> None:
    client = bearer(world.people["admin_a"], scope="read")

    own = client.delete(f"/api/v1/backups/{world.ours.backup.pk}/")
    foreign = client.delete(f"/api/v1/backups/{world.theirs.backup.pk}/")

    assert own.status_code == foreign.status_code == 403
    assert own.json() == foreign.json()


def test_a_bound_token_of_a_super_admin_is_one_of_a_dcadmin(world: World) -> None:
    client = bearer(world.people["super"], tenant=world.ours.tenant)

    assert client.get(f"/api/v1/backups/{world.ours.backup.pk}/").status_code == 200
    assert client.get(f"/api/v1/backups/{world.theirs.backup.pk}/").status_code == 404
    assert client.post("/api/v1/tenants/", {"title": "x", "region": "RBX"}).status_code == 403
    assert {row["id"] for row in client.get("/api/v1/tenants/").json()["results"]} == {str(world.ours.tenant.pk)}
    assert client.post(TOKENS, {"label": "x", "scope": "admin"}).status_code == 403


def test_an_operating_token_makes_no_tokens(world: World) -> None:
    answer = bearer(world.people["admin_a"], scope="operate").post(TOKENS, {"label": "x"})

    assert (answer.status_code, answer.json()["code"]) == (403, "token_scope")


def test_two_different_credentials_are_none(world: World) -> None:
    first, second = make_token(world.people["admin_a"]), make_token(world.people["super"])

    def ask(one: str, other: str) -> int:
        return APIClient(HTTP_AUTHORIZATION=f"Bearer {one}", HTTP_ES_API_KEY=other).get("/api/v1/me/").status_code

    assert (ask(first, first), ask(first, second)) == (200, 401)


@pytest.mark.case("AZ-20")
@pytest.mark.parametrize("query", ["token={0}", "api_key={0}", "ES-API-KEY={0}", "access_token={0}"])
def test_a_token_in_an_address_opens_nothing(world: World, query: str) -> None:
    text = make_token(world.people["super"])

    assert APIClient().get(f"/api/v1/me/?{query.format(text)}").status_code == 401
    assert APIClient().post("/api/v1/tokens/", {"token": text, "label": "x"}).status_code == 401


def test_a_token_signs_nobody_in_at_the_portal(world: World) -> None:
    text = make_token(world.people["super"])

    assert Client(HTTP_AUTHORIZATION=f"Bearer {text}", HTTP_ES_API_KEY=text).get("/tokens/").status_code == 302


# --- portal -----------------------------------------------------------------------------------------------------------


def test_the_page_shows_a_secret_once(world: World) -> None:
    client = world.client("owner_a1")
    form = {"label": "<b>ci</b>", "scope": "read", "days": "30", "networks": "192.0.2.0/24, 2001:db8::/32"}

    made = client.post("/tokens/new/", form, format="multipart")

    token = ApiToken.objects.get(person=world.people["owner_a1"])
    assert made.status_code == 200
    assert f"bks_{token.key}." in made.content.decode()
    assert (token.networks, token.may_restore) == (["192.0.2.0/24", "2001:db8::/32"], False)
    listed = client.get("/tokens/").content.decode()
    assert token.key in listed
    assert f"bks_{token.key}." not in listed
    assert "<b>ci</b>" not in listed


def test_the_page_asks_again_before_a_secret(world: World) -> None:
    client = world.client("owner_a1")
    make_token(world.people["owner_a1"])
    token = ApiToken.objects.get(person=world.people["owner_a1"])
    confirm(client, ago_seconds=1000)

    asked = [client.get("/tokens/new/"), client.post(f"/tokens/{token.pk}/rotate/")]

    assert (
        all(answer.status_code == 302 and "confirm" in answer["Location"] for answer in asked)
        or asked[0].status_code == 403
    )
    assert ApiToken.objects.get(pk=token.pk).key == token.key


def test_the_page_renews_and_ends(world: World) -> None:
    client = world.client("owner_a1")
    text = make_token(world.people["owner_a1"])
    token = ApiToken.objects.get(person=world.people["owner_a1"])

    shown = client.post(f"/tokens/{token.pk}/rotate/")
    ended = client.post(f"/tokens/{token.pk}/end/")

    assert "bks_" in shown.content.decode()
    assert text not in shown.content.decode()
    assert ended.status_code == 302
    assert ApiToken.objects.get(pk=token.pk).disabled_at is not None


def test_foreign_tokens_are_not_there(world: World) -> None:
    for action in ("rotate", "end"):
        assert world.client("admin_a").post(f"/tokens/{world.ours.token.pk}/{action}/").status_code == 404
    assert ApiToken.objects.get(pk=world.ours.token.pk).disabled_at is None


def test_what_was_typed_wrong_is_said(world: World) -> None:
    answer = world.client("owner_a1").post(
        "/tokens/new/", {"label": "x", "scope": "read", "days": "9999", "networks": "x"}, format="multipart"
    )

    assert answer.status_code == 400
    assert "is no network" in answer.content.decode()


def test_a_page_of_tokens_is_a_few_queries(world: World, django_assert_max_num_queries: Any) -> None:
    client, person = world.client("owner_a1"), world.people["owner_a1"]
    for _ in range(12):
        make_token(person)
    make_person()

    with django_assert_max_num_queries(12):
        assert client.get("/tokens/").status_code == 200
