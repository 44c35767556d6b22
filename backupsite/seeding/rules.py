"""What the made-up fleet's definitions are held to: policies, pauses, windows without backups, budgets, standings."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import time, timedelta
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

from backups.models import Budget, DefinitionStanding
from backupsite.seeding.shape import Shape, id_at
from backupsite.seeding.writing import Table
from definitions.honest_states import State
from definitions.models import BlackoutWindow, DefinitionPause, Policy, PolicyAssignment

if TYPE_CHECKING:
    from backupsite.seeding.places import Places

POLICIES = 12
# Of each hundred definitions so many are in the state; the others are protected.
STANDINGS = {State.LATE: 3, State.MISSED: 2, State.STALE: 3, State.UNVERIFIED: 5, State.UNLOCKED: 1, State.WAITING: 2}
# One of so many tenants, or nodes, has a rule of its own.
RULED = 25


def write_policies(shape: Shape, random: Random, regions: list[str]) -> list[UUID]:
    keys = [id_at(shape.at, random) for _ in range(POLICIES)]
    Table(Policy, now=shape.at).write({"id": key, "name": f"nights-{number}"} for number, key in enumerate(keys))
    Table(PolicyAssignment, now=shape.at).write(
        {"policy_id": key, "region_id": region} for key, region in zip(keys, regions, strict=False)
    )
    return keys


def write_rules(shape: Shape, random: Random, places: Places) -> None:
    Table(PolicyAssignment, now=shape.at).write(
        {"policy_id": places.policies[0], "tenant_id": tenant} for tenant in places.tenants[::RULED]
    )
    Table(BlackoutWindow, now=shape.at).write(
        {"id": id_at(shape.at, random), "tenant_id": tenant, "reason": "month's end", "start": time(3), "end": time(4)}
        for tenant in places.tenants[::RULED]
    )
    Table(Budget, now=shape.at).write(
        {"id": id_at(shape.at, random), "kind": "node", "node_id": node, "most_jobs": 4}
        for node in places.nodes[::RULED]
    )
    Table(DefinitionPause, now=shape.at).write(_pauses(shape, random, places))
    Table(DefinitionStanding, now=shape.at).write(_standings(shape, random, places))


def _pauses(shape: Shape, random: Random, places: Places) -> Iterator[dict[str, Any]]:
    """Of one definition in five hundred; each second is over."""
    defined = [server for server in places.servers if server.definition]
    for number, server in enumerate(defined[::500]):
        yield {
            "id": id_at(shape.at, random),
            "definition_id": server.definition,
            "tenant_id": places.tenants[server.tenant],
            "reason": "the disk is moved",
            "starts_at": shape.at - timedelta(days=2),
            "ended_at": shape.at - timedelta(days=1) if number % 2 else None,
        }


def _standings(shape: Shape, random: Random, places: Places) -> Iterator[dict[str, Any]]:
    states = [state for state, percent in STANDINGS.items() for _ in range(percent)]
    states += [State.PROTECTED] * (100 - len(states))
    for server in places.servers:
        if server.definition:
            yield {
                "definition_id": server.definition,
                "state": str(random.choice(states)),
                "sentence": "As it was found when it was looked at.",
                "looked_at": shape.at,
                "look_again_at": shape.at + timedelta(hours=random.randrange(1, 24)),
            }
