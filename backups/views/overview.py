"""Parts of the first page that are loaded into it, so that it comes at once: the last days, and where vaults are.

Each is a page of its own for a browser without JavaScript.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_GET

from backups.days import Day, days_of
from backups.lock_tails import LockTail, tail_of
from backups.placement import placements_of
from tenants.views import portal_page


@require_GET
@portal_page
def overview_days(request: HttpRequest) -> HttpResponse:
    """The calendar, the growth and the lock tail."""
    now = timezone.now()
    found, tail = days_of(request.user, now=now), tail_of(request.user, now=now)
    context = {
        "found": found,
        "days": found.days,
        "has_runs": any(day.run_count or day.held_count for day in found.days),
        "growth": _growth(found.days),
        "tail": tail,
        "still_locked": tail.still_locked(),
        "tail_chart": _tail_chart(tail, now.date()),
    }
    return _part(request, "days", context)


@require_GET
@portal_page
def overview_places(request: HttpRequest) -> HttpResponse:
    """Vaults by region, beside the servers whose backups belong there."""
    return _part(request, "places", {"placements": placements_of(request.user)})


def _part(request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
    template = f"dashboard/_{name}.html" if request.htmx else f"dashboard/{name}.html"
    answer = render(request, template, context)
    patch_vary_headers(answer, ["HX-Request"])
    return answer


def _growth(days: Iterable[Day]) -> dict[str, Any]:
    counted = [day for day in days if day.total_bytes is not None]
    return _chart(((day.day, day.total_bytes) for day in counted), "Stored")


def _tail_chart(tail: LockTail, today: date) -> dict[str, Any]:
    """Steps, for between two ends nothing is unlocked; to the day after the last one, so that its step is seen."""
    left = tail.still_locked()
    points = [(today, tail.locked_bytes), *left, (left[-1][0] + timedelta(days=1), 0)] if left else []
    return _chart(points, "Still locked", kind="steps")


def _chart(points: Iterable[tuple[date, int | None]], label: str, *, kind: str = "area") -> dict[str, Any]:
    """For charts.js, which says what kinds there are; days as dates."""
    found = list(points)
    return {
        "kind": kind,
        "unit": "bytes",
        "days": [day.isoformat() for day, _ in found],
        "series": [{"label": label, "values": [value for _, value in found]}],
    }
