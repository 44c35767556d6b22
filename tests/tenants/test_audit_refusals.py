"""Refused attempts and sign-ins in the audit, and that nobody can fill it with them."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from celery import shared_task
from django.conf import settings
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.utils import timezone
from rest_framework.test import APIClient

from agents.protocol import PATH_PREFIX, Failure
from backups.models import Session
from common.ids import hash_token
from tenants.models import AuditEvent, RefusalBucket
from tenants.origin import Origin, OriginMiddleware, acting_as, client_address, current_origin
from tenants.refusals import (
    MOST_KINDS_OF_A_PERSON,
    MOST_KINDS_OF_STRANGERS,
    RefusalMiddleware,
    close_refusals,
    note_refusal,
)
from tests.factories import make_job, make_person, make_server
from tests.worlds import World


def refusals() -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(outcome="refused").order_by("pk"))


def test_what_is_visible_but_not_allowed_is_recorded_with_its_object(world: World) -> None:
    world.client("owner_a1").delete(f"/api/v1/definitions/{world.ours.definition.pk}/")

    [event] = refusals()
    assert (event.actor_name, event.subject_name) == ("owner_a1", str(world.ours.definition))
    assert event.tenant_id == world.ours.tenant.pk
    assert event.after == {
        "method": "DELETE",
        "route": "api:definition-detail",
        "object": str(world.ours.definition.pk),
        "status": 403,
    }


def test_a_write_to_a_foreign_object_is_recorded_without_telling_whose_it_is(world: World) -> None:
    world.client("admin_b").patch(f"/api/v1/definitions/{world.ours.definition.pk}/", {"active": False})

    [event] = refusals()
    assert (event.actor_name, event.tenant_id, event.subject_name) == ("admin_b", None, "")
    assert event.after["object"] == str(world.ours.definition.pk) and event.after["status"] == 404


def test_reading_what_is_not_there_is_no_attempt(world: World) -> None:
    world.client("admin_b").get(f"/api/v1/definitions/{world.ours.definition.pk}/")
    world.client("admin_b").post("/no/such/route/")

    assert refusals() == []


def test_refusals_on_the_portal_are_recorded_too(world: World) -> None:
    client = Client()
    client.force_login(world.people["owner_a1"])

    client.post(f"/definitions/{world.ours.definition.pk}/backup-now/")

    assert [event.after["status"] for event in refusals()] == [403]


def test_a_wrong_token_is_recorded(db: None) -> None:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION="Bearer bks_nonsense")

    client.get("/api/v1/me/", REMOTE_ADDR="203.0.113.7")

    [event] = refusals()
    assert (event.action, event.address) == ("sign_in.token_refused", "203.0.113.7")
    assert "nonsense" not in str(vars(event))


def test_repeated_refusals_are_one_record_and_a_count(world: World) -> None:
    for _ in range(30):
        world.client("owner_a1").delete(f"/api/v1/definitions/{world.ours.definition.pk}/")
    assert len(refusals()) == 1

    close_refusals(now=timezone.now() + timedelta(minutes=11))

    first, summary = refusals()
    assert summary.after["more"] == 29
    assert (summary.actor_name, summary.address) == (first.actor_name, first.address)
    assert not RefusalBucket.objects.exists()


def test_the_time_of_a_count_ends_and_begins_anew(world: World) -> None:
    address = f"/api/v1/definitions/{world.ours.definition.pk}/"
    world.client("owner_a1").delete(address)
    close_refusals(now=timezone.now() + timedelta(minutes=9))
    assert RefusalBucket.objects.count() == 1

    close_refusals(now=timezone.now() + timedelta(minutes=11))
    world.client("owner_a1").delete(address)

    assert len(refusals()) == 2


def test_one_person_cannot_fill_the_audit(db: None) -> None:
    person = make_person()
    with acting_as(Origin("person", str(person.pk), "x")):
        for number in range(500):
            note_refusal(action="access.refused", facts={"route": f"r{number}"}, now=timezone.now())

    assert AuditEvent.objects.count() == MOST_KINDS_OF_A_PERSON + 1


def test_strangers_together_cannot_fill_the_audit_nor_hide_a_person(db: None) -> None:
    for number in range(400):
        with acting_as(Origin("anonymous", address=f"203.0.113.{number}")):
            note_refusal(action="access.refused", facts={"route": "x"}, now=timezone.now())
    assert AuditEvent.objects.count() == MOST_KINDS_OF_STRANGERS + 1

    with acting_as(Origin("person", str(uuid.uuid4()), "x")):
        note_refusal(action="access.refused", facts={"route": "x"}, now=timezone.now())

    assert AuditEvent.objects.count() == MOST_KINDS_OF_STRANGERS + 2


def test_signing_in_and_out_is_recorded(db: None) -> None:
    person = make_person("alice", password="correct horse battery")
    client = Client(REMOTE_ADDR="203.0.113.7")

    client.post("/login/", {"username": "alice", "password": "correct horse battery"})
    client.post("/logout/")

    events = list(AuditEvent.objects.order_by("pk"))
    assert [event.action for event in events] == ["sign_in.done", "sign_out.done"]
    assert {event.actor_id for event in events} == {str(person.pk)}
    assert {event.address for event in events} == {"203.0.113.7"}


@pytest.mark.parametrize(("name", "account"), [("alice", "alice"), ("my-own-password", "unknown")])
def test_a_failed_sign_in_is_recorded_but_not_what_was_typed(db: None, name: str, account: str) -> None:
    make_person("alice", password="correct horse battery")

    Client().post("/login/", {"username": name, "password": "hunter2hunter2"})

    [event] = refusals()
    assert (event.action, event.after["account"]) == ("sign_in.failed", account)
    assert "hunter2" not in str(vars(event)) and "my-own" not in str(vars(event))


def test_the_answer_names_the_request_and_the_record_too(world: World) -> None:
    answer = world.client("owner_a1").delete(
        f"/api/v1/definitions/{world.ours.definition.pk}/", headers={"X-Request-Id": "chosen"}
    )

    assert answer["X-Request-Id"] == refusals()[0].request_id != "chosen"


@pytest.mark.parametrize(
    ("proxies", "forwarded", "expected"),
    [
        (0, "198.51.100.1", "203.0.113.7"),
        (1, "198.51.100.66, 198.51.100.1", "198.51.100.1"),
        (2, "198.51.100.66, 198.51.100.1, 10.0.0.1", "198.51.100.1"),
        (2, "198.51.100.1", "203.0.113.7"),
        (1, "<script>", ""),
        (1, "", "203.0.113.7"),
        (1, "2001:DB8::1", "2001:db8::1"),
    ],
)
def test_the_address_is_believed_only_from_our_own_proxies(
    monkeypatch: Any, proxies: int, forwarded: str, expected: str
) -> None:
    monkeypatch.setattr(settings.CONFIG, "trusted_proxy_count", proxies)
    request = RequestFactory().get("/", REMOTE_ADDR="203.0.113.7", HTTP_X_FORWARDED_FOR=forwarded)

    assert client_address(request) == expected


def test_outside_of_a_request_the_process_says_who_it_is() -> None:
    origin = current_origin()

    assert origin.actor_kind == "command" and origin.actor_name.startswith("manage.py")


def test_a_task_says_which_worker_and_which_task_it_is() -> None:
    seen: list[Origin] = []

    @shared_task(name="tests.origin")
    def look() -> None:
        seen.append(current_origin())

    look.apply()

    assert (seen[0].actor_kind, bool(seen[0].request_id)) == ("service", True)
    assert seen[0].actor_name.endswith(": tests.origin")


def test_what_a_node_does_by_its_session_is_recorded_as_the_nodes(db: None, settings: Any) -> None:
    settings.ROOT_URLCONF = "backupsite.gate_urls"
    job = make_job(make_server(), state="running")
    session = Session.objects.create(job=job, fence=job.fence, token_hash=hash_token("s3cret-of-session"))
    body = msgspec.json.encode(Failure(code="source_gone", message="The disk is not there."))

    answer = Client().post(
        f"{PATH_PREFIX}fail",
        body,
        content_type="application/json",
        HTTP_AUTHORIZATION="Bearer s3cret-of-session",
        REMOTE_ADDR="203.0.113.7",
    )

    assert answer.status_code == 200
    [event] = AuditEvent.objects.filter(action="backup.source_gone")
    assert (event.actor_kind, event.actor_id, event.actor_name) == ("node", str(job.node_id), job.node.name)
    assert (event.address, event.outcome, event.tenant_id) == ("203.0.113.7", "failed", job.tenant_id)
    assert event.token_id == str(session.pk) and "s3cret" not in str(vars(event))


def test_who_is_throttled_is_recorded(db: None) -> None:
    person = make_person()
    request = RequestFactory().get("/api/v1/me/", REMOTE_ADDR="203.0.113.7")
    request.user, request.resolver_match = person, None
    inner = RefusalMiddleware(lambda asked: HttpResponse(status=429))

    OriginMiddleware(inner)(request)

    [event] = refusals()
    assert (event.actor_id, event.after["status"], event.address) == (str(person.pk), 429, "203.0.113.7")
