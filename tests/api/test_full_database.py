"""A database whose disk is full: writing fails aloud and leaves nothing half, what is stored stays readable."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import OperationalError, connection
from django.utils import timezone

from backups.models import Job
from tests.factories import disk_of
from tests.worlds import World

pytestmark = pytest.mark.case("CP-15")
PAGES = ["/", "/backups/", "/jobs/", "/restores/", "/definitions/", "/servers/"]


def refuse_writes(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
    if sql.lstrip().split(" ", 1)[0].upper() in {"INSERT", "UPDATE", "DELETE"}:
        raise OperationalError("could not extend file: No space left on device")
    return execute(sql, params, many, context)


@pytest.mark.parametrize("name", ["super", "admin_a", "owner_a1"])
def test_pages_and_answers_stay_readable(world: World, name: str) -> None:
    client, backup = world.client(name), world.ours.backup
    client.get("/backups/")
    asked = [*PAGES, f"/backups/{backup.pk}/", "/api/v1/backups/", f"/api/v1/backups/{backup.pk}/", "/api/v1/jobs/"]

    # So long after it was noted last that the next look would be noted, too.
    later = time_machine.travel(timezone.now() + timedelta(minutes=2), tick=False)
    with later, connection.execute_wrapper(refuse_writes):
        found = {address: client.get(address).status_code for address in asked}

    assert set(found.values()) == {200}, found


def test_a_write_fails_aloud_and_whole(world: World) -> None:
    client, before = world.client("admin_a"), Job.objects.count()
    client.raise_request_exception = False
    body = {"target": str(disk_of(world.ours.other_server).pk), "confirmation": world.ours.other_server.name}

    with connection.execute_wrapper(refuse_writes):
        answer = client.post(f"/api/v1/backups/{world.ours.backup.pk}/restore/", body, format="json")

    assert answer.status_code in {500, 503}
    assert answer["Content-Type"] == "application/problem+json"
    assert Job.objects.count() == before
    assert "No space left" not in answer.content.decode()
