"""Second factors in the portal: setting up, signing in, losing, taking away; and confirming."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from django.conf import settings
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from tenants.models import AuditEvent, FirstSignIn, Person, PortalSession
from tenants.sign_in.enrolling import PROVEN_UNTIL
from tests.factories import make_person, make_tenant
from tests.signing_in import confirm
from tests.soft_passkey import SoftPasskey

PASSWORD = "a-long-password-1"


@pytest.fixture(autouse=True)
def _fresh_counters(settings: Any) -> None:
    cache.clear()
    # How slow the real hash is matters to attackers, not here.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def early_in_the_half_minute() -> Iterator[None]:
    """A code is of a half minute: none ends between making and typing one."""
    with time_machine.travel(time.time() // 30 * 30, tick=True):
        yield


@pytest.fixture
def anna(db: None) -> Person:
    return make_person("anna", superadmin=True, password=PASSWORD)


def code_of(secret: str) -> str:
    return format_hotp_value(hotp_value(secret, int(time.time()) // 30))


def type_password(client: Client, name: str = "anna", next_page: str = "") -> Any:
    return client.post("/login/", {"username": name, "password": PASSWORD, "next": next_page})


def signed_in(name: str = "anna") -> Client:
    client = Client()
    type_password(client, name)
    return client


def confirm_by_password(client: Client) -> None:
    assert client.post("/confirm/?next=/sign-in/", {"password": PASSWORD})["Location"] == "/sign-in/"


def with_app(client: Client) -> tuple[str, list[str]]:
    """Set up an app as a person does; the secret, and the recovery codes that were shown."""
    confirm_by_password(client)
    secret = re.search(r"<code>([A-Z2-7]{32})</code>", client.get("/sign-in/app/").content.decode())
    assert secret is not None
    answer = client.post("/sign-in/app/", {"code": code_of(secret[1])})
    assert answer["Location"] == "/sign-in/recovery-codes/"
    shown = client.get("/sign-in/recovery-codes/").content.decode()
    cache.clear()
    return secret[1], re.findall(r"<code>(\d{10})</code>", shown)


def test_the_password_alone_is_not_enough_any_more(anna: Person) -> None:
    secret, _ = with_app(signed_in())
    client = Client()

    first = type_password(client, next_page="/backups/")
    in_between = client.get("/backups/")
    wrong = client.post("/login/code/", {"code": "000000"})
    right = client.post("/login/code/", {"code": code_of(secret)})

    assert first["Location"] == "/login/code/"
    assert in_between["Location"].startswith("/login/?next=")
    assert (wrong.status_code, "Incorrect code" in wrong.content.decode()) == (200, True)
    assert right["Location"] == "/backups/"
    assert client.get("/backups/").status_code == 200


def test_a_code_works_once(anna: Person) -> None:
    secret, _ = with_app(signed_in())
    code = code_of(secret)
    first, second = Client(), Client()
    type_password(first)
    type_password(second)

    assert first.post("/login/code/", {"code": code})["Location"] == "/"
    assert second.post("/login/code/", {"code": code}).status_code == 200


def test_codes_are_not_guessed(anna: Person) -> None:
    secret, _ = with_app(signed_in())
    client = Client()
    type_password(client)
    for number in range(5):
        client.post("/login/code/", {"code": f"{number:06}"})

    locked = client.post("/login/code/", {"code": code_of(secret)})

    assert "Too many failed login attempts" in locked.content.decode()
    assert "_auth_user_id" not in client.session


def test_recovery_codes_are_shown_once_and_work_once(anna: Person) -> None:
    client = signed_in()
    _, codes = with_app(client)
    again = client.get("/sign-in/recovery-codes/").content.decode()
    first, second = Client(), Client()
    type_password(first)
    type_password(second)

    assert len(codes) == 10
    assert codes[0] not in again and "not shown again" in again
    assert first.post("/login/code/", {"code": codes[0]})["Location"] == "/"
    assert second.post("/login/code/", {"code": codes[0]}).status_code == 200
    assert AuditEvent.objects.filter(action="mfa.recovery_code_used", subject_id=str(anna.pk)).count() == 1


def test_the_database_holds_no_seed(anna: Person) -> None:
    secret, codes = with_app(signed_in())

    kept = str(list(Authenticator.objects.filter(user=anna).values_list("data", flat=True)))

    assert secret not in kept
    assert not [code for code in codes if code in kept]


def test_whoever_has_a_factor_confirms_with_it_and_not_with_the_password(anna: Person) -> None:
    client = signed_in()
    secret, _ = with_app(client)
    confirm(client, method="mfa", type="totp", ago_seconds=301)

    asked = client.get("/sign-in/app/remove/")
    by_password = client.post("/confirm/?next=/sign-in/app/remove/", {"password": PASSWORD})
    by_code = client.post("/confirm/code/?next=/sign-in/app/remove/", {"code": code_of(secret)})
    removed = client.post("/sign-in/app/remove/")

    assert asked["Location"].startswith("/confirm/code/")
    assert by_password["Location"].startswith("/confirm/code/")
    assert by_code["Location"] == "/sign-in/app/remove/"
    assert removed["Location"] == "/sign-in/"
    assert not Authenticator.objects.filter(user=anna).exists()


def test_removing_without_confirming_removes_nothing(anna: Person) -> None:
    client = signed_in()
    with_app(client)
    confirm(client, method="mfa", type="totp", ago_seconds=301, reauthenticated=True)

    client.post("/sign-in/app/remove/")

    assert Authenticator.objects.filter(user=anna, type="totp").exists()


def test_changes_are_in_the_audit(anna: Person) -> None:
    client = signed_in()
    with_app(client)
    client.post("/sign-in/app/remove/")

    found = set(
        AuditEvent.objects.filter(subject_id=str(anna.pk), actor_id=str(anna.pk)).values_list("action", flat=True)
    )

    assert {"sign_in.done", "sign_in.confirm", "mfa.add", "mfa.remove"} <= found


def test_wrong_codes_are_in_the_audit(anna: Person) -> None:
    with_app(signed_in())
    client = Client()
    type_password(client)

    client.post("/login/code/", {"code": "000000"})

    assert AuditEvent.objects.filter(action="mfa.failed", subject_id=str(anna.pk), outcome="refused").count() == 1


# --- passkeys ---------------------------------------------------------------------------------------------------------


def options_of(answer: Any) -> dict[str, Any]:
    return answer.context["js_data"]


def with_passkey(client: Client, *, alone: bool = False) -> SoftPasskey:
    confirm_by_password(client)
    passkey = SoftPasskey(origin="http://localhost")
    options = options_of(client.get("/sign-in/passkeys/add/", HTTP_HOST="localhost"))["creation_options"]
    body = {"name": "key", "credential": passkey.create(options, verified=alone)} | (
        {"passwordless": "on"} if alone else {}
    )
    answer = client.post("/sign-in/passkeys/add/", body, HTTP_HOST="localhost")
    assert answer["Location"] == "/sign-in/recovery-codes/", answer.content.decode()
    return passkey


def test_a_passkey_is_a_second_factor(anna: Person) -> None:
    passkey = with_passkey(signed_in())
    client = Client(HTTP_HOST="localhost")
    type_password(client)

    stranger = SoftPasskey(origin="http://localhost", credential_id=passkey.credential_id)
    forged = stranger.get(options_of(client.get("/login/code/"))["request_options"])
    refused = client.post("/login/code/", {"credential": forged})
    stayed_out = "_auth_user_id" not in client.session
    answer = passkey.get(options_of(client.get("/login/code/"))["request_options"])
    accepted = client.post("/login/code/", {"credential": answer})

    assert (refused.status_code, stayed_out) == (200, True)
    assert accepted["Location"] == "/"


def test_a_passkey_signs_in_alone_only_when_it_knows_its_owner(anna: Person) -> None:
    passkey = with_passkey(signed_in(), alone=True)
    weak, strong = Client(HTTP_HOST="localhost"), Client(HTTP_HOST="localhost")

    def options(client: Client) -> dict[str, Any]:
        return client.get("/login/passkey/", HTTP_ACCEPT="application/json").json()["request_options"]

    unverified = passkey.get(options(weak), verified=False)
    assert weak.post("/login/passkey/", {"credential": unverified})["Location"] == "/login/"
    verified = passkey.get(options(strong), verified=True)
    assert strong.post("/login/passkey/", {"credential": verified})["Location"] == "/"
    assert strong.get("/").status_code == 200 and weak.get("/").status_code == 302


def test_an_answer_for_another_site_is_refused(anna: Person) -> None:
    passkey = with_passkey(signed_in(), alone=True)
    client = Client(HTTP_HOST="localhost")
    options = client.get("/login/passkey/", HTTP_ACCEPT="application/json").json()["request_options"]
    passkey.origin = "http://evil.localhost.example"

    client.post("/login/passkey/", {"credential": passkey.get(options, verified=True)})

    assert "_auth_user_id" not in client.session


def test_a_disabled_person_does_not_get_in_by_passkey(anna: Person) -> None:
    passkey = with_passkey(signed_in(), alone=True)
    Person.objects.filter(pk=anna.pk).update(is_active=False)
    client = Client(HTTP_HOST="localhost")
    options = client.get("/login/passkey/", HTTP_ACCEPT="application/json").json()["request_options"]

    answer = client.post("/login/passkey/", {"credential": passkey.get(options, verified=True)})

    assert answer["Location"] == "/login/"
    assert "_auth_user_id" not in client.session


# --- who must have one ------------------------------------------------------------------------------------------------


def grace_is_over(person: Person) -> None:
    FirstSignIn.objects.filter(person=person).update(at=timezone.now() - timedelta(days=8))


def look_now(client: Client) -> None:
    session = client.session
    session["guard"] = {**session["guard"], "at": 0}
    session.save()


@pytest.mark.parametrize("kind", ["super", "admin"])
def test_an_administrator_may_wait_for_a_while_and_then_does_nothing_else_first(db: None, kind: str) -> None:
    administers = [make_tenant()] if kind == "admin" else []
    person = make_person("anna", superadmin=kind == "super", administers=administers, password=PASSWORD)
    client = signed_in()
    assert "need a second factor" in client.get("/").content.decode()

    grace_is_over(person)
    look_now(client)

    assert client.get("/")["Location"] == "/sign-in/"
    assert client.post("/definitions/new/")["Location"] == "/sign-in/"
    refused = client.get("/api/v1/servers/")
    assert (refused.status_code, refused.json()["code"]) == (403, "mfa_needed")
    assert client.get("/sign-in/").status_code == 200
    # What it takes to set one up now is in test_sign_in_enrolling.py.
    session = client.session
    session[PROVEN_UNTIL] = time.time() + 60
    session.save()
    with_app(client)
    assert client.get("/").status_code == 200
    assert client.get("/api/v1/servers/").status_code == 200


def test_others_may_do_without(db: None) -> None:
    person = make_person("anna", password=PASSWORD)
    client = signed_in()
    grace_is_over(person)
    look_now(client)

    page = client.get("/")

    assert (page.status_code, "need a second factor" in page.content.decode()) == (200, False)


def test_where_it_is_advised_nobody_is_forced(anna: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings.CONFIG, "admin_mfa", "advised")
    client = signed_in()
    grace_is_over(anna)
    look_now(client)

    assert client.get("/").status_code == 200


# --- a SuperAdmin helps -----------------------------------------------------------------------------------------------


def test_a_superadmin_takes_anothers_factors_and_sessions(anna: Person) -> None:
    lost = make_person("otto", password=PASSWORD)
    theirs = signed_in("otto")
    with_app(theirs)
    client = signed_in()

    answer = client.post(f"/people/{lost.pk}/sign-in/reset-mfa/")

    assert answer["Location"] == f"/people/{lost.pk}/sign-in/"
    assert not Authenticator.objects.filter(user=lost).exists()
    assert theirs.get("/").status_code == 302
    event = AuditEvent.objects.get(action="mfa.reset")
    assert (event.subject_id, event.actor_id) == (str(lost.pk), str(anna.pk))
    assert type_password(Client(), "otto")["Location"] == "/"


def test_he_is_asked_to_confirm_first(anna: Person) -> None:
    lost = make_person("otto", password=PASSWORD)
    with_app(signed_in("otto"))
    client = signed_in()
    confirm(client, ago_seconds=301)

    asked = client.post(f"/people/{lost.pk}/sign-in/reset-mfa/")
    still_there = Authenticator.objects.filter(user=lost).exists()
    gone_on = client.post(asked["Location"], {"password": PASSWORD})

    assert asked["Location"].startswith("/confirm/?next=")
    assert still_there
    assert gone_on["Location"] == f"/people/{lost.pk}/sign-in/"
    assert not Authenticator.objects.filter(user=lost).exists()


@pytest.mark.parametrize("page", ["", "reset-mfa/", "end-sessions/"])
def test_nobody_else_does(db: None, page: str) -> None:
    tenant = make_tenant()
    make_person("anna", administers=[tenant], password=PASSWORD)
    lost = make_person("otto", administers=[tenant], password=PASSWORD)
    with_app(signed_in("otto"))
    client = signed_in()
    send = client.post if page else client.get

    assert send(f"/people/{lost.pk}/sign-in/{page}").status_code == 404
    assert Authenticator.objects.filter(user=lost).exists()
    assert PortalSession.objects.filter(person=lost).exists()


def test_confirming_is_counted_like_signing_in(anna: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "API_RATES", {"password-account": "2/h"})
    client = signed_in()
    for _ in range(2):
        client.post("/confirm/?next=/", {"password": "wrong"})

    answer = client.post("/confirm/?next=/", {"password": PASSWORD})

    assert "Too many failed login attempts" in answer.content.decode()
