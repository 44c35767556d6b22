"""Agents as rows of the database, and what they cost it: for `tests.bench.agent_polls`. Imports Django late."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

MACHINE = "m" * 64
AGENTS_OF_A_TENANT = 100


@dataclass(frozen=True, slots=True)
class Key:
    """Of one agent: its id, and the private half (32 bytes)."""

    agent_id: UUID
    private: bytes


def set_up(database_url: str) -> None:
    """Django in this process, on the tables that are there."""
    os.environ["TEST_DATABASE_URL"] = database_url
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    import django

    django.setup()


def make_agents(count: int) -> list[Key]:
    """Enrolled, each on a server of its own with a disk, a definition and a policy with a window."""
    from agents.agent_messages import TreeFacts
    from agents.models import HOST_DRIVER, Agent, Disk, Server
    from definitions.models import Definition
    from definitions.policies import create_policy
    from engine.crypto import generate_writer_key
    from tests.factories import a_moment, make_person, make_region, make_tenant, make_vault

    region, boss = make_region(), make_person("bench", superadmin=True)
    policy = create_policy(name="night", actor=boss)
    tree = {
        name: getattr(TreeFacts("/", "ext4", "/dev/vda1", 2**36, 2**34), name) for name in TreeFacts.__struct_fields__
    }
    keys: list[Key] = []
    for first in range(0, count, AGENTS_OF_A_TENANT):
        numbers = range(first, min(count, first + AGENTS_OF_A_TENANT))
        tenant = make_tenant(f"Tenant {first}")
        common = {"name": "daily", "tenant": tenant, "vault": make_vault(tenant), "policy": policy}
        servers = Server.objects.bulk_create(
            [Server(name=f"metal{number}", tenant=tenant, region=region, node=None) for number in numbers]
        )
        disks = Disk.objects.bulk_create(
            [
                Disk(server=one, tenant=tenant, number=1, driver=HOST_DRIVER, path="/", size_bytes=2**36)
                for one in servers
            ]
        )
        Definition.objects.bulk_create(
            Definition(**common, disk=disk, cron="0 22 * * *", next_run_at=a_moment().replace(year=2099))
            for disk in disks
        )
        pairs = [generate_writer_key() for _ in servers]
        made = Agent.objects.bulk_create(
            Agent(server=one, name=one.name, public_key=pair.public, status="enrolled", trees=[tree])
            for one, pair in zip(servers, pairs, strict=True)
        )
        keys += [Key(one.pk, pair.private) for one, pair in zip(made, pairs, strict=True)]
    return keys


def statements_of_a_poll(key: Key, *, count: int) -> tuple[int, list[str]]:
    """How many a poll after a minute costs, and which, by the first words."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext, override_settings

    from agents.models import Agent
    from tests.agents.agent_client import HOST, AgentClient

    pass_a_minute(0)
    with override_settings(ROOT_URLCONF="tests.agents.both_urls", ALLOWED_HOSTS=["*"]):
        client = AgentClient(Agent.objects.get(pk=key.agent_id), key.private)
        client.poll(count=count, host=HOST, policy_number=1)
        pass_a_minute(1)
        with CaptureQueriesContext(connection) as seen:
            answer = client.poll(count=count + 1, host=HOST, policy_number=1)
    if answer.status_code != 200:
        raise RuntimeError(f"a poll was refused: {answer.content!r}")
    shown = [f"{query['sql'][:60]} ... {query['sql'].partition(' FROM ')[2][:40]}" for query in seen.captured_queries]
    return len(shown), shown


def pass_a_minute(number: int) -> None:
    """As when that many minutes are over: what policy counts is looked at again for those whose turn it is, a fifth."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE agents_agent SET policy_checked_at = now() - CASE"
            " WHEN ('x' || right(id::text, 4))::bit(16)::int %% 5 = %s THEN interval '301 seconds'"
            " ELSE interval '0' END WHERE policy_checked_at IS NOT NULL",
            [number % 5],
        )


def analyse() -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


def connections() -> int:
    """Of the service to its database now, this process's own left out."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return int(cursor.fetchone()[0])


def profiled(function: Callable[[], Any]) -> str:
    """What takes the processor's time in a function, the dearest first."""
    import cProfile
    import io
    import pstats

    profile = cProfile.Profile()
    profile.runcall(function)
    told = io.StringIO()
    pstats.Stats(profile, stream=told).sort_stats("tottime").print_stats(45)
    return told.getvalue()
