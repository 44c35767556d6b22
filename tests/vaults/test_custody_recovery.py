"""The recovery key: shown once, tested once, never in a log; the customer's own key; the signer's face for it."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import time_machine
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.test import Client
from rest_framework.test import APIClient

from common.errors import BackupsiteError, ConflictError, InvalidInputError, NotFoundError, UnavailableError
from engine.alone.cli import main
from engine.crypto import key_fingerprint
from engine.recovery import RecoveryKey, answer_challenge, decode_challenge
from tenants.models import Person
from tests.factories import make_person, make_server
from tests.signing_in import confirm
from tests.vaults.key_world import KeyWorld, key_world
from vaults import key_client
from vaults.custody import catalogue_key_of, private_key_of
from vaults.key_gate import PATH_PREFIX, Note, sign_note
from vaults.models import TenantKey
from vaults.recovery_keys import (
    MOST_WRONG_ANSWERS,
    catalogue_fingerprint,
    finish_test,
    hint,
    register_customer_key,
    show_recovery_key,
    start_test,
)

pytestmark = pytest.mark.django_db
Status, Mode = TenantKey.Status, TenantKey.Mode
NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
WRONG = "0000-0000-0000"


@pytest.fixture
def keys(db: None) -> Iterator[KeyWorld]:
    with key_world() as world:
        yield world


@pytest.fixture
def admin(keys: KeyWorld) -> Person:
    return make_person(administers=[keys.tenant])


def answer_of(challenge: str, recovery_key: RecoveryKey) -> str:
    return answer_challenge(recovery_key, decode_challenge(challenge))


# --- shown once -------------------------------------------------------------------------------------------------------


def test_the_recovery_key_holds_the_private_half_and_the_catalogue_fingerprint(keys: KeyWorld, admin: Person) -> None:
    text = show_recovery_key(keys.key, actor=admin, now=NOW)

    shown = RecoveryKey.decode(text)
    assert shown.tenant_private_key == private_key_of(keys.key)
    assert shown.catalogue_fingerprint == key_fingerprint(catalogue_key_of(keys.tenant.pk).public)
    assert keys.key.shown_at == NOW


def test_it_is_shown_once_also_to_two_who_ask_at_once(keys: KeyWorld, admin: Person) -> None:
    first, second = keys.key, keys.key
    show_recovery_key(first, actor=admin, now=NOW)

    # `second` was loaded before: it still looks as if nothing had been shown.
    for key in (second, keys.key):
        with pytest.raises(ConflictError, match="replace the key") as caught:
            show_recovery_key(key, actor=admin, now=NOW)
        assert caught.value.code == "already_shown"


def test_a_key_that_is_retired_or_the_customers_is_not_shown(keys: KeyWorld, admin: Person) -> None:
    retired, customers = keys.key, keys.key
    retired.status, customers.mode = Status.RETIRED, Mode.CUSTOMER

    for key, code in ((retired, "key_replaced"), (customers, "customer_key")):
        with pytest.raises(ConflictError) as caught:
            show_recovery_key(key, actor=admin, now=NOW)
        assert caught.value.code == code


def test_no_log_and_no_text_of_an_object_holds_the_key(
    keys: KeyWorld, admin: Person, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    text = show_recovery_key(keys.key, actor=admin, now=NOW)
    challenge = start_test(keys.key)
    finish_test(keys.key, answer=answer_of(challenge, RecoveryKey.decode(text)), actor=admin, now=NOW)

    private = private_key_of(keys.key)
    said = " ".join(str(vars(record)) for record in caplog.records) + repr(keys.key) + repr(RecoveryKey.decode(text))
    assert "recovery key shown" in said
    for secret in (text.splitlines()[1], private.hex(), base64.b64encode(private).decode(), str(private)):
        assert secret not in said


# --- tested once ------------------------------------------------------------------------------------------------------


def test_the_right_answer_ends_the_test(keys: KeyWorld, admin: Person) -> None:
    recovery_key = RecoveryKey.decode(show_recovery_key(keys.key, actor=admin, now=NOW))
    answer = answer_of(start_test(keys.key), recovery_key)

    finish_test(keys.key, answer=f" {answer.lower()} ", actor=admin, now=NOW)

    assert (keys.key.tested_at, keys.key.test_digest) == (NOW, "")
    with pytest.raises(ConflictError):
        finish_test(keys.key, answer=answer, actor=admin, now=NOW)


def test_after_five_wrong_answers_the_right_one_comes_too_late(keys: KeyWorld, admin: Person) -> None:
    recovery_key = RecoveryKey.decode(show_recovery_key(keys.key, actor=admin, now=NOW))
    answer = answer_of(start_test(keys.key), recovery_key)

    for number in range(1, MOST_WRONG_ANSWERS + 1):
        kind = InvalidInputError if number < MOST_WRONG_ANSWERS else ConflictError
        with pytest.raises(kind):
            finish_test(keys.key, answer=WRONG, actor=admin, now=NOW)

    with pytest.raises(ConflictError, match="Start it") as caught:
        finish_test(keys.key, answer=answer, actor=admin, now=NOW)
    assert caught.value.code == "no_test"
    assert keys.key.tested_at is None
    finish_test(keys.key, answer=answer_of(start_test(keys.key), recovery_key), actor=admin, now=NOW)
    assert keys.key.tested_at == NOW


def test_four_wrong_answers_leave_a_last_try(keys: KeyWorld, admin: Person) -> None:
    recovery_key = RecoveryKey.decode(show_recovery_key(keys.key, actor=admin, now=NOW))
    answer = answer_of(start_test(keys.key), recovery_key)
    for _ in range(MOST_WRONG_ANSWERS - 1):
        with pytest.raises(InvalidInputError):
            finish_test(keys.key, answer=WRONG, actor=admin, now=NOW)

    finish_test(keys.key, answer=answer, actor=admin, now=NOW)

    assert keys.key.tested_at == NOW


def test_a_new_challenge_makes_the_one_before_worthless(keys: KeyWorld, admin: Person) -> None:
    recovery_key = RecoveryKey.decode(show_recovery_key(keys.key, actor=admin, now=NOW))
    old = answer_of(start_test(keys.key), recovery_key)
    start_test(keys.key)

    with pytest.raises(InvalidInputError):
        finish_test(keys.key, answer=old, actor=admin, now=NOW)


def test_an_answer_without_a_test_is_refused(keys: KeyWorld, admin: Person) -> None:
    for answer in ("", WRONG):
        with pytest.raises(ConflictError):
            finish_test(keys.key, answer=answer, actor=admin, now=NOW)


def test_the_hint_stands_until_the_test(keys: KeyWorld, admin: Person) -> None:
    hints = [hint(keys.key)]
    recovery_key = RecoveryKey.decode(show_recovery_key(keys.key, actor=admin, now=NOW))
    hints.append(hint(keys.key))
    finish_test(keys.key, answer=answer_of(start_test(keys.key), recovery_key), actor=admin, now=NOW)

    assert "not shown" in hints[0]
    assert "not tested" in hints[1]
    assert hint(keys.key) == ""


# --- the customer's own key -------------------------------------------------------------------------------------------


def customers(keys: KeyWorld, public: str, admin: Person) -> TenantKey:
    return register_customer_key(keys.tenant, public_key=public, actor=admin)


def test_a_customers_key_is_used_only_after_its_test(keys: KeyWorld, admin: Person) -> None:
    pair, public = keys.customer_key()
    managed = keys.key
    key = customers(keys, public, admin)
    recovery_key = RecoveryKey(pair.private, bytes(32))
    assert (keys.key, key.wrapped_private_key) == (managed, None)

    finish_test(key, answer=answer_of(start_test(key), recovery_key), actor=admin, now=NOW)

    managed.refresh_from_db()
    assert (keys.key.pk, keys.key.mode, keys.key.tested_at) == (key.pk, Mode.CUSTOMER, NOW)
    assert (managed.status, managed.changed_at) == (Status.RETIRED, NOW)


def test_what_the_stand_alone_tool_prints_is_what_is_typed_here(
    keys: KeyWorld, admin: Person, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def tool(*arguments: str) -> str:
        assert main(list(arguments)) == 0
        return capsys.readouterr().out

    made = tool("keygen", "--catalogue", catalogue_fingerprint(keys.tenant))
    paper = tmp_path / "paper"
    paper.touch(mode=0o600)
    paper.write_text(made)
    public = made.splitlines()[0].rpartition(": ")[2]

    key = customers(keys, public, admin)
    answer = tool("answer", start_test(key), "--recovery-key-file", str(paper))
    finish_test(key, answer=answer, actor=admin, now=NOW)

    assert keys.key.pk == key.pk


def test_a_wrong_answer_changes_nothing(keys: KeyWorld, admin: Person) -> None:
    managed = keys.key
    key = customers(keys, keys.customer_key()[1], admin)
    start_test(key)

    with pytest.raises(InvalidInputError):
        finish_test(key, answer=WRONG, actor=admin, now=NOW)

    assert keys.key == managed


def test_registering_again_replaces_the_one_that_waits(keys: KeyWorld, admin: Person) -> None:
    first = customers(keys, keys.customer_key()[1], admin)
    second = customers(keys, keys.customer_key()[1], admin)

    waiting = TenantKey.objects.filter(tenant=keys.tenant, status=Status.UNTESTED)
    assert [key.pk for key in waiting] == [second.pk] != [first.pk]


@pytest.mark.parametrize("text", ["", "nonsense!", bytes(31).hex(), bytes(32).hex()])
def test_what_is_no_public_key_is_refused(keys: KeyWorld, admin: Person, text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        customers(keys, text, admin)

    assert caught.value.field == "public_key"
    assert TenantKey.objects.count() == 1


def test_the_services_own_key_cannot_be_registered_as_the_customers(keys: KeyWorld, admin: Person) -> None:
    with pytest.raises(ConflictError) as caught:
        customers(keys, bytes(keys.key.public_key).hex(), admin)

    assert caught.value.code == "key_known"


# --- the signer's face for the portal ---------------------------------------------------------------------------------


@pytest.fixture
def gate(keys: KeyWorld, settings: Any, live_server: Any) -> KeyWorld:
    settings.ROOT_URLCONF = "backupsite.gate_urls"
    settings.CONFIG = settings.CONFIG.model_copy(update={"gate_url": live_server.url})
    return keys


@pytest.mark.django_db(transaction=True)
def test_the_portal_gets_the_key_through_the_signer_once(gate: KeyWorld) -> None:
    person = make_person(administers=[gate.tenant])

    text = key_client.show_recovery_key(gate.key, person=person)

    assert RecoveryKey.decode(text).tenant_private_key == private_key_of(gate.key)
    with pytest.raises(ConflictError) as caught:
        key_client.show_recovery_key(gate.key, person=person)
    assert caught.value.code == "already_shown"


@pytest.mark.django_db(transaction=True)
def test_the_portal_replaces_a_key_through_the_signer_once(gate: KeyWorld) -> None:
    person, old = make_person(superadmin=True), gate.key

    new = key_client.rotate_key(old, person=person)

    assert gate.key.pk == new != old.pk
    with pytest.raises(ConflictError) as caught:
        key_client.rotate_key(old, person=person)
    assert caught.value.code == "key_replaced"


@pytest.mark.django_db(transaction=True)
def test_the_signer_looks_at_the_persons_right_itself(gate: KeyWorld) -> None:
    server = make_server(gate.tenant)
    strangers = [make_person(), make_person(owns=[server]), make_person(superadmin=True, active=False)]

    for person in strangers:
        for call in (key_client.show_recovery_key, key_client.rotate_key):
            with pytest.raises((NotFoundError, UnavailableError)):
                call(gate.key, person=person)

    assert gate.key.shown_at is None
    assert TenantKey.objects.count() == 1


def ask(note: bytes, verb: str = "show") -> Any:
    return Client().post(f"{PATH_PREFIX}{verb}", note, content_type="text/plain")


@pytest.fixture
def note(gate: KeyWorld, admin: Person) -> Note:
    receiver = base64.b64encode(X25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    return Note(verb="show", person=str(admin.pk), key=str(gate.key.pk), receiver=receiver)


@pytest.mark.django_db(transaction=True)
def test_what_travels_is_sealed_and_not_kept(gate: KeyWorld, note: Note) -> None:
    answer = ask(sign_note(note))

    body = json.loads(answer.content)
    assert (answer.status_code, answer["Cache-Control"]) == (200, "no-store")
    assert private_key_of(gate.key) not in base64.b64decode(body["sealed"])
    assert set(body) == {"code", "message", "key", "sealed"}


@pytest.mark.django_db(transaction=True)
def test_a_note_counts_for_a_minute_for_one_verb_and_only_from_the_portal(gate: KeyWorld, note: Note) -> None:
    signed = sign_note(note)
    with time_machine.travel(datetime.now(UTC).timestamp() + 61):
        late = ask(signed)
    answers = [late, ask(signed, "rotate"), ask(signed[:-1] + b"x"), ask(b""), ask(b"\xff"), ask(b"e30:1:x")]

    assert [answer.status_code for answer in answers] == [401] * len(answers)
    assert gate.key.shown_at is None
    assert ask(signed).status_code == 200
    assert ask(signed).status_code == 409


@pytest.mark.django_db(transaction=True)
def test_a_receiver_that_cannot_read_does_not_use_up_the_one_time(gate: KeyWorld, note: Note) -> None:
    for receiver in ("", "!", base64.b64encode(bytes(32)).decode()):
        answer = ask(sign_note(Note(verb="show", person=note.person, key=note.key, receiver=receiver)))
        assert answer.status_code == 400

    assert gate.key.shown_at is None


def test_a_signer_that_is_away_is_said_as_such(keys: KeyWorld, admin: Person) -> None:
    with pytest.raises(UnavailableError) as caught:
        key_client.show_recovery_key(keys.key, person=admin)

    assert caught.value.code == "signer_unavailable"
    assert keys.key.shown_at is None


# --- API and pages ----------------------------------------------------------------------------------------------------


def signed_in(person: Person) -> APIClient:
    client = APIClient()
    client.force_login(person)
    confirm(client)
    return client


@pytest.fixture
def shown(keys: KeyWorld, admin: Person, monkeypatch: pytest.MonkeyPatch) -> RecoveryKey:
    """The signer without the wire."""

    def show(key: TenantKey, *, person: Person) -> str:
        return show_recovery_key(key, actor=person, now=NOW)

    monkeypatch.setattr(key_client, "show_recovery_key", show)
    return RecoveryKey(private_key_of(keys.key), key_fingerprint(catalogue_key_of(keys.tenant.pk).public))


def test_the_api_shows_tests_and_clears_the_hint(keys: KeyWorld, admin: Person, shown: RecoveryKey) -> None:
    client, address = signed_in(admin), f"/api/v1/keys/{keys.key.pk}"
    before = client.get(f"/api/v1/tenants/{keys.tenant.pk}/").json()["recovery_key_hint"]

    answer = client.post(f"{address}/show/")
    again = client.post(f"{address}/show/")
    challenge = client.post(f"{address}/test/").json()["challenge"]
    wrong = client.post(f"{address}/answer/", {"answer": WRONG})
    right = client.post(f"{address}/answer/", {"answer": answer_of(challenge, shown)})

    assert "not shown" in before
    assert (answer.json()["recovery_key"], answer["Cache-Control"]) == (shown.encode(), "no-store")
    assert (again.status_code, again.json()["code"]) == (409, "already_shown")
    assert (wrong.status_code, wrong.json()["code"], right.status_code) == (400, "wrong_answer", 200)
    assert right.json()["hint"] == client.get(f"/api/v1/tenants/{keys.tenant.pk}/").json()["recovery_key_hint"] == ""


def test_nothing_that_the_api_lists_holds_a_private_half(keys: KeyWorld, admin: Person) -> None:
    row = signed_in(admin).get("/api/v1/keys/").json()["results"][0]

    assert not [name for name in row if "private" in name or "digest" in name or "wrapped" in name]
    assert bytes.fromhex(row["public_key"]) == bytes(keys.key.public_key)


def test_the_pages_show_once_test_and_say_so(keys: KeyWorld, admin: Person, shown: RecoveryKey) -> None:
    client, address = signed_in(admin), f"/keys/{keys.key.pk}/"
    assert "was not shown yet" in client.get(address).content.decode()
    assert "Recovery key not tested" in client.get("/").content.decode()

    page = client.post(f"{address}show/")
    again = client.post(f"{address}show/", follow=True)
    test = client.post(f"{address}test/")
    challenge = test.context["form"]["challenge"].value()
    wrong = client.post(f"{address}answer/", {"answer": WRONG, "challenge": challenge}, format="multipart")
    right = client.post(
        f"{address}answer/", {"answer": answer_of(challenge, shown), "challenge": challenge}, format="multipart"
    )

    assert shown.encode().splitlines()[0] in page.content.decode()
    assert page["Cache-Control"] == "no-store"
    assert "shown only once" in again.content.decode()
    assert shown.encode().splitlines()[1] not in again.content.decode()
    assert (wrong.status_code, right.status_code) == (400, 302)
    assert challenge in wrong.content.decode()
    assert keys.key.tested_at is not None
    assert "Recovery key not tested" not in client.get("/").content.decode()


def test_the_page_registers_a_customers_key_and_refuses_nonsense(keys: KeyWorld, admin: Person) -> None:
    client, address = signed_in(admin), f"/keys/{keys.key.pk}/register/"

    bad = client.post(address, {"public_key": "nonsense"}, format="multipart")
    good = client.post(address, {"public_key": keys.customer_key()[1]}, format="multipart", follow=True)

    assert bad.status_code == 400
    assert "64 hexadecimal digits" in bad.content.decode()
    assert "not in use yet" in good.content.decode()


def test_errors_of_the_signer_keep_their_kind() -> None:
    kinds = [
        type(key_client._refusal(status, key_client.Answer(code="x"))) for status in (400, 403, 404, 409, 401, 500)
    ]

    assert all(issubclass(kind, BackupsiteError) for kind in kinds)
    assert [kind.http_status for kind in kinds] == [400, 403, 404, 409, 503, 503]
