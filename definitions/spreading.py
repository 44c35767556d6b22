"""The act of spreading definitions over their windows, and of taking it back.

SuperAdmins spread all that follows a policy. Who may change definitions spreads those that pile up on a node: what
follows a policy over its window, what follows none over a window that he chooses.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, time
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from agents.models import Node
from common.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from definitions.models import Definition, SpreadAct
from definitions.planner import Move, pile_of, pile_proposal, proposal
from definitions.schedule import next_run
from definitions.schedule_history import keep_schedules
from tenants.audit import record, record_many
from tenants.models import Person
from tenants.roles import Action

# The window that is offered for what follows no policy: that of the product's default.
NIGHT = (time(22), time(6))


def preview_spread(*, definitions: QuerySet[Definition], actor: Person, now: datetime) -> list[Move]:
    """What `spread` would change now; changes nothing."""
    _refuse_others(actor)
    return proposal(definitions, now=now)


@transaction.atomic
def spread(*, definitions: QuerySet[Definition], actor: Person, now: datetime) -> SpreadAct:
    """Give those that follow a policy new minutes within its window. A run that is due already stays due."""
    _refuse_others(actor)
    return carry_out(proposal(definitions, now=now), actor=actor, now=now)


def movable_pile(
    *, definitions: QuerySet[Definition], node: Node, hour: int, actor: Person, now: datetime
) -> list[Definition]:
    """Those of the pile that the actor may move: a restricted policy's are the provider's. `definitions` he may edit.

    Raises InvalidInputError for an hour that no day has.
    """
    check_hour(hour)
    pile = pile_of(definitions, node=node, hour=hour, now=now)
    return [one for one in pile if actor.is_superuser or one.policy is None or not one.policy.restricted]


def check_hour(hour: int) -> None:
    if not 0 <= hour < 24:
        raise InvalidInputError("An hour is a number from 0 to 23.", field="hour")


def preview_pile(
    *,
    definitions: QuerySet[Definition],
    node: Node,
    hour: int,
    start: time,
    end: time,
    actor: Person,
    now: datetime,
) -> list[Move]:
    """What `spread_pile` would change now; changes nothing."""
    pile = movable_pile(definitions=definitions, node=node, hour=hour, actor=actor, now=now)
    return pile_proposal(pile, node=node, start=start, end=end, now=now)


@transaction.atomic
def spread_pile(
    *,
    definitions: QuerySet[Definition],
    node: Node,
    hour: int,
    start: time,
    end: time,
    actor: Person,
    now: datetime,
) -> SpreadAct:
    """Spread what starts on the node within the hour (UTC) and is of `definitions`, over policies' windows or over the
    given local times; nothing else moves. A run that is due already stays due.

    Raises ConflictError when there is nothing that the actor may move, or no better time for any of it.
    """
    moves = preview_pile(definitions=definitions, node=node, hour=hour, start=start, end=end, actor=actor, now=now)
    if not moves:
        raise ConflictError(
            f"Nothing that you may change starts on {node.name} in this hour and has a better time within the window.",
            code="nothing_to_spread",
        )
    return carry_out(moves, actor=actor, now=now)


def find_act(key: UUID | str, *, actor: Person) -> SpreadAct:
    """The spreading, for somebody who may take it back; NotFoundError for everybody else."""
    acts = SpreadAct.objects.filter(pk=key)
    found = (acts if actor.is_superuser else acts.filter(made_by=actor)).first()
    if found is None:
        raise NotFoundError("There is no such spreading.")
    return found


def carry_out(moves: list[Move], *, actor: Person, now: datetime) -> SpreadAct:
    """Set the schedules as one act, which can be taken back. The caller has seen to what the actor may move."""
    act = SpreadAct.objects.create(
        made_by=actor, moves=[[str(one.definition.pk), one.before, one.after] for one in moves]
    )
    _set_schedules([(one.definition, one.after) for one in moves], now=now)
    record(action="spread.apply", subject=act, actor=actor, tenant=None, after={"definitions": len(moves)})
    # Each tenant reads of its own in its audit.
    told = [(one.definition, {"from": one.before, "cron": one.after, "spread": str(act.pk)}) for one in moves]
    record_many(action="definition.spread", told=told)
    return act


@transaction.atomic
def undo_spread(*, act: SpreadAct, actor: Person, now: datetime) -> int:
    """Give back the schedules, except where one was changed since; returns how many. ConflictError when done twice.

    SuperAdmins take any back, others what they made themselves.
    """
    if not actor.is_superuser and act.made_by_id != actor.pk:
        raise NotAllowedError("Only who spread them, or a SuperAdmin, takes it back.")
    if not SpreadAct.objects.filter(pk=act.pk, undone_at=None).update(undone_at=now):
        raise ConflictError("This was undone already.", code="spread_undone")
    moved = {key: (before, after) for key, before, after in act.moves}
    standing = _within_reach(actor).filter(pk__in=list(moved), retired_at=None).select_related("tenant")
    back = [(one, moved[str(one.pk)][0]) for one in standing if one.cron == moved[str(one.pk)][1]]
    _set_schedules(back, now=now)
    record(action="spread.undo", subject=act, actor=actor, tenant=None, after={"definitions": len(back)})
    record_many(action="definition.unspread", told=[(one, {"cron": cron, "spread": str(act.pk)}) for one, cron in back])
    return len(back)


def _within_reach(actor: Person) -> QuerySet[Definition]:
    """What the actor may still change: he may have lost a tenant since."""
    found: QuerySet[Definition] = Definition.objects.for_user(actor, Action.EDIT)
    return found


def _set_schedules(chosen: Iterable[tuple[Definition, str]], *, now: datetime) -> None:
    rows = []
    for definition, cron in chosen:
        rows.append(definition)
        definition.cron = cron
        if definition.next_run_at is not None and definition.next_run_at > now:
            definition.next_run_at = next_run(cron=cron, time_zone=definition.time_zone, after=now)
    keep_schedules(rows, now=now)
    Definition.objects.bulk_update(rows, ["cron", "next_run_at"], batch_size=500)


def _refuse_others(actor: Person) -> None:
    if not actor.is_superuser:
        raise NotAllowedError(
            "Only a SuperAdmin spreads all definitions: they are of several tenants. Name a node and an hour."
        )
