"""Agents of the made-up fleet, the releases that they run, the orders that they came by, and what they ask for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Any, cast
from uuid import UUID

import msgspec

from agents.agent_messages import TreeFacts
from agents.models import Agent, EnrolmentToken, Release, ServerOrder, WriterKey
from backups.models import AskedRestore, Backup
from backupsite.seeding.places import Places, SeededServer
from backupsite.seeding.shape import Shape, id_at
from backupsite.seeding.writing import Table

RELEASES = 6
# One agent of so many waits, is in quarantine, was revoked, or is silent.
UNUSUAL = {"pending": 100, "quarantined": 500, "revoked": 50}
SILENT, ORDERED, ASKING = 30, 10, 100


def write_agents(shape: Shape, random: Random, places: Places) -> None:
    releases = [id_at(shape.at, random) for _ in range(RELEASES)]
    Table(Release, now=shape.at).write(
        {"id": key, "number": number, "version": f"1.{number}", "file": f"agent-{number}.pyz", "manifest": b"{}"}
        | {"signature": b"seeded", "state": "offered", "percent": 100 if number < RELEASES else 5}
        for number, key in enumerate(releases, start=1)
    )
    there = [(id_at(shape.at, random), server) for server in places.servers if server.node is None]
    Table(Agent, now=shape.at).write(
        _agent(shape, random, key, server, number, releases) for number, (key, server) in enumerate(there)
    )
    Table(WriterKey, now=shape.at).write(
        {"agent_id": key, "public_key": random.randbytes(32), "added_at": shape.at} for key, _ in there
    )
    Table(EnrolmentToken, now=shape.at).write(_token(shape, random, key, server) for key, server in there)
    Table(ServerOrder, now=shape.at).write(
        {"id": id_at(shape.at, random), "key": f"{number:064x}", "server_id": server.id, "mailed_at": shape.at}
        | {"email": f"ordered-{number}@example.org"}
        for number, (_, server) in enumerate(there[::ORDERED])
    )
    Table(AskedRestore, now=shape.at).write(_asked(shape, random, dict(there[::ASKING])))


def _agent(
    shape: Shape, random: Random, key: UUID, server: SeededServer, number: int, releases: list[UUID]
) -> dict[str, Any]:
    status = next((status for status, every in UNUSUAL.items() if number % every == every - 1), "enrolled")
    is_silent = number % SILENT == 1
    seen = shape.at - timedelta(days=random.randrange(1, 60)) if is_silent else shape.at
    release = random.randrange(RELEASES)
    return {
        "id": key,
        "server_id": server.id,
        "name": server.name,
        "status": status,
        "public_key": random.randbytes(32),
        "last_seen_at": None if status == "pending" else seen,
        "silent_since": seen if is_silent and status == "enrolled" else None,
        "version": f"1.{release + 1}",
        "release_id": releases[release],
        "release_taken": True,
        "facts": {"hostname": server.name, "system": "Debian GNU/Linux 13", "architecture": "x86_64"},
        "trees": [_tree(server.size_bytes)],
        "policy_number": 1,
        "policy_seen": 1,
    }


def _tree(size_bytes: int) -> dict[str, Any]:
    facts = TreeFacts("/", "ext4", "/dev/vda1", size_bytes, size_bytes // 3)
    return cast(dict[str, Any], msgspec.to_builtins(facts))


def _token(shape: Shape, random: Random, key: UUID, server: SeededServer) -> dict[str, Any]:
    return {
        "id": id_at(shape.at, random),
        "server_id": server.id,
        "secret_hash": random.randbytes(32).hex(),
        "expires_at": shape.at - timedelta(days=1),
        "used_at": shape.at - timedelta(days=1),
        "agent_id": key,
    }


def _asked(shape: Shape, random: Random, asking: dict[UUID, SeededServer]) -> Iterator[dict[str, Any]]:
    servers = {server.id: key for key, server in asking.items()}
    newest = Backup.objects.filter(server__in=list(servers), removed_at=None).order_by("server", "-created_at")
    found = {server: backup for backup, server in reversed(newest.values_list("pk", "server"))}
    for server, backup in found.items():
        yield {
            "id": id_at(shape.at, random),
            "agent_id": servers[server],
            "backup_id": backup,
            "target": "/srv/restored",
            "code": "ABCD-EFGH",
            "expires_at": shape.at + timedelta(days=3650),
        }
