"""What retention removes. Pure: values in, values out.

Scheduled and manual backups are counted apart, so that a hundred manual backups cannot push the good ones out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Candidate:
    """A finished, good backup of one definition. `slot_at` is None for one that a person started."""

    id: UUID
    created_at: datetime
    slot_at: datetime | None


def to_remove(*, candidates: Iterable[Candidate], keep: int) -> list[Candidate]:
    """The oldest candidates beyond `keep` per kind; 0 keeps all. Of several in one slot only the newest counts."""
    if keep <= 0:
        return []
    newest_first = sorted(candidates, key=lambda candidate: (candidate.created_at, candidate.id), reverse=True)
    scheduled: dict[datetime, list[Candidate]] = {}
    manual: list[Candidate] = []
    for candidate in newest_first:
        if candidate.slot_at is None:
            manual.append(candidate)
        else:
            scheduled.setdefault(candidate.slot_at, []).append(candidate)
    kept_slots = set(sorted(scheduled, reverse=True)[:keep])
    surplus = [extra for slot, group in scheduled.items() for extra in (group[1:] if slot in kept_slots else group)]
    return [*surplus, *manual[keep:]]
