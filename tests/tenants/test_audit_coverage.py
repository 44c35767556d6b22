"""Every write of the API leaves a record when it was done, and one when it was refused; no secret is in any of them.

Walks the table of the permission matrix, so that a new route is in here without anybody thinking of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction
from django.test import override_settings

from tenants.models import AuditEvent
from tests.api.test_permission_matrix import API, TABLE
from tests.worlds import World, make_world

# They answer a question and write nothing.
WITHOUT_A_WRITE = {("POST", "definitions/preview/"), ("POST", "definitions/simulate/")}
# What has to be so first, for these to change anything.
BEFORE = {
    ("POST", "nodes/<pk>/resume/"): "nodes/<pk>/drain/",
    ("POST", "people/<pk>/enable/"): "people/<pk>/disable/",
    ("POST", "people/<pk>/revoke/"): "people/<pk>/grant/",
    ("POST", "servers/<pk>/revoke/"): "servers/<pk>/grant/",
}
NOT_BY_SESSION = {"/api/accounts/login/?", "/api/accounts/logout/?"}
TO_ANOTHER = {"nodes/<pk>/attach/", "storages/<pk>/attach/"}
SECRET_FIELDS = {"token", "secret", "recovery_key", "challenge", "password", "link"}
pytestmark = pytest.mark.django_db
WRITES = sorted(key for key in TABLE if key[0] != "GET")


NAMES = ("super", "admin_a", "admin_b", "owner_a1", "owner_a2")


class Walk:
    """The world of this module, with one client for each principal, who has signed in before anything is looked at."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._clients = {name: world.client(name) for name in NAMES}

    def ask(self, name: str, method: str, path: str) -> tuple[Any, list[AuditEvent]]:
        """The answer, and what was recorded of the request; all that it did is undone."""
        row, estate = TABLE[method, path], self.world.ours
        key = str(estate.object_of(path.split("/")[0]).pk) if "<pk>" in path else ""
        address = path.replace("<pk>", key) + row.query(estate)
        with transaction.atomic():
            if (method, path) in BEFORE:
                self._send("super", "POST", BEFORE[method, path].replace("<pk>", key), row.body(estate))
            wanted = {"tenant": str(self.world.theirs.tenant.pk)} if path in TO_ANOTHER else row.body(estate)
            answer = self._send(name, method, address, wanted)
            events = list(AuditEvent.objects.filter(request_id=answer["X-Request-Id"]))
            transaction.set_rollback(True)
        return answer, events

    def _send(self, name: str, method: str, path: str, body: dict[str, Any]) -> Any:
        address = path if path.startswith("/") else API + path
        return self._clients[name].generic(method, address, json.dumps(body), content_type="application/json")


@pytest.fixture(scope="module")
def walk(django_db_setup: None, django_db_blocker: Any) -> Iterator[Walk]:
    # Signed in once: on a slow machine this takes longer than a confirmation lasts.
    lasting = override_settings(ACCOUNT_REAUTHENTICATION_TIMEOUT=86_400)
    with lasting, django_db_blocker.unblock(), transaction.atomic():
        yield Walk(make_world())
        transaction.set_rollback(True)


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_what_was_done_and_what_was_refused_left_records(walk: Walk, method: str, path: str) -> None:
    hidden = [str(walk.world.theirs.tenant.pk), walk.world.theirs.tenant.name, walk.world.theirs.server.name]

    for name in NAMES:
        answer, events = walk.ask(name, method, path)

        done = [event for event in events if event.outcome != "refused"]
        refused = [event for event in events if event.outcome == "refused"]
        # Who signs in there is nobody yet, whatever his session says.
        assert {event.actor_name for event in events} <= ({""} if path in NOT_BY_SESSION else {name})
        assert all(event.address for event in events)
        if answer.status_code < 300 and (method, path) not in WITHOUT_A_WRITE:
            # A bulk answers 200 though each of its objects was refused.
            assert done or (path.endswith("bulk/") and refused), f"{name} left nothing"
        if answer.status_code in {403, 404}:
            assert not done
            assert [event.after["status"] for event in refused] == [answer.status_code], name
        shown = [str(vars(event)) for event in events if event.tenant_id == walk.world.ours.tenant.pk]
        assert not [word for word in hidden for text in shown if word in text]
        kept = json.dumps([[event.before, event.after, event.subject_name] for event in events])
        assert not [secret for secret in secrets_of(answer) if secret in kept]


def secrets_of(answer: Any) -> list[str]:
    return secrets_in(answer.json()) if answer.content and "json" in answer["Content-Type"] else []


def secrets_in(answer: Any) -> list[str]:
    """Long values of fields whose name says that they are secret, wherever they are in the answer."""
    if isinstance(answer, dict):
        found = [text for name, text in answer.items() if name in SECRET_FIELDS and isinstance(text, str)]
        return [text for text in found if len(text) > 15] + [
            text for value in answer.values() for text in secrets_in(value)
        ]
    return [text for value in answer for text in secrets_in(value)] if isinstance(answer, list) else []
