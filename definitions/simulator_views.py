"""What rules and a schedule keep on each of the next days: as a table, and as a picture that needs no script."""

from __future__ import annotations

import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from common.errors import InvalidInputError, NotFoundError
from definitions.models import Definition, Policy
from definitions.planning_forms import SimulationForm
from definitions.policies import span_days
from definitions.retention import Rules
from definitions.rule_fields import RULE_FIELDS
from definitions.simulator import SimulatedDay, simulate
from tenants.access import get_for_user
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, portal_page, show_error

# The picture, in units of its view box.
WIDTH, HEIGHT = 800, 200
_USUAL = {"cron": "0 22 * * *", "lock_days": 14, "size_gib": 100, "change_percent": 3, "days": 60}
_USUAL |= {**dict.fromkeys(RULE_FIELDS, 0), "retention_days": 14}


@dataclass(frozen=True, slots=True)
class Bar:
    """One day in the picture: what is kept at the bottom, what only locks keep above it."""

    day: date
    x: float
    width: float
    kept_y: float
    kept_height: float
    tail_y: float
    tail_height: float


@require_GET
@portal_page
def simulation(request: HttpRequest) -> HttpResponse:
    """Of what is typed, or of the `definition` or `policy` that the address names as a beginning."""
    initial = {**_USUAL, "time_zone": request.user.time_zone, **_named(request)}
    typed = "cron" in request.GET
    form = SimulationForm(request.GET if typed else initial)
    days: list[SimulatedDay] = []
    if form.is_valid():
        rules = Rules(*(form.cleaned_data[name] for name in RULE_FIELDS))
        try:
            days = simulate(rules=rules, start=timezone.now(), **form.figures())
        except InvalidInputError as error:
            show_error(form, error)
    context = {
        "form": form,
        "days": days,
        "bars": bars_of(days),
        "most_bytes": max((day.kept_bytes + day.tail_bytes for day in days), default=0),
        "width": WIDTH,
        "height": HEIGHT,
        "time_zones": sorted(zoneinfo.available_timezones()),
    }
    return render(request, "definitions/simulation.html", context, status=STATUS_WRONG_INPUT if form.errors else 200)


def bars_of(days: Sequence[SimulatedDay]) -> list[Bar]:
    """From left to right; the highest one fills the picture."""
    most = max((day.kept_bytes + day.tail_bytes for day in days), default=0) or 1
    width = WIDTH / max(len(days), 1)
    bars = []
    for number, day in enumerate(days):
        kept, tail = round(HEIGHT * day.kept_bytes / most, 1), round(HEIGHT * day.tail_bytes / most, 1)
        bars.append(
            Bar(
                day=day.day,
                x=round(number * width, 2),
                width=round(width * 0.8, 2),
                kept_y=round(HEIGHT - kept, 1),
                kept_height=kept,
                tail_y=round(HEIGHT - kept - tail, 1),
                tail_height=tail,
            )
        )
    return bars


def _named(request: HttpRequest) -> dict[str, Any]:
    """What the definition or the policy brings; 404 for one that the person does not see."""
    if key := request.GET.get("definition"):
        rows = Definition.objects.select_related("disk", "vault", "policy")
        one = get_for_user(rows, person=request.user, action=Action.VIEW, pk=_uuid(key))
        rules = {name: getattr(one, name) for name in RULE_FIELDS}
        locked = {"lock_days": one.immutable_days or one.least_lock_days}
        size = {"size_gib": round(one.disk.size_bytes / (1 << 30), 3)}
        return {"cron": one.cron, "time_zone": one.time_zone, **rules, **locked, **size}
    if key := request.GET.get("policy"):
        one = get_for_user(Policy.objects.all(), person=request.user, action=Action.VIEW, pk=_uuid(key))
        rules = {name: getattr(one, name) for name in RULE_FIELDS}
        start = {"cron": f"{one.window_start.minute} {one.window_start.hour} * * *", "time_zone": one.time_zone}
        days = span_days(one.rules) if one.lock_whole_retention else one.lock_days
        return {**start, **rules, **({"lock_days": days} if days else {})}
    return {}


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFoundError("There is nothing with this id.") from error
