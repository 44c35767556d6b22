"""Idempotency-Key: the same request is done once, and what is kept of it holds no secret."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from backups.models import Job
from common.errors import ConflictError, IdempotencyMismatchError
from definitions.models import Definition
from definitions.services import create_definition
from tenants.api import idempotency
from tenants.api.idempotency import LEASE, LIFETIME, Replay, claim, remove_expired
from tenants.models import IdempotencyRecord, TenantUserPermission
from tests.factories import disk_of, make_person, make_token
from tests.worlds import World

KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"


def body(world: World, **changes: Any) -> dict[str, Any]:
    return {"disk": str(disk_of(world.ours.server).pk), "name": "new", "cron": "0 1 * * *", **changes}


def create(world: World, data: dict[str, Any], *, name: str = "admin_a", key: str = KEY) -> Any:
    return world.client(name).post("/api/v1/definitions/", data, headers={"Idempotency-Key": key})


def backup_now(world: World, *, key: str = KEY) -> Any:
    address = f"/api/v1/definitions/{world.ours.definition.pk}/backup-now/"
    return world.client("admin_a").post(address, headers={"Idempotency-Key": key})


def test_the_same_request_is_done_once_and_answered_alike(world: World) -> None:
    first, second = create(world, body(world)), create(world, body(world))

    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert first["ETag"] == second["ETag"]
    assert ("Idempotent-Replayed" in first, second["Idempotent-Replayed"]) == (False, "true")
    assert Definition.objects.filter(name="new").count() == 1


def test_an_action_is_done_once_and_leads_to_the_same_job(world: World) -> None:
    before = Job.objects.count()

    first, second = backup_now(world), backup_now(world)

    assert Job.objects.count() == before + 1
    assert first["Location"] == second["Location"]


@pytest.mark.parametrize("change", [{"name": "other"}, {"cron": "0 2 * * *"}, {"active": False}])
def test_another_body_is_refused(world: World, change: dict[str, Any]) -> None:
    create(world, body(world))

    answer = create(world, body(world, **change))

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    assert Definition.objects.filter(disk=disk_of(world.ours.server)).count() == 2


def test_another_address_is_refused(world: World) -> None:
    backup_now(world)

    answer = world.client("admin_a").post(
        f"/api/v1/backups/{world.ours.backup.pk}/verify/", headers={"Idempotency-Key": KEY}
    )

    assert answer.status_code == 422


def test_two_persons_may_take_the_same_key(world: World) -> None:
    """And neither sees the other's answer."""
    first = create(world, body(world))

    second = create(world, body(world, disk=str(disk_of(world.theirs.server).pk)), name="admin_b")

    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] != second.json()["id"]


def test_without_a_key_everything_is_as_before(world: World) -> None:
    world.client("admin_a").post("/api/v1/definitions/", body(world))

    assert not IdempotencyRecord.objects.exists()


def test_a_refusal_is_not_kept(world: World) -> None:
    refused = create(world, body(world, cron="nonsense"))

    done = create(world, body(world))

    assert (refused.status_code, done.status_code) == (400, 201)


def test_an_error_of_the_service_is_not_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("definitions.api.create_definition", fail)
    client = world.client("admin_a")
    client.raise_request_exception = False
    broken = client.post("/api/v1/definitions/", body(world), headers={"Idempotency-Key": KEY})
    monkeypatch.setattr("definitions.api.create_definition", create_definition)

    assert (broken.status_code, create(world, body(world)).status_code) == (500, 201)


def test_while_the_first_is_under_way_the_second_waits(world: World) -> None:
    create(world, body(world))
    IdempotencyRecord.objects.update(status=None, lease_until=timezone.now() + LEASE)

    answer = create(world, body(world))

    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_in_flight")
    assert 1 <= int(answer["Retry-After"]) <= 5


def test_one_that_broke_off_is_taken_over_when_its_lease_is_over(world: World) -> None:
    create(world, body(world))
    Definition.objects.filter(name="new").delete()
    IdempotencyRecord.objects.update(status=None, lease_until=timezone.now())

    assert create(world, body(world)).status_code == 201
    assert IdempotencyRecord.objects.get().attempt == 2


