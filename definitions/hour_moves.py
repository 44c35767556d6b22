"""Moving definitions into an hour of the UTC day: what would move, what it does to the load, and the act itself.

One service for the portal and the API. What was moved is taken back as what was spread is (`spreading.undo_spread`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from django.db import transaction

from agents.models import Node
from common.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from definitions.models import Definition, SpreadAct
from definitions.planner import HourChange, Move, hour_proposal, load_with_moves, out_of_window, runs_daily
from definitions.spreading import carry_out, check_hour, movable_pile
from tenants.models import Person
from tenants.roles import Action

MOST_CHOSEN = 500
_ROWS = ("disk__server__node", "policy", "tenant")


@dataclass(frozen=True, slots=True)
class HourMove:
    """What moves, and the planned load of the nodes before and after it, by the definitions that the actor sees.

    `act` is None for a preview.
    """

    moves: list[Move]
    loads: list[HourChange]
    act: SpreadAct | None = None


def preview_move(
    *,
    hour: int,
    actor: Person,
    now: datetime,
    chosen: Collection[UUID] | None = None,
    node: Node | None = None,
    from_hour: int | None = None,
) -> HourMove:
    """What `move_to_hour` would do now; changes nothing. Raises what it raises."""
    check_hour(hour)
    if chosen is not None:
        found = _chosen(chosen, node, actor)
    elif node is not None and from_hour is not None:
        own = Definition.objects.for_user(actor, Action.EDIT)
        found = movable_pile(definitions=own, node=node, hour=from_hour, actor=actor, now=now)
    else:
        raise InvalidInputError("Name definitions, or a node and the hour that they start in now.", field="definitions")
    moves = hour_proposal(found, hour=hour, now=now)
    _refuse_outside(moves)
    if not moves:
        raise ConflictError("None is there that could be moved, or they start in this hour.", code="nothing_to_spread")
    return HourMove(moves, load_with_moves(Definition.objects.for_user(actor), moves, now=now))


@transaction.atomic
def move_to_hour(
    *,
    hour: int,
    actor: Person,
    now: datetime,
    chosen: Collection[UUID] | None = None,
    node: Node | None = None,
    from_hour: int | None = None,
) -> HourMove:
    """Let the chosen definitions (with a node: of that node), or what the actor may move of the hour `from_hour` of the
    node, start in this hour (UTC); each gets the minute with the least load there. A run that is due already stays due.

    Raises InvalidInputError when none was chosen or one does not run once a day, NotFoundError and NotAllowedError for
    what the actor does not see or may not move, ConflictError when a policy's window has no such time, or nothing would
    change. Then nothing is moved.
    """
    planned = preview_move(hour=hour, actor=actor, now=now, chosen=chosen, node=node, from_hour=from_hour)
    return replace(planned, act=carry_out(planned.moves, actor=actor, now=now))


def _chosen(keys: Collection[UUID], node: Node | None, actor: Person) -> list[Definition]:
    wanted = set(keys)
    if not wanted or len(wanted) > MOST_CHOSEN:
        raise InvalidInputError(
            f"Choose at least one definition that may be moved, and {MOST_CHOSEN} at most.",
            code="none_chosen",
            field="definitions",
        )
    seen = Definition.objects.for_user(actor).filter(pk__in=wanted)
    if node is not None:
        seen = seen.filter(disk__server__node=node)
    found = list(seen.select_related(*_ROWS).order_by("pk"))
    if len(found) < len(wanted):
        raise NotFoundError("There is no such definition.")
    may_edit = set(Definition.objects.for_user(actor, Action.EDIT).filter(pk__in=wanted).values_list("pk", flat=True))
    if may_edit != wanted:
        raise NotAllowedError("Your role may look at these definitions but not move them.")
    if any(one.policy is not None and one.policy.restricted for one in found) and not actor.is_superuser:
        raise NotAllowedError("What follows a restricted policy is moved by your provider.")
    if others := [one.name for one in found if not one.active or not runs_daily(one)]:
        raise InvalidInputError(
            f"{', '.join(others[:5])}: only what is active and runs once a day can be moved to an hour.",
            code="not_daily",
            field="definitions",
        )
    return found


def _refuse_outside(moves: list[Move]) -> None:
    if outside := [move.definition.name for move in moves if out_of_window(move)]:
        raise ConflictError(
            f"{', '.join(outside[:5])}: the window of the policy has no such time. Choose another hour.",
            code="outside_of_window",
        )
