"""The pages of agents: what they show and to whom, letting one in, and shutting one out after a question.

Who gets which status is in test_pages.py.
"""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from agents.models import Agent
from tenants.models import AuditEvent
from tests.factories import make_agent
from tests.worlds import World


def test_everybody_sees_the_agents_of_his_servers_in_portal_and_api_alike(world: World) -> None:
    other, _ = make_agent(world.ours.other_server)
    ours, theirs = world.ours.agent, world.theirs.agent
    visible = {"super": {ours, other, theirs}, "admin_a": {ours, other}, "owner_a1": {ours}, "owner_a2": {other}}

    for name, agents in visible.items():
        client = world.client(name)
        page = client.get("/agents/").content.decode()
        listed = client.get("/api/v1/agents/").json()["results"]

        assert {row["id"] for row in listed} == {str(agent.pk) for agent in agents}
        assert {agent for agent in (ours, other, theirs) if f"/agents/{agent.pk}/" in page} == agents


def test_what_a_page_says_of_an_agent_and_nothing_that_it_says_is_run(world: World) -> None:
    seen = timezone.now() - timedelta(hours=3)
    Agent.objects.filter(pk=world.ours.agent.pk).update(
        version="1.4.2", health="<script>alert(1)</script>", last_seen_at=seen, silent_since=seen
    )

    page = world.client("owner_a1").get(f"/agents/{world.ours.agent.pk}/").content.decode()

    assert all(word in page for word in ("1.4.2", "silent", f"{seen:%Y-%m-%dT%H:%M:%SZ}", world.ours.server.name))
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page


def test_one_that_waits_is_above_and_is_let_in_by_who_may(world: World) -> None:
    Agent.objects.filter(pk=world.ours.agent.pk).update(status=Agent.Status.PENDING)
    button = f'action="/agents/{world.ours.agent.pk}/approve/"'
    assert button not in world.client("owner_a1").get("/agents/").content.decode()
    assert button not in world.client("admin_b").get("/agents/").content.decode()

    client = world.client("admin_a")
    assert button in client.get("/agents/").content.decode()
    client.post(f"/agents/{world.ours.agent.pk}/approve/")
    again = client.post(f"/agents/{world.ours.agent.pk}/approve/", follow=True)

    assert Agent.objects.get(pk=world.ours.agent.pk).status == Agent.Status.ENROLLED
    assert "does not wait for approval" in again.content.decode()
    assert AuditEvent.objects.get(action="agent.approve").actor_name == "admin_a"


def test_shutting_out_is_asked_first_and_is_in_the_audit(world: World) -> None:
    client, address = world.client("admin_a"), f"/agents/{world.ours.agent.pk}/revoke/"

    asked = client.get(address).content.decode()
    assert "with another key" in asked
    assert Agent.objects.get(pk=world.ours.agent.pk).status == Agent.Status.ENROLLED
    client.post(address)

    assert Agent.objects.get(pk=world.ours.agent.pk).status == Agent.Status.REVOKED
    assert AuditEvent.objects.get(action="agent.revoke").actor_name == "admin_a"
    assert address not in client.get(f"/agents/{world.ours.agent.pk}/").content.decode()


def test_a_page_of_agents_needs_few_queries(world: World, django_assert_max_num_queries: object) -> None:
    client = world.client("admin_a")

    with django_assert_max_num_queries(12):
        client.get("/agents/")
