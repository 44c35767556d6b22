"""Requests made up from the OpenAPI document, right ones and wrong ones: the answers are as it says, and never a fault.

All checks of schemathesis are on. Seeded, in this process, and undone behind each request.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from tests.factories import make_token
from tests.worlds import World

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "4"))
PROFILE = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def _one_connection() -> Iterator[None]:
    """As Django's own test client does: the end of a request does not end the test's transaction."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


BUDGET_TARGETS = ("node", "vault", "tenant", "region", "vault_region")
# What a schema cannot say: a right value for what only the service can judge.
SENSIBLE: dict[str, Any] = {
    "cron": "0 1 * * *",
    "time_zone": "Europe/Paris",
    "region": "RBX",
    "driver": "image",
    "public_key": "09" * 32,
    # A public address; its name is looked up when something is sent, not before.
    "url": "https://hooks.example.com/backups",
    "address": "team@example.com",
    "email": "owner@example.com",
}


def map_query(context: Any, query: Any) -> Any:
    """A cursor comes from an answer; none can be made up, and that has tests of its own."""
    return {name: value for name, value in query.items() if name != "cursor"} if query else query


def map_body(context: Any, body: Any) -> Any:
    if not isinstance(body, dict):
        return body
    if "ids" in body:
        # In bulk a note goes with its action, and with no other.
        body.pop("note", None)
        body |= {"note": "x"} if body.get("action") == "note" else {}
    if body.get("networks"):
        # Whether bits behind the network's length are zero.
        body["networks"] = ["192.0.2.0/24", "2001:db8::/32"]
    if "/budgets/" in context.operation.path:
        body = _whole_budget(body)
    if "/spread/" in context.operation.path and not {"node", "hour"} <= set(body):
        # A pile is one hour of one node.
        body = {name: value for name, value in body.items() if name not in ("node", "hour")}
    if "/move/" in context.operation.path:
        body = _one_choice(body)
    if "/policies/" in context.operation.path:
        # Only what is kept by age can be locked as long; a number kept says no time.
        body.pop("lock_whole_retention", None)
        # A bandwidth is nothing, or enough for one block a second; and there are 24 hours.
        if isinstance(limits := body.get("agent_limits"), dict) and limits.get("bandwidth"):
            limits["bandwidth"] = [{**row, "bytes_per_second": 65536} for row in limits["bandwidth"][:24]]
    return {name: SENSIBLE.get(name, value) if isinstance(value, str) else value for name, value in body.items()}


def _one_choice(body: dict[str, Any]) -> dict[str, Any]:
    """Definitions by their names, or those of one hour of one node."""
    if {"node", "from_hour"} <= set(body):
        return {name: value for name, value in body.items() if name != "definitions"}
    chosen = {name: value for name, value in body.items() if name not in ("node", "from_hour")}
    return {"definitions": [str(uuid.UUID(int=7))], **chosen}


def _whole_budget(body: dict[str, Any]) -> dict[str, Any]:
    """Rules across fields: the target is of the budget's kind, it limits something, and its window has two ends."""
    whole = {name: value for name, value in body.items() if name not in BUDGET_TARGETS or name == body.get("kind")}
    if whole.get("most_jobs") is None and whole.get("bytes_per_second") is None:
        whole["most_jobs"] = 3
    return whole | ({"from_time": "22:00", "until_time": "06:00"} if {"from_time", "until_time"} & set(whole) else {})


def schema_as(world: World, name: str, mode: GenerationMode) -> tuple[Any, dict[str, str]]:
    person = world.people[name]
    assert person is not None
    token = make_token(person)
    schema = schemathesis.openapi.from_wsgi("/api/v1/schema/?format=json", get_wsgi_application())
    # The credential is right in each request; without one is what the check `ignored_auth` tries by itself.
    schema.config.generation.with_security_parameters = False
    if mode is GenerationMode.POSITIVE:
        schema.hook(map_query)
        schema.hook(map_body)
    return schema, {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("name", ["super", "owner_a1"])
def test_answers_are_as_the_document_says(world: World, name: str, mode: GenerationMode) -> None:
    schema, headers = schema_as(world, name, mode)
    failures = []
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.query or operation.body):
            # Any text may be an id: there is nothing to send wrongly.
            continue
        try:
            _try(operation, mode, headers)
        except BaseException as error:  # all of them are told at once
            if isinstance(error, KeyboardInterrupt):
                raise
            failures.append(f"{operation.label}: {_told(error)}")

    assert not failures, "\n\n".join(failures)


def _try(operation: Any, mode: GenerationMode, headers: dict[str, str]) -> None:
    @PROFILE
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        with transaction.atomic():
            case.call_and_validate(headers=headers)
            transaction.set_rollback(True)

    one()


def _told(error: BaseException) -> str:
    inner = getattr(error, "exceptions", None)
    return "\n".join(_told(one) for one in inner) if inner else f"{type(error).__name__}: {error}"[:2500]
