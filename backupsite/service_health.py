"""Which parts of the service work, told from what a look finds now: for operators and their monitoring.

Degraded is not down: pages, API and what is stored stay readable, and what waits runs when the part is back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from celery import current_app
from django.db.models import F
from kombu.exceptions import OperationalError

from agents.models import Node
from backups.dispatcher import due_definitions
from backups.models import Session
from backups.states import JobState
from definitions.holds import load_holds
from tenants.models import OutboxMessage

# Longer than a step of each of them takes on a busy day.
LATE_AFTER = timedelta(minutes=2)
SILENT_AFTER = timedelta(minutes=5)
_CONNECT_SECONDS = 3
OK, DEGRADED = "ok", "degraded"


@dataclass(frozen=True, slots=True)
class Part:
    """`detail` says what does not work, what comes of it, and where to look; empty while it works."""

    name: str
    detail: str = ""

    @property
    def working(self) -> bool:
        return not self.detail


def look_at_service(*, now: datetime) -> list[Part]:
    """Every part, in the order in which they depend on each other. One connection to the broker, a few indexed queries.

    The database is not among them: without it nothing is answered here, and `/readyz` says so.
    """
    return [Part(name, look(now)) for name, look in _LOOKS.items()]


def status_of(parts: list[Part]) -> str:
    return OK if all(part.working for part in parts) else DEGRADED


def _broker(now: datetime) -> str:
    try:
        with current_app.connection_for_write(connect_timeout=_CONNECT_SECONDS) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=_CONNECT_SECONDS)
    except (OperationalError, OSError):
        return "The broker does not answer. Work is kept in the database and begins, late and once, when it is back."
    return ""


def _dispatch(now: datetime) -> str:
    due = due_definitions(now, load_holds(now=now)).filter(next_run_at__lte=now - LATE_AFTER)
    oldest = due.order_by("next_run_at").values_list("next_run_at", flat=True).first()
    if oldest is None:
        return ""
    return (
        f"Definitions are due since {oldest:%Y-%m-%d %H:%M} UTC and are not dispatched. Do beat and the control worker "
        "run? Each runs late, once."
    )


def _commits(now: datetime) -> str:
    waiting = Session.objects.filter(
        job__state=JobState.RUNNING,
        job__fence=F("fence"),
        job__lease_until__lte=now,
        commit_requested_at__lte=now - LATE_AFTER,
    )
    count = waiting.count()
    return f"{count} finished backups wait to be checked in their vaults. Does the control worker run?" if count else ""


def _nodes(now: datetime) -> str:
    silent = Node.objects.exclude(status=Node.Status.MAINTENANCE).filter(last_seen_at__lte=now - SILENT_AFTER)
    names = list(silent.order_by("name").values_list("name", flat=True)[:6])
    if not names:
        return ""
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"No worker reports from: {shown}. Jobs there wait."


def _notices(now: datetime) -> str:
    late = OutboxMessage.objects.due(now - LATE_AFTER).exists()
    return (
        "Mails and webhooks are not sent. Does the worker of notices run? They are kept and sent later." if late else ""
    )


_LOOKS: dict[str, Callable[[datetime], str]] = {
    "broker": _broker,
    "dispatch": _dispatch,
    "commits": _commits,
    "nodes": _nodes,
    "notices": _notices,
}
