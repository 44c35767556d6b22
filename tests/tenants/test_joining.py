"""What lets somebody in once: a link or a place that many want at the same moment, and an agent that has to wait."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from django.db import connections
from django.utils import timezone

from agents.invitations import accept_invitation, invite
from agents.models import Agent
from agents.principals import approve_agent, register_agent, revoke_agent
from common.errors import ConflictError, NotFoundError
from engine.crypto import generate_writer_key
from tenants.models import AuditEvent, Invitation, Person
from tests.agents.agent_client import AgentClient
from tests.factories import make_person, make_server, make_tenant

WANT = 12


def at_once(work: Callable[[int], object], refusals: tuple[type[Exception], ...]) -> tuple[int, list[BaseException]]:
    """How many of them got it, and what went wrong besides being refused."""
    gate, won, failed = threading.Barrier(WANT), [], []

    def run(number: int) -> None:
        try:
            gate.wait()
            work(number)
            won.append(number)
        except refusals:
            pass
        except BaseException as error:
            failed.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(WANT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(won), failed


@pytest.mark.case("AZ-07")
@pytest.mark.django_db(transaction=True)
def test_of_many_that_open_one_invitation_one_gets_in() -> None:
    tenant = make_tenant()
    admin = make_person(administers=[tenant])
    now = timezone.now()
    _, token = invite(email="new@example.org", tenant=tenant, administers=True, servers=[], actor=admin, now=now)

    won = at_once(
        lambda number: accept_invitation(token, now=now, password=f"a long pass phrase {number}"), (NotFoundError,)
    )

    assert won == (1, [])
    assert Person.objects.filter(email="new@example.org").count() == 1
    assert Invitation.objects.get().used_at == now
    assert AuditEvent.objects.filter(action="person.join").count() == 1


@pytest.mark.case("AZ-07")
@pytest.mark.django_db(transaction=True)
def test_of_many_agents_that_want_one_server_one_is_registered() -> None:
    server = make_server()
    keys = [generate_writer_key().public for _ in range(WANT)]

    won = at_once(lambda number: register_agent(server=server, public_key=keys[number], actor=None), (ConflictError,))

    assert won == (1, [])
    assert bytes(Agent.objects.get().public_key) in keys
    assert AuditEvent.objects.filter(action="agent.register").count() == 1


@pytest.mark.case("AZ-09")
@pytest.mark.urls("tests.agents.both_urls")
def test_an_agent_that_waits_gets_in_nowhere_until_a_person_lets_it(db: None) -> None:
    server, key = make_server(), generate_writer_key()
    person = make_person(administers=[server.tenant])
    agent = register_agent(server=server, public_key=key.public, actor=None, pending=True)
    client = AgentClient(agent, key.private)

    for method, path, body in (("GET", "/agent/v1/me/", b""), ("POST", "/agent/v1/start/", b"{}")):
        answer = client.send(method, path, body)
        assert (answer.status_code, answer.json()["code"]) == (403, "agent_pending")
    assert Agent.objects.get().last_seen_at is None

    approve_agent(agent=agent, actor=person)
    assert client.send("GET", "/agent/v1/me/").status_code == 200
    revoke_agent(agent=agent, actor=person)
    assert client.send("GET", "/agent/v1/me/").json()["code"] == "agent_revoked"
    with pytest.raises(ConflictError):
        approve_agent(agent=agent, actor=person)
