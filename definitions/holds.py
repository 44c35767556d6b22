"""Whether a definition may start by its schedule now, and what keeps it. A manual backup is never held.

`load_holds` reads what stands once; asking it about many definitions then costs no query. `is_held` asks about one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import transaction
from django.db.models import Q

from agents.models import Node
from common.errors import ConflictError, InvalidInputError, NotAllowedError
from definitions.models import BlackoutWindow, Definition, DefinitionPause
from definitions.schedule import check_time_zone
from tenants.audit import record
from tenants.models import Person, Tenant

FLEET = "fleet"


@dataclass(frozen=True, slots=True)
class Hold:
    """Why nothing starts. `scope` is definition, node, tenant or fleet; `until` None: until a person ends it."""

    kind: str
    scope: str
    reason: str
    until: datetime | None

    @property
    def sentence(self) -> str:
        end = f" until {self.until.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if self.until else ""
        whose = {"definition": "The definition", "node": "The node", "tenant": "The tenant"}.get(self.scope, "All")
        verb = "is paused" if self.kind == "pause" else "has no backups at this time"
        return f"{whose} {verb.replace('has', 'have') if whose == 'All' else verb}{end}: {self.reason}"


class Holds:
    """What stands at a moment, by what it is on."""

    def __init__(self, standing: Iterable[tuple[tuple[str, UUID | None], Hold]]) -> None:
        self._by_target: dict[tuple[str, UUID | None], Hold] = {}
        for target, hold in standing:
            known = self._by_target.get(target)
            if known is None or _end(hold) > _end(known):
                self._by_target[target] = hold

    @property
    def targets(self) -> set[tuple[str, UUID | None]]:
        """Scope and key of everything that is held; of the fleet there is no key."""
        return set(self._by_target)

    def of(self, definition: Definition) -> Hold | None:
        """The hold that ends last. `definition.disk.server` must be loaded."""
        server = definition.disk.server
        targets = (("definition", definition.pk), ("node", server.node_id), ("tenant", definition.tenant_id))
        found = [self._by_target[target] for target in (*targets, (FLEET, None)) if target in self._by_target]
        return max(found, key=_end, default=None)


def load_holds(*, now: datetime, of: Definition | None = None) -> Holds:
    """Everything that holds anything at `now`, or all that can hold this definition: two queries."""
    own = Q()
    if of is not None:
        own = (Q(tenant=None) | Q(tenant=of.tenant_id)) & (Q(node=None) | Q(node=of.disk.server.node_id))
    pauses = DefinitionPause.objects.filter(own, Q(until=None) | Q(until__gt=now), ended_at=None, starts_at__lte=now)
    standing = [(target_of(one), Hold("pause", target_of(one)[0], one.reason, one.until)) for one in pauses]
    for window in BlackoutWindow.objects.standing().filter(own):
        end = ends_at(window, now=now)
        if end is not None:
            target = target_of(window)
            standing.append((target, Hold("blackout", target[0], window.reason, end)))
    return Holds(standing)


def is_held(definition: Definition, now: datetime) -> Hold | None:
    """What keeps the definition from starting by schedule at `now`; None: nothing."""
    return load_holds(now=now, of=definition).of(definition)


def ends_at(window: BlackoutWindow, *, now: datetime) -> datetime | None:
    """When the window that `now` is in ends; None when it is in none. Local times are right across DST."""
    zone = ZoneInfo(window.time_zone)
    today = now.astimezone(zone).date()
    for day in (today - timedelta(days=1), today):
        if str(day.isoweekday()) in window.weekdays:
            start = _moment(day, window.start, zone)
            last_day = day if window.end > window.start else day + timedelta(days=1)
            end = _moment(last_day, window.end, zone)
            if start <= now < end:
                return end
    return None


@transaction.atomic
def pause(
    *,
    reason: str,
    now: datetime,
    actor: Person,
    definition: Definition | None = None,
    node: Node | None = None,
    tenant: Tenant | None = None,
    until: datetime | None = None,
) -> DefinitionPause:
    """Let nothing start by schedule: of the one that is named, or of the whole fleet. Jobs that run go on.

    Raises NotAllowedError for a node or the fleet unless a SuperAdmin asks, InvalidInputError for an end that is past.
    """
    if sum(target is not None for target in (definition, node, tenant)) > 1:
        raise InvalidInputError("Name a definition, a node or a tenant, not several.", field="definition")
    if definition is None and tenant is None and not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin pauses a node or the whole fleet.")
    if not reason.strip():
        raise InvalidInputError("Say why, so that others know when it can be ended.", field="reason")
    if until is not None and until <= now:
        raise InvalidInputError("The end is in the past.", field="until")
    owner = definition.tenant if definition else tenant
    made = DefinitionPause.objects.create(
        definition=definition,
        node=node,
        tenant=owner,
        reason=reason.strip()[:200],
        starts_at=now,
        until=until,
        paused_by=actor,
    )
    after = {"reason": made.reason, "until": until.isoformat() if until else None}
    record(action="pause.start", subject=definition or node or tenant or made, actor=actor, tenant=owner, after=after)
    return made


@transaction.atomic
def end_pause(*, pause: DefinitionPause, now: datetime, actor: Person) -> None:
    """Let it start again; what was due meanwhile runs once. Raises ConflictError for one that ended before."""
    ended = DefinitionPause.objects.filter(pk=pause.pk, ended_at=None).update(ended_at=now)
    if not ended:
        raise ConflictError("The pause was ended already.", code="pause_ended")
    subject = pause.definition or pause.node or pause.tenant or pause
    record(action="pause.end", subject=subject, actor=actor, tenant=pause.tenant, after={"reason": pause.reason})


@transaction.atomic
def add_blackout(
    *,
    reason: str,
    start: time,
    end: time,
    actor: Person,
    time_zone: str = "UTC",
    weekdays: str = "1234567",
    node: Node | None = None,
    tenant: Tenant | None = None,
) -> BlackoutWindow:
    """A time of day without scheduled starts. Of a tenant by its administrators, otherwise by SuperAdmins only."""
    if tenant is None and not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin sets times without backups for a node or the whole fleet.")
    if node is not None and tenant is not None:
        raise InvalidInputError("Name a node or a tenant, not both.", field="node")
    if not reason.strip():
        raise InvalidInputError("Say why nothing may start then.", field="reason")
    if not weekdays or not set(weekdays) <= set("1234567") or len(set(weekdays)) != len(weekdays):
        raise InvalidInputError("Weekdays are digits from 1 (Monday) to 7 (Sunday), each once.", field="weekdays")
    made = BlackoutWindow.objects.create(
        node=node,
        tenant=tenant,
        reason=reason.strip()[:200],
        start=start,
        end=end,
        time_zone=check_time_zone(time_zone),
        weekdays="".join(sorted(weekdays)),
    )
    after = {"reason": made.reason, "start": f"{start:%H:%M}", "end": f"{end:%H:%M}", "zone": time_zone}
    record(action="blackout.create", subject=node or tenant or made, actor=actor, tenant=tenant, after=after)
    return made


@transaction.atomic
def remove_blackout(*, window: BlackoutWindow, now: datetime, actor: Person) -> None:
    """It holds nothing from now on. Raises ConflictError for one that was removed before."""
    if not BlackoutWindow.objects.standing().filter(pk=window.pk).update(removed_at=now):
        raise ConflictError("This time without backups was removed already.", code="blackout_removed")
    before = {"reason": window.reason, "start": f"{window.start:%H:%M}", "end": f"{window.end:%H:%M}"}
    subject = window.node or window.tenant or window
    record(action="blackout.delete", subject=subject, actor=actor, tenant=window.tenant, before=before)


def target_of(hold: DefinitionPause | BlackoutWindow) -> tuple[str, UUID | None]:
    """Scope and key: the narrowest of what it names counts; without any it is for the whole fleet."""
    if getattr(hold, "definition_id", None):
        return "definition", hold.definition_id
    if hold.node_id:
        return "node", hold.node_id
    return ("tenant", hold.tenant_id) if hold.tenant_id else (FLEET, None)


def _end(hold: Hold) -> datetime:
    return hold.until or datetime.max.replace(tzinfo=UTC)


def _moment(day: date, at: time, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, at, tzinfo=zone).astimezone(UTC)
