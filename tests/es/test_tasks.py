"""Tasks of the es grammar, and the answer that is held open until one has ended."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.signals import request_finished
from django.db import close_old_connections
from django.utils import timezone

from backups.models import Job
from backupsite.es_api import streams
from tenants.models import ApiToken, Person
from tests.es.asking import Asker, code, refused
from tests.factories import make_job
from tests.worlds import World

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin(world: World) -> Asker:
    return Asker(world.people["admin_a"])


@pytest.mark.parametrize(
    ("state", "status", "word"),
    [
        ("pending", 201, "PENDING"),
        ("running", 201, "PENDING"),
        ("ok", 200, "SUCCESS"),
        ("failed", 400, "FAILURE"),
        ("canceled", 410, "REVOKED"),
    ],
)
def test_the_status_of_a_task(admin: Asker, world: World, state: str, status: int, word: str) -> None:
    job = make_job(world.ours.other_server, state=state, message="why" if state == "failed" else "")

    told, body = admin.get(f"/task/{job.pk}/status")

    assert (told, body["status"], body["task_id"]) == (status, word, str(job.pk))
    assert (body["result"] is None) is (status == 201)
    assert admin.get(f"/task/{job.pk}/done") == (status, {"task_id": str(job.pk), "done": state == "ok"})
    details = admin.get(f"/task/{job.pk}")[1]
    assert (details["status"], details["state"], details["hostname"]) == (word, state, world.ours.other_server.name)
    assert (str(job.pk) in admin.get("/task")[1]) is (status == 201)
    if state == "running":
        assert (details["phase"], details["percent"]) == ("writing", 25)
    if state == "failed":
        assert (body["result"]["message"], body["result"]["returncode"]) == ("why", 1)
    if status != 201:
        # Scripts take the name of the backup out of this.
        named = f"hostname='{world.ours.other_server.name}', bkpname='{job.backup_name}', disk_id=1"
        assert body["result"]["detail"] == named


def test_a_task_is_canceled_once(admin: Asker, world: World) -> None:
    job = world.ours.job

    assert admin.set(f"/task/{job.pk}/cancel", force=True)[0] == 410
    assert Job.objects.get(pk=job.pk).state == "canceled"
    assert code(admin.set(f"/task/{job.pk}/cancel")) == (406, "job_ended")
    for unknown in ("none", str(world.ours.backup.pk), str(world.theirs.job.pk)):
        assert code(admin.get(f"/task/{unknown}")) == (404, "not_found")


def test_the_log_by_its_filters(admin: Asker, world: World) -> None:
    server = world.ours.other_server
    failed = make_job(server, state="failed", requested_by=world.people["admin_a"], message="no space")
    due = make_job(server, state="ok", slot_at=failed.created_at)

    def found(**given: Any) -> set[str]:
        status, body = admin.get("/task/log", **given)
        assert status == 200
        return {line["task"] for line in body["results"]}

    assert found(status="FAILURE", page=1) == {str(failed.pk)}
    assert str(due.pk) not in found(hide_auto=True)
    assert found(show_running="true") == {str(world.ours.job.pk)}
    assert found(object_type="vm", object_name=server.name) == {str(failed.pk), str(due.pk)}
    assert found(object_type="image") == set()
    assert found(date_to="2000-01-01") == set()
    assert found(date_from="2000-01-01", page=2) == set()
    in_order = [line["time"] for line in admin.get("/task/log", order_by="time")[1]["results"]]
    assert len(in_order) == 4
    assert admin.get("/task/log", order_by="-time")[1] == admin.get("/task/log")[1]
    line = admin.get("/task/log", status="FAILURE")[1]["results"][0]
    assert (line["username"], line["object_name"], line["status"]) == ("admin_a", server.name, "FAILURE")
    assert "no space" in line["detail"]
    assert refused(admin.get("/task/log", object_name=server.name)) == (400, {"object_type"})
    assert refused(admin.get("/task/log", status="DONE")) == (400, {"status"})
    counts = {"pending": 1, "succeeded": 2, "failed": 1, "revoked": 0}
    assert admin.get("/task/log/stats", last=3600) == (200, counts)


def test_the_log_by_pages(admin: Asker, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backupsite.es_api.tasks._PAGE", 1)

    first, last = admin.get("/task/log", page=1)[1], admin.get("/task/log", page=2)[1]

    assert (first["previous"], first["next"], last["previous"], last["next"]) == (None, 2, 1, None)
    assert {first["results"][0]["task"], last["results"][0]["task"]} == {
        str(world.ours.job.pk),
        str(world.ours.restore.pk),
    }


def ordered(admin: Asker, world: World) -> Any:
    """Backup now, by a client that wants to be kept waiting."""
    address = f"/api/vm/{world.ours.server.name}/backup/{world.ours.definition.name}/"
    # As the command of that system sends it.
    odd = "application/json; indent=4"
    return admin.client.post(address, "{}", content_type=odd, HTTP_ACCEPT=odd, HTTP_ES_STREAM="es")


def test_a_stream_waits_for_the_end_and_then_gives_status_and_body(
    admin: Asker, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[float] = []

    def pause(seconds: float) -> None:
        steps.append(seconds)
        if len(steps) == 3:
            Job.objects.filter(backup__definition=world.ours.definition, state="pending").update(
                state="failed", message="no space"
            )

    monkeypatch.setattr(streams, "pause", pause)
    answer = ordered(admin, world)

    assert (answer.status_code, answer["es_stream"]) == (201, "es")
    text = b"".join(answer.streaming_content)
    assert text.startswith(b" " * 4 + b"400\n")
    body = json.loads(text.strip().split(b"\n", 1)[1])
    assert (body["task_id"], body["status"]) == (answer["es_task_id"], "FAILURE")
    assert steps == [1, 1, 1]


def test_a_stream_ends_when_rights_end_and_when_time_is_over(
    admin: Asker, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LONGEST_SECONDS", 5)
    monkeypatch.setattr(streams, "pause", lambda seconds: None)
    late = ordered(admin, world)
    assert b"".join(late.streaming_content).strip().startswith(b"201\n")

    def pause(seconds: float) -> None:
        Person.objects.filter(username="admin_a").update(is_active=False)

    monkeypatch.setattr(streams, "pause", pause)
    shut_out = ordered(admin, world)
    assert b"".join(shut_out.streaming_content).strip().startswith(b"404\n")

    Person.objects.filter(username="admin_a").update(is_active=True)
    ended = ordered(admin, world)
    ApiToken.objects.filter(person__username="admin_a").update(disabled_at=timezone.now())
    assert b"".join(ended.streaming_content).strip().startswith(b"401\n")


def abandon(answer: Any) -> None:
    """As a server does whose client is gone. It does not end the test's own connection."""
    request_finished.disconnect(close_old_connections)
    answer.close()
    request_finished.connect(close_old_connections)


def test_few_are_kept_waiting_and_a_place_comes_back_from_a_client_that_is_gone(admin: Asker, world: World) -> None:
    held = [ordered(admin, world) for _ in range(streams.MOST_STREAMS)]
    plain = ordered(admin, world)

    assert all(answer.streaming for answer in held)
    assert (plain.status_code, plain.json()["status"], plain["es_task_id"]) == (201, "PENDING", plain.json()["task_id"])
    for answer in held:
        # Not a part of it was read.
        abandon(answer)
    again = ordered(admin, world)
    assert again.streaming
    abandon(again)
