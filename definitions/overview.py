"""Definitions with what became of them: the figures of one page, in one query beside the page itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, Max, Q

from agents.models import Node
from definitions.holds import load_holds
from definitions.honest_states import Facts, Standing, standing_of
from definitions.models import Definition
from tenants.models import Person

# By the names of the rows above, which this layer does not import.
_KEPT = Q(backups__status="ok", backups__removed_at=None)
_GOOD = _KEPT & ~Q(backups__health__in=["damaged", "missing"])


@dataclass(frozen=True, slots=True)
class OverviewRow:
    """`node` is empty for somebody who does not see nodes."""

    definition: Definition
    node: str
    backups: int
    last_good_at: datetime | None
    held_because: str
    standing: Standing


def overview_of(definitions: Iterable[Definition], *, person: Person, now: datetime) -> list[OverviewRow]:
    """One row for each, in the same order."""
    keys = [definition.pk for definition in definitions]
    figures = Definition.objects.annotate(
        kept=Count("backups", filter=_KEPT),
        good_at=Max("backups__finished_at", filter=_GOOD),
        good_slot_at=Max("backups__slot_at", filter=_GOOD),
        verified_at=Max("backups__verified_at", filter=_GOOD),
        slot_at=Max("backups__slot_at"),
    )
    found = {
        one.pk: one for one in figures.filter(pk__in=keys).select_related("disk__server__node", "tenant", "policy")
    }
    nodes = {one.disk.server.node_id for one in found.values()}
    seen = set(Node.objects.for_user(person).filter(pk__in=nodes).values_list("pk", flat=True))
    holds = load_holds(now=now)
    rows = []
    for one in (found[key] for key in keys if key in found):
        hold = holds.of(one)
        because = hold.sentence if hold else ""
        node = one.disk.server.node
        shown = node.name if node.pk in seen else ""
        standing = standing_of(_facts(one, because), now=now)
        rows.append(OverviewRow(one, shown, one.kept, one.good_at, because, standing))
    return rows


def _facts(one: Definition, held_because: str) -> Facts:
    return Facts(
        cron=one.cron,
        time_zone=one.time_zone,
        active=one.active,
        since=one.created_at,
        next_run_at=one.next_run_at,
        last_slot_at=one.slot_at,
        last_good_at=one.good_at,
        last_good_slot_at=one.good_slot_at,
        last_verified_at=one.verified_at,
        held_because=held_because,
        rpo=timedelta(hours=one.rpo_hours) if one.rpo_hours else None,
    )
