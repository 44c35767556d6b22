"""Definitions with what became of them: the figures of one page, in a few queries beside the page itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Count

from agents.models import Node
from backups.models import Backup
from backups.standing import standings_of
from backups.states import BackupStatus
from definitions.honest_states import Facts, Standing
from definitions.models import Definition
from tenants.models import Person


@dataclass(frozen=True, slots=True)
class OverviewRow:
    """`node` is empty for somebody who does not see nodes; `backups` are the good ones of the catalogue."""

    definition: Definition
    node: str
    backups: int
    facts: Facts
    standing: Standing


def overview_of(definitions: Iterable[Definition], *, person: Person, now: datetime) -> list[OverviewRow]:
    """One row for each, in the same order."""
    keys = [definition.pk for definition in definitions]
    rows = Definition.objects.select_related("disk__server__node", "tenant", "policy", "vault").in_bulk(keys)
    chosen = [rows[key] for key in keys if key in rows]
    standings, kept = standings_of(chosen, now=now), _kept(keys)
    nodes = {one.disk.server.node_id for one in chosen}
    seen = set(Node.objects.for_user(person).filter(pk__in=nodes).values_list("pk", flat=True))
    return [
        OverviewRow(
            definition=one,
            node=one.disk.server.node.name
            if one.disk.server.node is not None and one.disk.server.node_id in seen
            else "",
            backups=kept.get(one.pk, 0),
            facts=standings[one.pk][0],
            standing=standings[one.pk][1],
        )
        for one in chosen
    ]


def _kept(keys: list[UUID]) -> dict[UUID, int]:
    good = Backup.objects.in_catalogue().filter(definition__in=keys, status=BackupStatus.OK).order_by()
    return dict(good.values_list("definition").annotate(count=Count("pk")))
