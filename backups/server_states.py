"""How well a server is protected: the worst of what was found of its active definitions, of many servers at once.

The findings are those that `alerting` keeps (`DefinitionStanding`), so that a list of many servers can be filtered by
them. Each server is in exactly one state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.db.models import Case, Exists, IntegerField, Max, OuterRef, Q, Subquery, When

from definitions.honest_states import State
from definitions.models import Definition


class ServerState(StrEnum):
    """From harmless to worst; `waiting`: nothing was found yet, or there is no good backup yet."""

    PROTECTED = "protected"
    HELD = "held"
    WAITING = "waiting"
    LATE = "late"
    UNVERIFIED = "unverified"
    UNLOCKED = "unlocked"
    FAILED = "failed"
    # No definition is active.
    UNPROTECTED = "unprotected"


# What of a definition makes what of its server. `missed` and `stale`: there is no good backup where one should be.
_OF_DEFINITION = {
    State.PROTECTED: ServerState.PROTECTED,
    State.HELD: ServerState.HELD,
    State.WAITING: ServerState.WAITING,
    # Not looked at again since it was made active.
    State.INACTIVE: ServerState.WAITING,
    State.LATE: ServerState.LATE,
    State.UNVERIFIED: ServerState.UNVERIFIED,
    State.UNLOCKED: ServerState.UNLOCKED,
    State.MISSED: ServerState.FAILED,
    State.STALE: ServerState.FAILED,
}
_SEVERITY = {state: number for number, state in enumerate(ServerState)}


def states_of(servers: Iterable[UUID]) -> dict[UUID, ServerState]:
    """The state of each of the servers, by key; in one query."""
    keys = list(servers)
    found = dict.fromkeys(keys, ServerState.UNPROTECTED)
    rows = _active().filter(disk__server__in=keys).order_by().values_list("disk__server", "standing__state")
    for server, standing in rows:
        state = _state(standing)
        before = found[server]
        if before == ServerState.UNPROTECTED or _SEVERITY[state] > _SEVERITY[before]:
            found[server] = state
    return found


def in_state(servers: Any, state: str) -> Any:
    """Those of the servers that are in the state."""
    wanted = ServerState(state)
    if wanted == ServerState.UNPROTECTED:
        return servers.exclude(Exists(_active().filter(disk__server=OuterRef("pk"))))
    own = _active().filter(disk__server=OuterRef("pk")).order_by().values("disk__server")
    # As a value of each server: what is not to be there a database would look up for all servers first.
    found = servers.filter(_with(wanted)).alias(worst_state=Subquery(own.annotate(worst=_worst()).values("worst")))
    return found.filter(worst_state__lte=_SEVERITY[wanted])


def _with(state: ServerState) -> Q:
    """The servers of active definitions of which any of this was found.

    Asked server by server, so that a page of them in their order reads no others. What nobody looked at is asked for
    by itself: in an OR with what was found all definitions would be read.
    """
    meant = [str(found) for found, of_server in _OF_DEFINITION.items() if of_server == state]
    active = _active().filter(disk__server=OuterRef("pk"))
    found = Q(Exists(active.filter(standing__state__in=meant)))
    if state != ServerState.WAITING:
        return found
    return found | Q(Exists(active.filter(standing=None)))


def _worst() -> Max:
    whens = [When(standing__state=str(found), then=_SEVERITY[state]) for found, state in _OF_DEFINITION.items()]
    return Max(Case(*whens, default=_SEVERITY[ServerState.WAITING], output_field=IntegerField()))


def _state(standing: str | None) -> ServerState:
    return ServerState.WAITING if standing is None else _OF_DEFINITION[State(standing)]


def _active() -> Any:
    return Definition.objects.filter(active=True, retired_at=None)


def count_states(definitions: Any, *, found_only: bool = False) -> dict[ServerState, int]:
    """How many servers of these definitions are in which state; those without an active one are not among them.

    With `found_only` an index leads past what is fine: `protected` is not counted then, nor what nobody looked at yet.
    """
    rows = definitions.filter(active=True, retired_at=None)
    if found_only:
        rows = rows.exclude(standing=None).exclude(standing__state__in=[State.PROTECTED, State.INACTIVE])
    found = Counter(rows.order_by().values("disk__server").annotate(worst=_worst()).values_list("worst", flat=True))
    left_out = {ServerState.UNPROTECTED, *([ServerState.PROTECTED] if found_only else [])}
    return {state: found[number] for state, number in _SEVERITY.items() if state not in left_out}
