"""Comparisons of storages with the catalogue that people asked for: asked for when, ended when, and what was found.

Each storage is also compared every hour by itself, which nothing tells of. The audit is what remembers the others: one
record of the request, and one of the first run that began after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import F, Window
from django.db.models.functions import RowNumber

from agents.models import Storage
from tenants.audit import record
from tenants.models import AuditEvent, Person

ASKED, ENDED = "storage.compare", "storage.compared"
# Older requests say nothing of a storage that is compared every hour.
SHOWN = timedelta(days=30)
# By the names of `Tended`, with how each is said.
_WORDS = {
    "lost": "lost",
    "damaged": "of another size",
    "back": "back again",
    "strays": "unknown",
    "erased": "erased",
    "leftovers": "left over from attempts",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The newest that was asked for. `ended_at` is None until its node has ended it; `failure` says why it could not.

    `found` is a sentence; empty before the end.
    """

    asked_at: datetime
    asked_by: str
    ended_at: datetime | None = None
    found: str = ""
    failure: str = ""


def is_asked_for(storage: Storage) -> bool:
    """Somebody asked for a comparison that has not ended. Ask before the run looks at anything."""
    told = AuditEvent.objects.filter(subject_type="storage", subject_id=str(storage.pk), action__in=(ASKED, ENDED))
    return told.order_by("-pk").values_list("action", flat=True).first() == ASKED


def note_end(storage: Storage, *, tended: Any, failure: str) -> None:
    """What the run that was asked for did (a `Tended`), or why it could not look at everything."""
    outcome = AuditEvent.Outcome.FAILED if failure else AuditEvent.Outcome.DONE
    after = {**asdict(tended), **({"reason": failure} if failure else {})}
    record(action=ENDED, subject=storage, after=after, outcome=outcome)


def comparisons_of(storages: Iterable[Storage], *, person: Person, now: datetime) -> dict[UUID, Comparison]:
    """The newest that was asked for of each storage, by key, as far as the person sees its records; one statement."""
    keys = {str(storage.pk): storage.pk for storage in storages}
    told = AuditEvent.objects.for_user(person).filter(
        subject_type="storage", subject_id__in=list(keys), action__in=(ASKED, ENDED), at__gte=now - SHOWN
    )
    newest = Window(RowNumber(), partition_by=[F("subject_id"), F("action")], order_by=F("id").desc())
    events = {
        (event.subject_id, event.action): event for event in told.annotate(row=newest).filter(row=1).order_by("pk")
    }
    return {
        key: _comparison(events[text, ASKED], events.get((text, ENDED)))
        for text, key in keys.items()
        if (text, ASKED) in events
    }


def _comparison(asked: AuditEvent, ended: AuditEvent | None) -> Comparison:
    if ended is None or ended.pk < asked.pk:
        return Comparison(asked.at, asked.actor_name)
    told = ended.after or {}
    return Comparison(asked.at, asked.actor_name, ended.at, _sentence(told), str(told.get("reason", "")))


def _sentence(told: dict[str, Any]) -> str:
    counted = [f"{told[name]} {words}" for name, words in _WORDS.items() if told.get(name)]
    return ", ".join(counted) if counted else "storage and catalogue are alike"
