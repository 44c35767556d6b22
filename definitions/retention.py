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
    """A finished backup of one definition. `slot_at` is None for one that a person started.

    One that is not healthy has damaged or missing objects: it does not count towards what is kept.
    """

    id: UUID
    created_at: datetime
    slot_at: datetime | None
    healthy: bool = True


def to_remove(*, candidates: Iterable[Candidate], keep: int) -> list[Candidate]:
    """The oldest candidates beyond `keep` per kind; 0 keeps all. Of several in one slot only the newest counts.

    What is not healthy goes only when it is older than all that is kept, and `keep` healthy ones are: until then it may
    be all that there is of its time.
    """
    if keep <= 0:
        return []
    newest_first = sorted(candidates, key=lambda candidate: (candidate.created_at, candidate.id), reverse=True)
    kinds = ([item for item in newest_first if (item.slot_at is None) == manual] for manual in (False, True))
    return [surplus for kind in kinds for surplus in _surplus(kind, keep)]


def _surplus(newest_first: list[Candidate], keep: int) -> list[Candidate]:
    """Of one kind: a manual backup is a slot of its own."""
    kept: dict[object, Candidate] = {}
    surplus: list[Candidate] = []
    for candidate in newest_first:
        slot = candidate.slot_at or candidate.id
        if candidate.healthy and len(kept) < keep and slot not in kept:
            kept[slot] = candidate
        elif candidate.healthy or len(kept) >= keep:
            surplus.append(candidate)
    return surplus
