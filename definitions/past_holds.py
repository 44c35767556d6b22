"""What kept definitions from starting at times that are over: pauses, times without backups, suspended tenants.

`past_holds` reads what stood within a stretch of time; asking it then costs no query.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from django.db.models import Q

from definitions.holds import FLEET, ends_at, target_of
from definitions.models import BlackoutWindow, Definition, DefinitionPause
from definitions.promised import Span
from tenants.models import Tenant

_Target = tuple[str, UUID | None]
_SINCE_EVER = datetime.min.replace(tzinfo=UTC)
_RESTING = {str(status) for status in Tenant.Status if status != Tenant.Status.ACTIVE}
PAUSED, BLACKOUT, SUSPENDED = "paused", "time without backups", "tenant suspended"


class PastHolds:
    """By what they were on: pauses and suspensions as spans with their words, and windows of a day."""

    def __init__(self) -> None:
        self._spans: dict[_Target, list[tuple[Span, str]]] = defaultdict(list)
        self._windows: dict[_Target, list[BlackoutWindow]] = defaultdict(list)
        self._covered: dict[tuple[UUID, datetime], bool] = {}

    def add(self, target: _Target, span: Span, words: str) -> None:
        self._spans[target].append((span, words))

    def add_window(self, target: _Target, window: BlackoutWindow) -> None:
        self._windows[target].append(window)

    def words_at(self, definition: Definition, at: datetime) -> str:
        """What held it at the moment, empty for nothing. `definition.disk.server` must be loaded."""
        targets = _targets_of(definition)
        spans = (words for target in targets for span, words in self._spans.get(target, ()) if span.covers(at))
        windows = (window for target in targets for window in self._windows.get(target, ()))
        said = next(spans, "")
        if said:
            return said
        return next((f"{BLACKOUT}: {window.reason}" for window in windows if self._is_in(window, at)), "")

    def spans_of(self, definition: Definition) -> tuple[Span, ...]:
        """Pauses and suspensions."""
        return tuple(span for target in _targets_of(definition) for span, _ in self._spans.get(target, ()))

    def _is_in(self, window: BlackoutWindow, at: datetime) -> bool:
        key = (window.pk, at)
        if key not in self._covered:
            stood = window.created_at <= at and (window.removed_at is None or at < window.removed_at)
            self._covered[key] = stood and ends_at(window, now=at) is not None
        return self._covered[key]


def past_holds(definitions: Iterable[Definition], *, begin: datetime, end: datetime) -> PastHolds:
    """All that held any of them between the moments; three queries."""
    tenants = {one.tenant_id for one in definitions}
    of_any, found = Q(tenant=None) | Q(tenant__in=tenants), PastHolds()
    over = Q(ended_at__lte=begin) | Q(until__lte=begin)
    for pause in DefinitionPause.objects.filter(of_any, starts_at__lt=end).exclude(over):
        ends = [at for at in (pause.ended_at, pause.until) if at is not None]
        found.add(target_of(pause), Span(pause.starts_at, min(ends, default=None)), f"{PAUSED}: {pause.reason}")
    gone = Q(removed_at__lte=begin)
    for window in BlackoutWindow.objects.filter(of_any, created_at__lt=end).exclude(gone):
        found.add_window(target_of(window), window)
    for tenant, span in _suspensions(tenants):
        found.add(("tenant", tenant), span, SUSPENDED)
    return found


def _suspensions(tenants: Iterable[UUID]) -> list[tuple[UUID, Span]]:
    """By the events of their status. One that is not active, of which no event says since when, never was."""
    begun: dict[UUID, datetime] = {}
    spans, resting = [], set()
    rows = Tenant.objects.filter(pk__in=tenants).order_by("events__pk")
    for tenant, status, at, code in rows.values_list("pk", "status", "events__at", "events__code"):
        if status != Tenant.Status.ACTIVE:
            resting.add(tenant)
        if code in _RESTING:
            begun.setdefault(tenant, at)
        elif code == Tenant.Status.ACTIVE and tenant in begun:
            spans.append((tenant, Span(begun.pop(tenant), at)))
    return [*spans, *((tenant, Span(begun.get(tenant, _SINCE_EVER))) for tenant in resting)]


def _targets_of(definition: Definition) -> Sequence[_Target]:
    node = definition.disk.server.node_id
    own: list[_Target] = [("definition", definition.pk), ("tenant", definition.tenant_id), (FLEET, None)]
    return [*own, ("node", node)] if node is not None else own
