"""One signed request, sent many times at the same moment: one of them gets in; what a poll costs the database; how
messages are learned. Run on PostgreSQL as well."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from django.core.cache import cache
from django.db import connection

from agents import agent_messages, protocol
from agents.models import Agent, AgentNonce
from tests.agents.agent_client import AgentClient
from tests.api.test_concurrent_requests import at_once
from tests.factories import make_agent, make_server

POLL = "/agent/v1/poll/"
BODY = b'{"host": {"hostname": "web01", "machine": "m", "boot": "b"}, "version": "1.2.3", "count": 1}'
AT_ONCE = 12


@pytest.mark.case("AZ-10")
@pytest.mark.django_db(transaction=True)
@pytest.mark.urls("tests.agents.both_urls")
def test_one_of_many_at_once_gets_in_and_none_after_a_restart() -> None:
    agent, key = make_agent(make_server(name="web01"))
    header = AgentClient(agent, key).header("POST", POLL, BODY)

    def send() -> Any:
        return AgentClient(agent, key).send("POST", POLL, BODY, header=header)

    answers = at_once([send] * AT_ONCE)

    assert sorted(answer.status_code for answer in answers) == [200] + [401] * (AT_ONCE - 1), answers
    assert {answer.json()["code"] for answer in answers if answer.status_code == 401} == {"replayed"}
    assert AgentNonce.objects.count() == 1
    # What a process remembers is gone after a restart.
    cache.clear()
    assert send().json()["code"] == "replayed"


@pytest.mark.django_db
@pytest.mark.urls("tests.agents.both_urls")
def test_a_poll_is_two_statements_and_a_replay_of_it_writes_nothing(django_assert_num_queries: Any) -> None:
    """Who asks, and one that keeps the nonce, notes what was told and looks for work. SQLite has no such one."""
    client = AgentClient(*make_agent(make_server(name="web01")))
    client.polled()
    cost = 2 if connection.vendor == "postgresql" else 4

    with django_assert_num_queries(cost):
        client.polled(policy_number=1)

    seen = Agent.objects.values("last_seen_at", "poll_count", "version").get()
    body = BODY.replace(b'"count": 1', b'"count": 9').replace(b'"m"', b'"' + b"m" * 64 + b'"')
    header = client.header("POST", POLL, body)
    assert client.send("POST", POLL, body, header=header).status_code == 200
    noted = Agent.objects.values("last_seen_at", "poll_count", "version").get()
    assert (seen["poll_count"], noted["poll_count"], noted["version"]) == (2, 9, "1.2.3")

    assert client.send("POST", POLL, body, header=header).json()["code"] == "replayed"
    assert Agent.objects.values("last_seen_at", "poll_count", "version").get() == noted


def test_messages_are_learned_before_there_are_threads() -> None:
    """msgspec learns a type when it is first read, and crashes when two threads do so: workers of the gate ended."""
    for module in (agent_messages, protocol):
        kinds = {kind for kind in vars(module).values() if isinstance(kind, msgspec.StructMeta)}

        assert kinds == {decoder.type for decoder in module._LEARNED}
