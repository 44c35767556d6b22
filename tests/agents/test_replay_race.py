"""One signed request, sent many times at the same moment: one of them gets in. Run on PostgreSQL as well."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.cache import cache

from agents.models import AgentNonce
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
