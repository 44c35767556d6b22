"""Who comes in below /agent/v1/: the agent whose key signed this very request, once, now, and nobody else."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from django.core.cache import cache
from django.urls import get_resolver
from rest_framework.test import APIClient
from time_machine import travel

from agents import agent_api, principals
from agents.agent_urls import urlpatterns
from agents.authentication import AgentAuthentication
from agents.models import Agent, AgentNonce, Server
from agents.principals import (
    approve_agent,
    forget_nonces,
    plain,
    register_agent,
    revoke_agent,
    rotate_agent_key,
)
from common.errors import ConflictError, InvalidInputError, QuotaError, TenantSuspendedError
from engine.crypto import generate_writer_key
from tenants.models import AuditEvent, Quota, QuotaKind, Tenant
from tenants.origin import current_origin
from tenants.services import suspend_tenant
from tests.agents.agent_client import AgentClient
from tests.factories import a_moment, make_agent, make_person, make_server, make_token
from tests.worlds import World

pytestmark = pytest.mark.django_db
ME, HEARTBEAT = "/agent/v1/me/", "/agent/v1/heartbeat/"
# Status of each route for: an agent; a person's session; a person's token; nobody.
TABLE = {("GET", ME): (200, 401, 401, 401), ("POST", HEARTBEAT): (200, 401, 401, 401)}
BODY = b'{"version": "1.2.3"}'


@pytest.fixture
def client() -> AgentClient:
    return AgentClient(*make_agent(make_server(name="web01")))


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer["Content-Type"] == "application/problem+json"


# --- who --------------------------------------------------------------------------------------------------------------


def test_every_route_has_a_row() -> None:
    routes = {f"/agent/v1/{pattern.pattern}": pattern.callback.view_class for pattern in urlpatterns}

    present = {
        (method, path)
        for path, view in routes.items()
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if hasattr(view, method.lower())
    }

    assert present == set(TABLE)
    assert all(view.authentication_classes == (AgentAuthentication,) for view in routes.values())


def test_agents_sign_in_nowhere_else() -> None:
    """Neither way round: below /agent/ nothing but signatures, elsewhere none."""
    for pattern in get_resolver().url_patterns:
        if str(pattern.pattern).startswith("agent/"):
            continue
        for inner in getattr(pattern, "url_patterns", []):
            for one in getattr(inner, "url_patterns", [inner]):
                view = getattr(one.callback, "cls", None)
                assert AgentAuthentication not in getattr(view, "authentication_classes", ()), one


@pytest.mark.parametrize(("method", "path"), sorted(TABLE))
def test_the_table(world: World, method: str, path: str) -> None:
    person = world.people["super"]
    assert person is not None
    token = APIClient(HTTP_AUTHORIZATION=f"Bearer {make_token(person)}", HTTP_ES_API_KEY=make_token(person))
    agent = AgentClient(world.ours.agent, world.ours.agent_key)
    body = BODY if method == "POST" else b""

    found = [agent.send(method, path, body)] + [
        client.generic(method, path, body, content_type="application/json")
        for client in (world.client("super"), token, APIClient())
    ]

    assert tuple(answer.status_code for answer in found) == TABLE[method, path]


def test_an_agent_sees_itself_and_its_own_server(world: World) -> None:
    ours, theirs = (AgentClient(estate.agent, estate.agent_key) for estate in (world.ours, world.theirs))

    told = [client.send("GET", ME).json() for client in (ours, theirs)]

    assert [one["server"]["id"] for one in told] == [str(world.ours.server.pk), str(world.theirs.server.pk)]
    assert told[0]["tenant"] == world.ours.tenant.name
    assert world.theirs.tenant.name not in json.dumps(told[0])


def test_what_an_agent_does_comes_from_the_agent(client: AgentClient, monkeypatch: Any) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(agent_api, "note_heartbeat", lambda **_: seen.append(current_origin()))

    client.send("POST", HEARTBEAT, BODY)

    assert [(origin.actor_kind, origin.actor_id) for origin in seen] == [("agent", str(client.agent_id))]


def test_who_was_refused_is_in_the_audit(client: AgentClient) -> None:
    revoke_agent(agent=Agent.objects.get(), actor=None)
    client.send("GET", ME)
    client.send("GET", ME, header=client.header("GET", HEARTBEAT))

    proved, unproved = AuditEvent.objects.filter(outcome="refused").order_by("pk")
    assert (proved.action, proved.subject_id) == ("access.refused", str(client.agent_id))
    assert proved.tenant == Agent.objects.get().server.tenant
    assert (unproved.action, unproved.subject_id) == ("sign_in.token_refused", "")


# --- signatures -------------------------------------------------------------------------------------------------------


@pytest.mark.case("AZ-10")
def test_a_replay_is_refused_by_every_process(client: AgentClient) -> None:
    header = client.header("POST", HEARTBEAT, BODY)
    assert client.send("POST", HEARTBEAT, BODY, header=header).status_code == 200

    # What a process remembers is gone after a restart; the nonce is in the database.
    cache.clear()

    refused(client.send("POST", HEARTBEAT, BODY, header=header), 401, "replayed")


def test_one_of_many_replays_at_once_gets_in(client: AgentClient) -> None:
    header = client.header("GET", ME)

    found = [client.send("GET", ME, header=header).status_code for _ in range(20)]

    assert sorted(found) == [200] + [401] * 19
    assert AgentNonce.objects.count() == 1


@pytest.mark.parametrize(
    "sent",
    [
        ("GET", ME, b"", ("GET", HEARTBEAT, b"")),
        ("POST", HEARTBEAT, b'{"version": "2"}', ("POST", HEARTBEAT, BODY)),
        ("GET", f"{ME}?x=1", b"", ("GET", ME, b"")),
        ("POST", ME, b"", ("GET", ME, b"")),
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
    wrong = client.send("GET", ME, header=client.header("GET", HEARTBEAT))
    garbage = client.send("GET", ME, header="Backupsite-Agent nonsense")

    assert unknown.status_code == wrong.status_code == garbage.status_code == 401
    assert unknown.json() == wrong.json() == garbage.json()
    assert unknown["WWW-Authenticate"] == "Backupsite-Agent"


def test_the_signature_of_an_unknown_agent_is_looked_at_too(client: AgentClient, monkeypatch: Any) -> None:
    looked: list[bytes] = []
    monkeypatch.setattr(principals, "is_signed_by", lambda key, proof, **asked: bool(looked.append(key)))

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
        client.send("POST", HEARTBEAT, b" " * (1024 * 1024 + 1), header=client.header("POST", HEARTBEAT)),
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


def test_a_heartbeat_is_noted(client: AgentClient) -> None:
    answer = client.send("POST", HEARTBEAT, b'{"version": "1.2.3", "health": "2 disks, 1 waits"}')

    agent = Agent.objects.get()
    assert answer.status_code == 200
    assert (agent.version, agent.health) == ("1.2.3", "2 disks, 1 waits")
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
def test_what_an_agent_says_is_kept_harmless(client: AgentClient) -> None:
    body = json.dumps({"version": "1\n2", "health": "\x1b[2J" + "<script>"}).encode()

    assert client.send("POST", HEARTBEAT, body).status_code == 200

    agent = Agent.objects.get()
    assert (agent.version, agent.health) == ("1 2", "<script>")


@pytest.mark.parametrize(
    "body",
    [
        {"version": "1", "health": "x" * 2049},
        {"version": "1", "health": "é" * 1025},
        {"version": "x" * 65},
        {"health": "no version"},
        {"version": "1", "status": "enrolled"},
        {"version": "1", "server": "x"},
        ["no object"],
    ],
)
def test_a_heartbeat_that_is_none(client: AgentClient, body: Any) -> None:
    answer = client.send("POST", HEARTBEAT, json.dumps(body).encode())

    refused(answer, 400, "invalid_input")
    assert Agent.objects.get().last_seen_at is None
