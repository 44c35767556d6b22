"""Guessing passwords, finding out who has an account, and getting a new password by mail."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from allauth.account.models import EmailAddress
from django.conf import settings as project_settings
from django.contrib.auth import hashers
from django.core import mail
from django.core.cache import cache
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tenants.models import AuditEvent, Person, PortalSession
from tenants.sign_in import mails
from tenants.sign_in.backend import PasswordBackend
from tenants.sign_in.throttle import begin_attempt
from tests.factories import make_person

PASSWORD = "a-long-password-1"
NEW = "an-other-password-2"


@pytest.fixture(autouse=True)
def _fresh_counters(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.clear()
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    monkeypatch.setattr(mails, "later", lambda work: work())


def try_sign_in(name: str, password: str, address: str = "192.0.2.1", client: Client | None = None) -> Any:
    return (client or Client()).post("/login/", {"username": name, "password": password}, REMOTE_ADDR=address)


def person_with_mail(name: str = "anna", **more: Any) -> Person:
    person = make_person(name, password=PASSWORD, **more)
    person.email = f"{name}@example.com"
    person.save()
    return person


# --- by e-mail address ------------------------------------------------------------------------------------------------


def test_an_address_signs_in_like_the_name(db: None) -> None:
    person_with_mail()

    assert try_sign_in("Anna@Example.com", PASSWORD)["Location"] == "/"


def test_an_address_of_two_persons_is_nobodys(db: None) -> None:
    for name in ("anna", "otto"):
        Person.objects.filter(pk=make_person(name, password=PASSWORD).pk).update(email="both@example.com")

    assert try_sign_in("both@example.com", PASSWORD).status_code == 200


def test_somebody_elses_name_as_address_gets_nobody_in(db: None) -> None:
    make_person("anna@example.com", password=PASSWORD)
    thief = make_person("otto", password=NEW)
    Person.objects.filter(pk=thief.pk).update(email="anna@example.com")

    assert try_sign_in("anna@example.com", NEW).status_code == 200
    assert try_sign_in("anna@example.com", PASSWORD)["Location"] == "/"


# --- guessing ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def few(settings: Any) -> None:
    settings.API_RATES = {"password-pair": "3/m", "password-account": "6/h", "password-address": "10/m"}


@pytest.mark.case("AZ-23")
@pytest.mark.parametrize("name", ["anna", "nobody"])
def test_guessing_is_locked_alike_for_who_is_there_and_who_is_not(db: None, few: None, name: str) -> None:
    make_person("anna", password=PASSWORD)
    for _ in range(3):
        assert try_sign_in(name, "wrong").status_code == 200

    locked = try_sign_in(name, PASSWORD)

    assert locked.status_code == 429
    assert int(locked["Retry-After"]) > 0
    assert "Too many attempts" in locked.content.decode()


def test_another_address_is_not_locked_out_with_it_and_all_of_them_together_are(db: None, few: None) -> None:
    make_person("anna", password=PASSWORD)
    for _ in range(4):
        try_sign_in("anna", "wrong", "192.0.2.1")
    assert try_sign_in("anna", PASSWORD, "198.51.100.7")["Location"] == "/"

    for number in range(3):
        try_sign_in("anna", "wrong", f"203.0.113.{number}")

    assert try_sign_in("anna", PASSWORD, "198.51.100.7").status_code == 429


def test_one_address_does_not_try_one_password_with_many_names(db: None, few: None) -> None:
    for number in range(10):
        try_sign_in(f"name-{number}", "Summer2026!")

    assert try_sign_in("another", "Summer2026!").status_code == 429


def test_right_passwords_do_not_count(db: None, few: None) -> None:
    make_person("anna", password=PASSWORD)

    assert [try_sign_in("anna", PASSWORD).status_code for _ in range(12)] == [302] * 12


def test_a_lock_ends(db: None, few: None) -> None:
    make_person("anna", password=PASSWORD)
    with time_machine.travel("2026-03-01 12:00:00Z", tick=False) as clock:
        for _ in range(4):
            try_sign_in("anna", "wrong")
        clock.shift(timedelta(minutes=2))

        assert try_sign_in("anna", PASSWORD)["Location"] == "/"


def test_what_was_typed_as_a_name_is_in_no_counter(db: None, few: None) -> None:
    begin_attempt(RequestFactory().post("/login/"), "my-secret-password", now=time.time())

    assert "my-secret-password" not in str(getattr(cache, "_cache", {}).keys())


@pytest.mark.case("AZ-23")
@pytest.mark.parametrize("name", ["anna", "anna@example.com", "disabled", "unusable", "nobody"])
def test_every_refusal_costs_one_hash(db: None, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    person_with_mail()
    make_person("disabled", password=PASSWORD, active=False)
    make_person("unusable")
    counted = []
    hasher = hashers.get_hasher("default")
    monkeypatch.setattr(type(hasher), "encode", counting(type(hasher).encode, counted))

    found = PasswordBackend().authenticate(None, username=name, password="wrong")

    assert (found, len(counted)) == (None, 1)


def counting(plain: Any, counted: list[int]) -> Any:
    def encode(*arguments: Any, **options: Any) -> str:
        counted.append(1)
        return str(plain(*arguments, **options))

    return encode


@pytest.mark.case("AZ-23")
def test_unknown_wrong_and_disabled_are_one_page(db: None) -> None:
    make_person("anna", password=PASSWORD)
    make_person("disabled", password=PASSWORD, active=False)

    def seen(name: str, password: str) -> str:
        text = try_sign_in(name, password).content.decode()
        return re.sub(r'value="[^"]*"', "", text)

    assert seen("anna", "wrong") == seen("nobody", "wrong") == seen("disabled", PASSWORD)


# --- a new password ---------------------------------------------------------------------------------------------------


def ask(email: str, **more: Any) -> Any:
    return Client().post("/password/reset/", {"email": email}, **more)


def link() -> str:
    found = re.search(r"http\S+", str(mail.outbox[-1].body))
    assert found is not None
    return found[0].removeprefix(project_settings.CONFIG.portal_url)


def open_link(client: Client, path: str) -> str:
    """The address of the form; the page when the link is not valid."""
    answer = client.get(path)
    return str(answer["Location"]) if answer.status_code == 302 else answer.content.decode()


def set_password(client: Client, form: str, password: str = NEW) -> Any:
    return client.post(form, {"new_password1": password, "new_password2": password})


def test_a_link_sets_a_new_password_once(db: None) -> None:
    person = person_with_mail()
    elsewhere = Client()
    try_sign_in("anna", PASSWORD, client=elsewhere)
    ask("anna@example.com")
    path, client = link(), Client()

    form = open_link(client, path)
    answer = set_password(client, form)

    assert path not in form
    assert answer["Location"] == "/login/"
    assert try_sign_in("anna", PASSWORD).status_code == 200
    assert try_sign_in("anna", NEW)["Location"] == "/"
    assert elsewhere.get("/").status_code == 302
    assert "not valid" in open_link(Client(), path)
    assert EmailAddress.objects.get(user=person).verified
    done = AuditEvent.objects.filter(subject_id=str(person.pk), action__startswith="password.")
    assert sorted(done.values_list("action", flat=True)) == ["password.reset", "password.reset_asked"]


def test_a_link_ends_after_an_hour(db: None) -> None:
    person_with_mail()
    with time_machine.travel("2026-03-01 12:00:00Z", tick=False) as clock:
        ask("anna@example.com")
        clock.shift(timedelta(minutes=61))

        assert "not valid" in open_link(Client(), link())


def test_a_link_ends_when_the_person_signs_in_or_has_another_address(db: None) -> None:
    person = person_with_mail()
    ask("anna@example.com")
    first = link()
    try_sign_in("anna", PASSWORD)
    ask("anna@example.com")
    second = link()
    Person.objects.filter(pk=person.pk).update(email="other@example.com")

    assert "not valid" in open_link(Client(), first)
    assert "not valid" in open_link(Client(), second)


@pytest.mark.parametrize("password", ["short", "password1234", "anna@example.com", "482910482910"])
def test_the_rules_for_passwords_hold(db: None, password: str, settings: Any) -> None:
    person_with_mail()
    ask("anna@example.com")
    client = Client()

    answer = set_password(client, open_link(client, link()), password)

    rule_free = password == "482910482910"
    assert answer.status_code == (302 if rule_free else 200)
    assert (try_sign_in("anna", PASSWORD).status_code == 200) is rule_free


def test_asking_tells_nothing(db: None) -> None:
    person_with_mail()
    person_with_mail("disabled", active=False)
    make_person("nomail", password=PASSWORD)
    pages = {ask(email).content for email in ("anna@example.com", "disabled@example.com", "nobody@example.com")}

    assert len(pages) == 1
    assert [message.to for message in mail.outbox] == [["anna@example.com"]]


def test_the_answer_does_not_wait_for_what_depends_on_the_account(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    person_with_mail()
    waiting: list[Any] = []
    monkeypatch.setattr(mails, "later", waiting.append)

    with CaptureQueriesContext(
        connection,
    ) as found:
        ask("anna@example.com")

    assert (len(waiting), len(mail.outbox)) == (1, 0)
    assert not [query for query in found.captured_queries if "tenants_person" in query["sql"]]


def test_the_link_does_not_follow_the_host_header(db: None, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["evil.example"]
    person_with_mail()

    ask("anna@example.com", HTTP_HOST="evil.example")

    assert "evil" not in str(mail.outbox[-1].body)


def test_an_address_that_only_looks_alike_gets_no_mail(db: None) -> None:
    person = person_with_mail()
    Person.objects.filter(pk=person.pk).update(email="mike@example.com")

    ask("mıke@example.com")

    assert mail.outbox == []


def test_links_are_limited(db: None, settings: Any) -> None:
    settings.API_RATES = {"reset-account": "2/h", "reset-address": "10/m"}
    person_with_mail()

    found = [ask("anna@example.com", REMOTE_ADDR=f"192.0.2.{number}").status_code for number in range(3)]

    assert found == [200, 200, 429]
    assert len(mail.outbox) == 2


def test_changing_the_password_ends_the_other_sessions_and_stays_in_the_audit(db: None) -> None:
    person = person_with_mail()
    here, elsewhere = Client(), Client()
    for client in (here, elsewhere):
        try_sign_in("anna", PASSWORD, client=client)

    body = {"old_password": PASSWORD, "new_password1": NEW, "new_password2": NEW}
    wrong = here.post("/sign-in/password/", {**body, "old_password": "wrong"})
    answer = here.post("/sign-in/password/", body)

    assert (wrong.status_code, answer["Location"]) == (200, "/sign-in/")
    assert here.get("/").status_code == 200
    assert elsewhere.get("/").status_code == 302
    assert PortalSession.objects.filter(person=person).count() == 1
    assert AuditEvent.objects.filter(subject_id=str(person.pk), action="password.change").exists()
    assert "was changed" in str(mail.outbox[-1].body)
    assert mail.outbox[-1].to == ["anna@example.com"]


def test_no_mail_holds_a_password_and_the_audit_no_link(db: None) -> None:
    person_with_mail()
    ask("anna@example.com")
    client = Client()
    token = link().rstrip("/").rsplit("/", 1)[1]
    set_password(client, open_link(client, link()))

    kept = str(list(AuditEvent.objects.values_list("before", "after")))

    assert token not in kept
    assert not [message for message in mail.outbox if NEW in str(message.body)]


def test_mails_that_cannot_leave_do_not_break_anything(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    def fail() -> None:
        raise OSError("no server")

    mails.later(fail)
    mails._pool.submit(lambda: None).result(timeout=60)

    assert timezone.now() is not None
