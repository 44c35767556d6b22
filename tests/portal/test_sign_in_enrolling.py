"""A first second factor when the password alone does not do any more: with a code from the person's mail, not without;
and a reset by a SuperAdmin through the API as in the portal."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.core import mail
from django.core.cache import cache
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from tenants.approvals import approve
from tenants.models import ApprovalRequest, ApprovalRule, AuditEvent, FirstSignIn, Person
from tenants.sign_in import enrolling, mails
from tests.factories import make_person, make_tenant
from tests.portal.test_sign_in_factors import (
    PASSWORD,
    early_in_the_half_minute,
    signed_in,
    type_password,
    with_app,
)
from tests.signing_in import confirm

__all__ = ["early_in_the_half_minute"]
SET_UP = ("/sign-in/app/", "/sign-in/passkeys/add/")


@pytest.fixture(autouse=True)
def _plain(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mails are there at once, passwords cost nothing."""
    cache.clear()
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    monkeypatch.setattr(mails, "later", lambda work: work())


@pytest.fixture
def anna(db: None) -> Person:
    person = make_person("anna", administers=[make_tenant()], password=PASSWORD)
    Person.objects.filter(pk=person.pk).update(email="anna@example.com")
    return Person.objects.get(pk=person.pk)


def late(person: Person) -> Client:
    """Signed in by password after the days of grace."""
    FirstSignIn.objects.update_or_create(person=person, defaults={"at": timezone.now() - timedelta(days=30)})
    return signed_in(person.username)


def code_from_mail() -> str:
    found = re.search(r"The code is (\d{8})\.", str(mail.outbox[-1].body))
    assert found is not None
    assert mail.outbox[-1].to == ["anna@example.com"]
    return found[1]


def shut(client: Client) -> bool:
    """Whether neither kind of factor can be set up, by looking or by sending a form."""
    answers = [answer for path in SET_UP for answer in (client.get(path), client.post(path, {"code": "000000"}))]
    return {answer.get("Location") for answer in answers} == {"/sign-in/code/"}


def test_who_is_late_sets_one_up_with_password_and_a_code_and_not_by_password_alone(anna: Person) -> None:
    client = late(anna)
    assert client.get("/")["Location"] == "/sign-in/"
    assert shut(client)

    client.post("/sign-in/code/", {"send": "1"})
    code = code_from_mail()
    wrong = client.post("/sign-in/code/", {"code": f"{(int(code) + 1) % 10**8:08}"})
    assert (wrong.status_code, shut(client)) == (400, True)
    other_session = signed_in()
    assert other_session.post("/sign-in/code/", {"code": code}).status_code == 400

    assert client.post("/sign-in/code/", {"code": code})["Location"] == "/sign-in/"
    assert shut(other_session)
    with_app(client)
    assert client.get("/").status_code == 200
    assert AuditEvent.objects.filter(action="mfa.enrol_code_used", subject_id=str(anna.pk)).count() == 1