def test_one_that_comes_back_late_changes_nothing(world: World) -> None:
    create(world, body(world))
    record = IdempotencyRecord.objects.get()
    late = idempotency.Claim(record_id=record.pk, attempt=record.attempt - 1, secret=False)
    IdempotencyRecord.objects.update(status=None)

    late.finish(_Answer(200))
    late.release()

    record.refresh_from_db()
    assert record.status is None


class _Answer:
    def __init__(self, status_code: int) -> None:
        self.status_code, self.data, self.headers = status_code, {"late": True}, {}


def test_a_key_is_free_again_after_its_time(world: World) -> None:
    create(world, body(world))
    Definition.objects.filter(name="new").delete()
    IdempotencyRecord.objects.update(expires_at=timezone.now())

    assert create(world, body(world, cron="0 2 * * *")).status_code == 201


def test_what_is_too_old_is_removed(world: World) -> None:
    create(world, body(world))
    now = timezone.now()

    assert remove_expired(now=now) == 0
    assert remove_expired(now=now + LIFETIME + timedelta(minutes=1)) == 1
    assert not IdempotencyRecord.objects.exists()


def test_a_secret_is_neither_kept_nor_given_again(world: World) -> None:
    address = f"/api/v1/keys/{world.ours.key.pk}/test/"
    first = world.client("admin_a").post(address, headers={"Idempotency-Key": KEY})

    second = world.client("admin_a").post(address, headers={"Idempotency-Key": KEY})

    assert first.status_code == 200
    assert (second.status_code, second.json()["code"]) == (409, "already_done")
    kept = json.dumps(list(IdempotencyRecord.objects.values()), default=str)
    assert first.json()["challenge"] not in kept


def test_what_was_done_for_a_right_that_is_gone_is_not_told_again(world: World) -> None:
    create(world, body(world))
    TenantUserPermission.objects.filter(user=world.people["admin_a"]).delete()

    assert create(world, body(world)).status_code == 403


@pytest.mark.parametrize("key", ["", " ", "a b", "ü", "x" * 256, "\x7f"])
def test_what_is_no_key(world: World, key: str) -> None:
    answer = create(world, body(world), key=key)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "Idempotency-Key")
    assert not Definition.objects.filter(name="new").exists()


def test_each_token_has_its_own_keys(world: World) -> None:
    """What a token may see is not told to another one of the same person, which may be narrower."""
    person = world.people["admin_a"]
    assert person is not None
    first = create(world, body(world))

    headers = {"Idempotency-Key": KEY, "Authorization": f"Bearer {make_token(person)}"}
    second = world.client("anonymous").post("/api/v1/definitions/", body(world), headers=headers)
    third = world.client("anonymous").post("/api/v1/definitions/", body(world), headers=headers)

    assert (first.status_code, second.status_code, second.json()["code"]) == (201, 409, "name_taken")
    assert "Idempotent-Replayed" not in third


class _Asked:
    """As much of a request as a claim reads."""

    method = "POST"

    def __init__(self, text: bytes = b"{}") -> None:
        self.headers = {"Idempotency-Key": KEY}
        self._request = self
        self.body = text

    def get_full_path(self) -> str:
        return "/api/v1/definitions/"


def test_a_claim_by_the_clock_that_is_given(db: None) -> None:
    principal, now = f"person:{make_person().pk}", timezone.now()
    first: Any = claim(_Asked(), principal=principal, secret=False, now=now)

    with pytest.raises(ConflictError):
        claim(_Asked(), principal=principal, secret=False, now=now + LEASE - timedelta(seconds=1))
    with pytest.raises(IdempotencyMismatchError):
        claim(_Asked(b"[]"), principal=principal, secret=False, now=now + LEASE)
    second: Any = claim(_Asked(), principal=principal, secret=False, now=now + LEASE)
    assert (first.attempt, second.attempt) == (1, 2)

    second.finish(_Answer(201))
    with pytest.raises(Replay):
        claim(_Asked(), principal=principal, secret=False, now=now + timedelta(hours=23))
