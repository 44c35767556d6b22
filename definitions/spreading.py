"""The act of spreading definitions over their windows, and of taking it back. SuperAdmins do it."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet

from common.errors import ConflictError, NotAllowedError
from definitions.models import Definition, SpreadAct
from definitions.planner import Move, proposal
from definitions.schedule import next_run
from tenants.audit import record
from tenants.models import Person


def preview_spread(*, definitions: QuerySet[Definition], actor: Person, now: datetime) -> list[Move]:
    """What `spread` would change now; changes nothing."""
    _refuse_others(actor)
    return proposal(definitions, now=now)


@transaction.atomic
def spread(*, definitions: QuerySet[Definition], actor: Person, now: datetime) -> SpreadAct:
    """Give those that follow a policy new minutes within its window. A run that is due already stays due."""
    _refuse_others(actor)
    moves = proposal(definitions, now=now)
    act = SpreadAct.objects.create(
        made_by=actor, moves=[[str(one.definition.pk), one.before, one.after] for one in moves]
    )
    _set_schedules([(one.definition, one.after) for one in moves], now=now)
    record(action="spread.apply", subject=act, actor=actor, tenant=None, after={"definitions": len(moves)})
    return act


@transaction.atomic
def undo_spread(*, act: SpreadAct, actor: Person, now: datetime) -> int:
    """Give back the schedules, except where one was changed since; returns how many. ConflictError when done twice."""
    _refuse_others(actor)
    if not SpreadAct.objects.filter(pk=act.pk, undone_at=None).update(undone_at=now):
        raise ConflictError("This was undone already.", code="spread_undone")
    moved = {key: (before, after) for key, before, after in act.moves}
    standing = Definition.objects.filter(pk__in=list(moved), retired_at=None)
    back = [(one, moved[str(one.pk)][0]) for one in standing if one.cron == moved[str(one.pk)][1]]
    _set_schedules(back, now=now)
    record(action="spread.undo", subject=act, actor=actor, tenant=None, after={"definitions": len(back)})
    return len(back)


def _set_schedules(chosen: list[tuple[Definition, str]], *, now: datetime) -> None:
    for definition, cron in chosen:
        definition.cron = cron
        if definition.next_run_at is not None and definition.next_run_at > now:
            definition.next_run_at = next_run(cron=cron, time_zone=definition.time_zone, after=now)
    Definition.objects.bulk_update([one for one, _ in chosen], ["cron", "next_run_at"], batch_size=500)


def _refuse_others(actor: Person) -> None:
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin spreads definitions: they are of several tenants.")