def test_a_code_works_once_for_a_few_tries_and_not_for_long(anna: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    client = late(anna)
    client.post("/sign-in/code/", {"send": "1"})
    for _ in range(enrolling.MOST_TRIES):
        client.post("/sign-in/code/", {"code": "x"})
    assert client.post("/sign-in/code/", {"code": code_from_mail()}).status_code == 400

    client.post("/sign-in/code/", {"send": "1"})
    code = code_from_mail()
    now = enrolling.time.time()
    monkeypatch.setattr(enrolling.time, "time", lambda: now + enrolling.GOOD_SECONDS + 1)
    assert client.post("/sign-in/code/", {"code": code}).status_code == 400

    client.post("/sign-in/code/", {"send": "1"})
    assert client.post("/sign-in/code/", {"code": code_from_mail()}).status_code == 302
    assert not shut(client)
    monkeypatch.setattr(enrolling.time, "time", lambda: now + 3 * enrolling.GOOD_SECONDS)
    assert shut(client)
    assert client.post("/sign-in/code/", {"code": code_from_mail()}).status_code == 400


def test_who_had_one_and_lost_it_needs_the_code_too_whoever_he_is(db: None) -> None:
    owner = make_person("otto", password=PASSWORD)
    with_app(signed_in("otto"))
    make_person("anna", superadmin=True, password=PASSWORD)

    signed_in("anna").post(f"/people/{owner.pk}/sign-in/reset-mfa/")

    client = signed_in("otto")
    assert shut(client)
    assert "no e-mail address" in client.get("/sign-in/code/").content.decode()
    call_command("reset_mfa", "otto", "--open", verbosity=0)
    with_app(client)
    assert AuditEvent.objects.filter(action="mfa.begin_anew", actor_kind__in=["command", "service"]).exists()


def test_in_time_and_for_who_needs_none_nothing_is_asked(anna: Person) -> None:
    client = signed_in()
    assert client.get("/sign-in/code/")["Location"] == "/sign-in/"
    with_app(client)

    make_person("free", password=PASSWORD)
    with_app(signed_in("free"))
    assert Authenticator.objects.filter(type="totp").count() == 2


# --- reset through the API --------------------------------------------------------------------------------------------


def test_a_superadmin_resets_by_the_api_as_in_the_portal(anna: Person, django_capture_on_commit_callbacks: Any) -> None:
    theirs = signed_in()
    with_app(theirs)
    make_person("root", superadmin=True, password=PASSWORD)
    client = signed_in("root")
    address = f"/api/v1/people/{anna.pk}/reset-mfa/"
    confirm(client, ago_seconds=301)
    assert client.post(address).json()["code"] == "step_up_needed"
    confirm(client)

    with django_capture_on_commit_callbacks(execute=True):
        answer = client.post(address)

    assert answer.status_code == 204
    assert not Authenticator.objects.filter(user=anna).exists()
    assert theirs.get("/").status_code == 302
    assert "taken by an administrator" in str(mail.outbox[-1].body)
    assert AuditEvent.objects.get(action="mfa.reset").actor_name == "root"
    assert client.post(address).json()["code"] == "no_second_factor"


@pytest.mark.parametrize("by_api", [True, False])
def test_where_a_rule_asks_a_second_person_has_to_agree(anna: Person, by_api: bool) -> None:
    with_app(signed_in())
    root, second = (make_person(name, superadmin=True, password=PASSWORD) for name in ("root", "second"))
    ApprovalRule.objects.create(kind="mfa.reset", tenant=None, required=True)
    client = signed_in("root")
    address = f"/api/v1/people/{anna.pk}/reset-mfa/" if by_api else f"/people/{anna.pk}/sign-in/reset-mfa/"
    confirm(client)

    client.post(address)
    assert Authenticator.objects.filter(user=anna, type="totp").exists()
    approve(request=ApprovalRequest.objects.get(requested_by=root), actor=second, now=timezone.now())
    client.post(address)

    assert not Authenticator.objects.filter(user=anna).exists()


# --- who was tried ----------------------------------------------------------------------------------------------------


def test_a_failed_sign_in_by_address_is_of_the_account_and_looks_like_any_other(anna: Person) -> None:
    pages = []
    for name in ("Anna@Example.com", "nobody@example.com"):
        client = Client()
        page = client.post("/login/", {"username": name, "password": "wrong"})
        pages.append((page.status_code, re.sub(r'value="[^"]*"', "", page.content.decode())))

    assert pages[0] == pages[1]
    tried = AuditEvent.objects.filter(action="sign_in.failed").order_by("pk")
    assert [(event.subject_id, event.after["account"]) for event in tried] == [
        (str(anna.pk), "anna"),
        ("", "unknown"),
    ]
    assert "example.com" not in str([event.after for event in tried])
    assert type_password(Client(), "anna@example.com").status_code == 302
