"""Signing in and out, and forged requests."""

from __future__ import annotations

import pytest
from django.test import Client

from tests.factories import make_person
from tests.worlds import World

PASSWORD = "a-long-password-1"


def sign_in(client: Client, next_page: str = "", password: str = PASSWORD) -> object:
    return client.post("/login/", {"username": "anna", "password": password, "next": next_page})


def test_it_goes_where_the_person_wanted_to_go(db: None) -> None:
    make_person("anna", password=PASSWORD)

    assert sign_in(Client(), "/backups/?status=ok")["Location"] == "/backups/?status=ok"
    assert sign_in(Client())["Location"] == "/"


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)", "\thttps://evil.example"],
)
def test_it_goes_nowhere_else(db: None, target: str) -> None:
    make_person("anna", password=PASSWORD)

    assert sign_in(Client(), target)["Location"] == "/"


def test_wrong_password_and_disabled_person_look_the_same(db: None) -> None:
    make_person("anna", password=PASSWORD, active=False)

    disabled, wrong = sign_in(Client()), sign_in(Client(), password="wrong")

    assert disabled.status_code == wrong.status_code == 200
    assert "Please enter a correct username" in disabled.content.decode()
    assert "Please enter a correct username" in wrong.content.decode()


def test_the_typed_name_is_escaped(db: None) -> None:
    text = Client().post("/login/", {"username": '"><script>', "password": "x"}).content.decode()

    assert '"><script>' not in text


def test_signing_out_needs_a_post(world: World) -> None:
    client = world.client("admin_a")

    assert client.get("/logout/").status_code == 405
    assert client.post("/logout/")["Location"] == "/login/"
    assert client.get("/").status_code == 302


def test_a_person_disabled_meanwhile_is_out_at_once(world: World) -> None:
    client, person = world.client("admin_a"), world.people["admin_a"]
    assert person is not None
    assert client.get("/").status_code == 200

    person.is_active = False
    person.save()

    assert client.get("/").status_code == 302


@pytest.mark.parametrize("path", ["login/", "logout/", "definitions/new/"])
def test_a_forged_form_is_refused(db: None, path: str) -> None:
    person = make_person("anna", superadmin=True)
    client = Client(enforce_csrf_checks=True)
    client.force_login(person)

    answer = client.post(f"/{path}", {})

    assert answer.status_code == 403
    assert "Nothing was changed" in answer.content.decode()


def test_forged_actions_write_nothing(world: World) -> None:
    person = world.people["super"]
    assert person is not None
    client = Client(enforce_csrf_checks=True)
    client.force_login(person)

    for path in (f"definitions/{world.ours.definition.pk}/delete/", f"jobs/{world.ours.job.pk}/cancel/"):
        assert client.post(f"/{path}").status_code == 403
    world.ours.job.refresh_from_db()
    world.ours.definition.refresh_from_db()
    assert world.ours.job.state == "pending"


def test_a_poll_without_a_session_reloads_the_page_instead_of_showing_the_form_in_it(world: World) -> None:
    answer = world.client("anonymous").get(f"/jobs/{world.ours.job.pk}/progress/", HTTP_HX_REQUEST="true")

    assert answer["HX-Refresh"] == "true"
    assert answer.content == b""
