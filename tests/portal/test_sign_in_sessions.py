"""Sessions of the portal: how they begin, what ends them, and what a thief of the database gets."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.conf import settings as project_settings
from django.core.cache import cache
from django.test import Client

from tenants.models import AuditEvent, Person, PortalSession
from tenants.sign_in.limits import Limits, is_over
from tests.factories import make_person
from tests.worlds import World

PASSWORD = "a-long-password-1"
COOKIE = project_settings.SESSION_COOKIE_NAME
START = "2026-03-01 08:00:00Z"


@pytest.fixture(autouse=True)
def _fast(settings: Any) -> None:
    cache.clear()
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def signed_in(name: str = "anna", **headers: Any) -> Client:
    client = Client(**headers)
    assert client.post("/login/", {"username": name, "password": PASSWORD})["Location"] == "/"
    return client


@pytest.mark.case("AZ-19")
def test_a_session_from_before_the_sign_in_is_worth_nothing(db: None) -> None:
    make_person("anna", password=PASSWORD)
    client = Client()
    session = client.session
    session["planted"] = True
    session.save()
    client.cookies[COOKIE] = session.session_key

    client.post("/login/", {"username": "anna", "password": PASSWORD})

    assert client.cookies[COOKIE].value != session.session_key
    fixed = Client()
    fixed.cookies[COOKIE] = session.session_key
    assert fixed.get("/").status_code == 302


def test_a_chosen_session_key_is_not_taken(db: None) -> None:
    make_person("anna", password=PASSWORD)
    client = Client()
    client.cookies[COOKIE] = "a" * 32

    client.post("/login/", {"username": "anna", "password": PASSWORD})

    assert client.cookies[COOKIE].value != "a" * 32


def test_the_cookie_is_not_for_scripts_or_other_sites(db: None) -> None:
    make_person("anna", password=PASSWORD)

    cookie = signed_in().cookies[COOKIE]

    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["domain"]) == (True, "Lax", "/", "")
    assert cookie["max-age"] == 12 * 3600


def test_who_reads_the_table_signs_in_as_nobody(db: None) -> None:
    make_person("anna", password=PASSWORD)
    client = signed_in()
    kept = PortalSession.objects.get().session_key

    thief = Client()
    thief.cookies[COOKIE] = kept

    assert kept != client.cookies[COOKIE].value
    assert thief.get("/").status_code == 302


def test_an_administrator_who_is_not_there_is_signed_out(db: None) -> None:
    make_person("anna", superadmin=True, password=PASSWORD)
    with time_machine.travel(START, tick=False) as clock:
        client = signed_in()
        for _ in range(3):
            clock.shift(timedelta(minutes=50))
            assert client.get("/").status_code == 200
        clock.shift(timedelta(minutes=61))

        assert client.get("/").status_code == 302
        assert not PortalSession.objects.exists()


def test_a_page_that_polls_is_nobody_being_there(world: World) -> None:
    with time_machine.travel(START, tick=False) as clock:
        client = world.client("super")
        address = f"/jobs/{world.ours.job.pk}/progress/"
        for _ in range(3):
            clock.shift(timedelta(minutes=19))
            assert client.get(address, HTTP_HX_REQUEST="true").status_code == 200
        clock.shift(timedelta(minutes=4))

        assert client.get("/").status_code == 302


def test_others_may_rest_but_nobody_stays_longer_than_half_a_day(db: None) -> None:
    make_person("anna", password=PASSWORD)
    with time_machine.travel(START, tick=False) as clock:
        client = signed_in()
        for _ in range(5):
            clock.shift(timedelta(hours=2))
            assert client.get("/").status_code == 200
        clock.shift(timedelta(hours=2))

        assert client.get("/").status_code == 302


@pytest.mark.parametrize(
    ("signed_in_at", "seen_at", "administrator", "over"),
    [
        (0, 0, False, False),
        (0, 900, True, False),
        (0, 899, True, True),
        (0, 899, False, False),
        (-9000, 1000, False, True),
        (-8999, 1000, False, False),
        (None, 1000, False, True),
        (0, None, False, True),
    ],
)
def test_the_limits(signed_in_at: float | None, seen_at: float | None, administrator: bool, over: bool) -> None:
    limits = Limits(life=10_000, idle=5_000, idle_administrator=101)

    found = is_over(signed_in_at=signed_in_at, seen_at=seen_at, administrator=administrator, now=1000, limits=limits)

    assert found is over


def test_the_list_shows_where_one_is_signed_in_and_ends_one(db: None) -> None:
    person = make_person("anna", password=PASSWORD)
    here, there = signed_in(), signed_in(HTTP_USER_AGENT="<b>Browser</b> 7")
    page = here.get("/sign-in/").content.decode()
    other = PortalSession.objects.exclude(agent="").get()

    answer = here.post(f"/sign-in/sessions/{other.pk}/end/")

    assert "&lt;b&gt;Browser&lt;/b&gt; 7" in page and "127.0.0.1" in page
    assert answer["Location"] == "/sign-in/"
    assert (here.get("/").status_code, there.get("/").status_code) == (200, 302)
    assert AuditEvent.objects.filter(action="sign_out.session", subject_id=str(person.pk)).exists()


def test_nobody_ends_the_session_of_another(db: None) -> None:
    make_person("anna", password=PASSWORD)
    make_person("otto", password=PASSWORD)
    mine, theirs = signed_in(), signed_in("otto")
    key = PortalSession.objects.get(person__username="otto").pk

    assert mine.post(f"/sign-in/sessions/{key}/end/").status_code == 404
    assert theirs.get("/").status_code == 200


def test_signing_out_everywhere_ends_all(db: None) -> None:
    make_person("anna", password=PASSWORD)
    here, there = signed_in(), signed_in()

    assert here.post("/sign-in/sessions/end/")["Location"] == "/login/"
    assert (here.get("/").status_code, there.get("/").status_code) == (302, 302)


@pytest.mark.case("AZ-06")
def test_a_disabled_person_is_out_with_the_next_request(world: World) -> None:
    client = world.client("super")
    Person.objects.filter(username="super").update(is_active=False)

    assert client.get("/").status_code == 302
    assert client.get("/api/v1/servers/").status_code in {401, 403}


def test_old_sessions_do_not_heap_up(db: None) -> None:
    make_person("anna", password=PASSWORD)
    with time_machine.travel(START, tick=False) as clock:
        signed_in()
        clock.shift(timedelta(hours=13))
        signed_in()

    assert PortalSession.objects.count() == 1
