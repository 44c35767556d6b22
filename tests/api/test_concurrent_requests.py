"""Requests at the same moment: one key is claimed once, and of two edits of the same state one is done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from common.errors import ConflictError
from definitions.models import Definition
from tenants.api.idempotency import claim
from tenants.models import IdempotencyRecord
from tests.worlds import make_world

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """The results of the calls, all begun at the same moment; what one raises is its result."""
    barrier, results = threading.Barrier(len(calls)), [None] * len(calls)

    def run(number: int, call: Callable[[], Any]) -> None:
        barrier.wait(timeout=60)
        try:
            results[number] = call()
        except Exception as error:
            results[number] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(number, call)) for number, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    return results


class Asked:
    method = "POST"
    headers = {"Idempotency-Key": "one"}
    body = b"{}"

    def __init__(self) -> None:
        self._request = self

    def get_full_path(self) -> str:
        return "/api/v1/definitions/"


def test_one_key_is_claimed_once() -> None:
    now = timezone.now()
    asked: Any = Asked()

    results = at_once([partial(claim, asked, principal="person:1", secret=False, now=now)] * 6)

    assert len([one for one in results if not isinstance(one, Exception)]) == 1, results
    assert {type(one) for one in results if isinstance(one, Exception)} == {ConflictError}
    assert IdempotencyRecord.objects.count() == 1


def test_of_two_edits_of_what_both_saw_one_is_done() -> None:
    world = make_world()
    address = f"/api/v1/definitions/{world.ours.definition.pk}/"
    clients = [world.client(name) for name in ("super", "admin_a")]
    etag = clients[0].get(address)["ETag"]

    answers = at_once(
        [
            lambda client=client, number=number: client.patch(
                address, {"description": f"edit {number}"}, headers={"If-Match": etag}
            )
            for number, client in enumerate(clients)
        ]
    )

    assert sorted(answer.status_code for answer in answers) == [200, 412]
    done = next(answer for answer in answers if answer.status_code == 200)
    assert Definition.objects.get(pk=world.ours.definition.pk).description == done.json()["description"]
