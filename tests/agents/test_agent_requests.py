"""Who comes in below /agent/v1/: the agent whose key signed this very request, once, now, and nobody else."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from django.core.cache import cache
from rest_framework.test import APIClient
from time_machine import travel

from agents import accepting
from agents.accepting import forget_nonces
from agents.models import Agent, AgentNonce, Server
from agents.principals import (
    approve_agent,
    plain,
    register_agent,
    revoke_agent,
    rotate_agent_key,
)
from backups import agent_urls
from common.errors import ConflictError, InvalidInputError, QuotaError, TenantSuspendedError
from engine.crypto import generate_writer_key
from tenants.models import AuditEvent, Quota, QuotaKind, Tenant
from tenants.services import suspend_tenant
from tests.agents.agent_client import AgentClient, is_signed
from tests.factories import a_moment, make_agent, make_person, make_server, make_token
from tests.worlds import World

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.agents.both_urls")]
ME, POLL = "/agent/v1/me/", "/agent/v1/poll/"
NO_ID = "0198a000-0000-7000-8000-000000000000"
KEY = base64.b64encode(generate_writer_key().public).decode()
FACTS: dict[str, Any] = {"host": {"hostname": "web01", "machine": "m", "boot": "b"}, "version": "1.2.3", "count": 1}
BODY = json.dumps(FACTS).encode()
# Status of each route for an agent, and the body; a person, by session or token, and nobody get 401.
TABLE: dict[tuple[str, str], tuple[int, Any]] = {
    ("GET", "me/"): (200, None),
    ("POST", "poll/"): (200, FACTS),
    ("POST", "rotate/"): (200, {"public_key": KEY}),
    ("POST", "unenrol/"): (200, {}),
    ("GET", "releases/<str:file>"): (404, None),
    ("POST", "claim/"): (404, {"job": NO_ID, "count": 9}),
    # The world's server has no disk of an agent.
    ("POST", "start/"): (409, {}),
    ("GET", "backups/"): (200, None),
    ("POST", "restores/"): (404, {"backup": NO_ID, "target": "/srv/new"}),
    ("GET", "restores/<uuid:pk>/"): (404, None),
}


@pytest.fixture
def client() -> AgentClient:
    return AgentClient(*make_agent(make_server(name="web01")))


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer["Content-Type"] == "application/problem+json"


# --- who --------------------------------------------------------------------------------------------------------------


def test_every_route_has_a_row() -> None:
    routes = {(one.callback.method, str(one.pattern)): one.callback for one in agent_urls.urlpatterns}
    opened = {key for key, view in routes.items() if not view.is_for_agents}

    assert opened == {("POST", "enrol/")}
    assert set(routes) - opened == set(TABLE)


@pytest.mark.parametrize(("method", "path"), sorted(TABLE))
def test_the_table(world: World, settings: Any, method: str, path: str) -> None:
    settings.MIDDLEWARE = settings.GATE_MIDDLEWARE
    person = world.people["super"]
    assert person is not None
    token = APIClient(HTTP_AUTHORIZATION=f"Bearer {make_token(person)}", HTTP_ES_API_KEY=make_token(person))
    agent = AgentClient(world.ours.agent, world.ours.agent_key)
    status, message = TABLE[method, path]
    body = b"" if message is None else json.dumps(message).encode()
    address = "/agent/v1/" + path.replace("<str:file>", "x.bin").replace("<uuid:pk>", NO_ID)

    others = [
        client.generic(method, address, body, content_type="application/json")
        for client in (world.client("super"), token, APIClient())
    ]
    other_method = agent.send("DELETE", address)
    header = agent.header(method, address, body)
    own = agent.send(method, address, body, header=header)
    again = agent.send(method, address, body, header=header)

    assert [answer.status_code for answer in others] == [401, 401, 401]
    # Whoever keeps the nonce: after these two the key is worth nothing, and the agent is none.
    ended = {"rotate/": "not_signed_in", "unenrol/": "agent_revoked"}
    assert again.json()["code"] == ended.get(path, "replayed")
    assert (other_method.status_code, own.status_code) == (405, status)
    assert all(is_signed(answer, body=body) for answer in others)


def test_an_agent_sees_itself_and_its_own_server(world: World) -> None:
    ours, theirs = (AgentClient(estate.agent, estate.agent_key) for estate in (world.ours, world.theirs))

    told = [client.ask("me/", method="GET").json() for client in (ours, theirs)]

    assert [one["id"] for one in told] == [str(world.ours.agent.pk), str(world.theirs.agent.pk)]
    assert told[0]["server"] == world.ours.server.name
    assert world.theirs.tenant.title not in json.dumps(told[0])


def test_what_an_agent_does_comes_from_the_agent(client: AgentClient) -> None:
    client.send("POST", "/agent/v1/unenrol/")

    event = AuditEvent.objects.get(action="agent.revoke")
    assert (event.actor_kind, event.actor_id) == ("agent", str(client.agent_id))


def test_who_was_refused_is_in_the_audit(client: AgentClient) -> None:
    revoke_agent(agent=Agent.objects.get(), actor=None)
    client.send("GET", ME)
    client.send("GET", ME, header=client.header("GET", POLL))

    proved, unproved = AuditEvent.objects.filter(outcome="refused").order_by("pk")
    assert (proved.action, proved.subject_id) == ("access.refused", str(client.agent_id))
    assert proved.tenant == Agent.objects.get().server.tenant
    assert (unproved.action, unproved.subject_id) == ("sign_in.token_refused", "")


# --- signatures -------------------------------------------------------------------------------------------------------


@pytest.mark.case("AZ-10")
def test_a_replay_is_refused_by_every_process(client: AgentClient) -> None:
    header = client.header("POST", POLL, BODY)
    assert client.send("POST", POLL, BODY, header=header).status_code == 200

    # What a process remembers is gone after a restart; the nonce is in the database.
    cache.clear()

    refused(client.send("POST", POLL, BODY, header=header), 401, "replayed")


def test_one_of_many_replays_at_once_gets_in(client: AgentClient) -> None:
    header = client.header("GET", ME)

    found = [client.send("GET", ME, header=header).status_code for _ in range(20)]

    assert sorted(found) == [200] + [401] * 19
    assert AgentNonce.objects.count() == 1


@pytest.mark.parametrize(
    "sent",
    [
        ("GET", ME, b"", ("GET", POLL, b"")),
        ("POST", POLL, BODY + b" ", ("POST", POLL, BODY)),
        ("GET", f"{ME}?x=1", b"", ("GET", ME, b"")),
        ("GET", ME, b"", ("POST", ME, b"")),
    ],
)
def test_a_signature_for_something_else(client: AgentClient, sent: tuple[str, str, bytes, tuple[Any, ...]]) -> None:
    method, path, body, other = sent

    refused(client.send(method, path, body, header=client.header(*other)), 401, "not_signed_in")


def test_nobody_signs_for_another_agent(world: World) -> None:
    ours = AgentClient(world.ours.agent, world.ours.agent_key)

    header = ours.header("GET", ME, agent_id=world.theirs.agent.pk)

    refused(ours.send("GET", ME, header=header), 401, "not_signed_in")


def test_unknown_agent_and_wrong_signature_are_answered_alike(client: AgentClient) -> None:
    unknown = client.send("GET", ME, header=client.header("GET", ME, agent_id=Agent(name="x").pk))
    wrong = client.send("GET", ME, header=client.header("GET", POLL))
    garbage = client.send("GET", ME, header="Backupsite-Agent nonsense")

    assert unknown.status_code == wrong.status_code == garbage.status_code == 401
    assert unknown.json() == wrong.json() == garbage.json()
    assert unknown["WWW-Authenticate"] == "Backupsite-Agent"


def test_the_signature_of_an_unknown_agent_is_looked_at_too(client: AgentClient, monkeypatch: Any) -> None:
    looked: list[bytes] = []
    monkeypatch.setattr(accepting, "is_signed_by", lambda key, proof, **asked: bool(looked.append(key)))

    client.send("GET", ME, header=client.header("GET", ME, agent_id=Agent(name="x").pk))

    assert len(looked) == 1


@pytest.mark.parametrize(("apart", "status"), [(-290, 200), (290, 200), (-400, 401), (400, 401), (-(10**8), 401)])
def test_the_clock_of_the_agent(client: AgentClient, apart: int, status: int) -> None:
    answer = client.send("GET", ME, header=client.header("GET", ME, time_seconds=int(time.time()) + apart))

    assert answer.status_code == status
    assert status == 200 or answer.json()["code"] == "clock_skew"


@pytest.mark.case("AZ-10")
def test_a_nonce_is_kept_as_long_as_its_time_stamp_counts(client: AgentClient) -> None:
    start = int(time.time())
    header = client.header("GET", ME, time_seconds=start + 290)
    assert client.send("GET", ME, header=header).status_code == 200

    for later in (0, 250, 585):
        with travel(start + later, tick=False):
            forget_nonces(now=a_moment().fromtimestamp(start + later, tz=a_moment().tzinfo))
            refused(client.send("GET", ME, header=header), 401, "replayed")
    with travel(start + 700, tick=False):
        assert forget_nonces(now=a_moment().fromtimestamp(start + 700, tz=a_moment().tzinfo)) == 1
        refused(client.send("GET", ME, header=header), 401, "clock_skew")


def test_a_large_body_is_refused_before_it_is_read(client: AgentClient) -> None:
    refused(
        client.send("POST", POLL, b" " * (1024 * 1024 + 1), header=client.header("POST", POLL)),
        400,
        "body_too_large",
    )


@pytest.mark.case("AZ-14")
def test_a_flood_of_one_agent_is_stopped_and_the_others_go_on(world: World, settings: Any) -> None:
    settings.API_RATES = {"agent": "5/m"}
    cache.clear()
    ours, theirs = (AgentClient(estate.agent, estate.agent_key) for estate in (world.ours, world.theirs))

    with travel("2026-03-02T10:00:30Z", tick=False):
        found = [ours.send("GET", ME) for _ in range(30)]

        assert [answer.status_code for answer in found] == [200] * 5 + [429] * 25
        assert found[-1]["Retry-After"] == "30"
        assert theirs.send("GET", ME).status_code == 200
    assert AgentNonce.objects.filter(agent=world.ours.agent).count() == 5


# --- life of an agent -------------------------------------------------------------------------------------------------


@pytest.mark.case("AZ-11")
def test_a_revoked_agent_is_out_with_its_next_request(world: World) -> None:
    client = AgentClient(world.ours.agent, world.ours.agent_key)
    assert client.send("GET", ME).status_code == 200

    revoked = world.client("admin_a").post(f"/api/v1/agents/{world.ours.agent.pk}/revoke/")

    assert revoked.json()["status"] == "revoked"
    refused(client.send("GET", ME), 403, "agent_revoked")
    assert AuditEvent.objects.filter(action="agent.revoke").count() == 1


def test_a_pending_agent_waits_for_a_person(world: World) -> None:
    agent, key = make_agent(world.ours.other_server, status=Agent.Status.PENDING)
    client = AgentClient(agent, key)
    refused(client.send("GET", ME), 403, "agent_pending")

    world.client("admin_a").post(f"/api/v1/agents/{agent.pk}/approve/")

    assert client.send("GET", ME).status_code == 200
    with pytest.raises(ConflictError):
        approve_agent(agent=agent, actor=world.people["admin_a"])


def test_another_key_ends_the_former_one(world: World) -> None:
    former, key = AgentClient(world.ours.agent, world.ours.agent_key), generate_writer_key()

    rotate_agent_key(agent=world.ours.agent, public_key=key.public, actor=None)

    refused(former.send("GET", ME), 401, "not_signed_in")
    assert AgentClient(world.ours.agent, key.private).send("GET", ME).status_code == 200


def test_a_key_is_never_used_twice(world: World) -> None:
    key = bytes(world.ours.agent.public_key)
    for wrong, error in ((key, ConflictError), (b"short", InvalidInputError)):
        with pytest.raises(error):
            rotate_agent_key(agent=world.theirs.agent, public_key=wrong, actor=None)
        with pytest.raises(error):
            register_agent(server=world.theirs.other_server, public_key=wrong, actor=None)
    revoke_agent(agent=world.ours.agent, actor=None)
    with pytest.raises(ConflictError):
        register_agent(server=world.ours.server, public_key=key, actor=None)


def test_a_server_has_one_agent_and_gets_another_after_revoking() -> None:
    server, person = make_server(), make_person(superadmin=True)
    first = register_agent(server=server, public_key=generate_writer_key().public, actor=person)
    with pytest.raises(ConflictError):
        register_agent(server=server, public_key=generate_writer_key().public, actor=person)
    revoke_agent(agent=first, actor=person)

    key = generate_writer_key()
    second = register_agent(server=server, public_key=key.public, actor=person)

    assert second.pk == first.pk
    assert AgentClient(second, key.private).send("GET", ME).status_code == 200


def test_a_tenant_has_so_many_agents_and_a_suspended_one_gets_none(world: World) -> None:
    Quota.objects.create(tenant=world.ours.tenant, kind=QuotaKind.AGENTS, hard=1)
    with pytest.raises(QuotaError):
        register_agent(server=world.ours.other_server, public_key=generate_writer_key().public, actor=None)
    revoke_agent(agent=world.ours.agent, actor=None)
    register_agent(server=world.ours.other_server, public_key=generate_writer_key().public, actor=None)

    person = world.people["super"]
    assert person is not None
    suspend_tenant(tenant=world.theirs.tenant, reason="unpaid", actor=person, now=a_moment())

    with pytest.raises(TenantSuspendedError):
        register_agent(server=world.theirs.other_server, public_key=generate_writer_key().public, actor=None)


def test_an_agent_reaches_no_row_by_itself(world: World) -> None:
    """Should one ever be given to `for_user`: it is nobody there."""
    assert not Server.objects.for_user(world.ours.agent).exists()
    assert not Tenant.objects.for_user(world.ours.agent).exists()


# --- what it says -----------------------------------------------------------------------------------------------------


def test_a_poll_is_noted(client: AgentClient) -> None:
    answer = client.poll(version="1.2.3", problem_code="no_space", problem="2 disks, 1 waits")

    agent = Agent.objects.get()
    assert answer.status_code == 200
    assert (agent.version, agent.health, agent.health_code) == ("1.2.3", "2 disks, 1 waits", "no_space")
    assert agent.last_seen_at is not None


@pytest.mark.case("IN-11")
@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("one\nERROR two\r\nthree", "one ERROR two three"),
        ("\x1b]0;title\x07text", "text"),
        ("\x9b2Jcleared", "cleared"),
        ("right\u202eto left\u200b", "right to left"),
        ("tab\tbell\x07nul\x00end", "tab bell nul end"),
        ("plain text, with Zürich", "plain text, with Zürich"),
        ("half \x1b", "half"),
    ],
)
def test_control_characters_are_not_kept(said: str, kept: str) -> None:
    assert plain(said) == kept


@pytest.mark.case("IN-11")
def test_what_an_agent_says_is_kept_harmless_and_short(client: AgentClient) -> None:
    assert client.poll(version="1\n2" + "x" * 99, problem="\x1b[2J" + "<script>" * 999).status_code == 200

    agent = Agent.objects.get()
    assert agent.version.startswith("1 2x")
    assert agent.health.startswith("<script>")
    assert (len(agent.version), len(agent.health)) == (64, 2048)


def test_a_machine_is_known_again_whatever_it_calls_itself(client: AgentClient) -> None:
    odd = {**FACTS, "host": {**FACTS["host"], "machine": "a\x00b" + "x" * 200}}

    found = [client.send("POST", POLL, json.dumps({**odd, "count": count}).encode()) for count in (1, 2)]

    assert [answer.status_code for answer in found] == [200, 200]


@pytest.mark.parametrize(
    "body", [{"version": "1"}, {**FACTS, "count": "many"}, {**FACTS, "count": -1}, ["no object"], 1]
)
def test_a_poll_that_is_none(client: AgentClient, body: Any) -> None:
    answer = client.send("POST", POLL, json.dumps(body).encode())

    refused(answer, 400, "invalid_message")
    assert Agent.objects.get().last_seen_at is None
