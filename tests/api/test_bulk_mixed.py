"""Bulk actions of somebody who may do them with some objects and only look at others."""

from __future__ import annotations

from typing import Any

import pytest

from agents.services import grant_server_ownership
from tests.factories import make_backup, make_definition, make_job
from tests.worlds import World

ORDERS = [
    ("backups", {"action": "note", "note": "x"}),
    ("backups", {"action": "delete"}),
    ("backups", {"action": "verify"}),
    ("definitions", {"action": "pause"}),
    ("definitions", {"action": "backup-now"}),
    ("definitions", {"action": "delete"}),
    ("jobs", {"action": "cancel"}),
]


def _make(world: World, resource: str, *, ours: bool) -> Any:
    estate = world.ours if ours else world.theirs
    server = estate.other_server if ours else estate.server
    made = {"backups": make_backup, "definitions": make_definition, "jobs": make_job}[resource]
    return made(server)


@pytest.mark.case("AZ-02")
@pytest.mark.parametrize(("resource", "order"), ORDERS, ids=[f"{name} {row['action']}" for name, row in ORDERS])
def test_what_is_only_seen_is_left_alone_and_said_so(world: World, resource: str, order: dict[str, str]) -> None:
    """An administrator of one tenant who owns a server of another: he sees both, and acts on one."""
    person = world.people["admin_a"]
    assert person is not None
    grant_server_ownership(person=person, server=world.theirs.server)
    own, seen = _make(world, resource, ours=True), _make(world, resource, ours=False)
    before = type(seen).objects.filter(pk=seen.pk).values().get()

    answer = world.client("admin_a").post(
        f"/api/v1/{resource}/bulk/", {**order, "ids": [str(seen.pk), str(own.pk)]}, format="json"
    )

    assert answer.status_code == 200, answer.content
    results = {item["id"]: (item["status"], item["code"]) for item in answer.json()["results"]}
    assert results[str(seen.pk)] == (403, "not_allowed")
    assert results[str(own.pk)][1] == "ok"
    assert type(seen).objects.filter(pk=seen.pk).values().get() == before
