"""How well a definition protects its disk, said as it is. Pure: facts and `now` in, findings with sentences out.

A definition is protected only when nothing is found. The worst finding comes first. Nothing here trusts that the
dispatcher ran: a next run that lies in the past is a slot that was due.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from definitions.promised import Era, Span, first_promise, released_at
from definitions.schedule import next_run

# After this a run that was due and is not there is late; after a quarter of its interval more it counts as missed.
GRACE = timedelta(minutes=15)
MISSED_SHARE = 0.25
# Without a rule of its own, a definition whose last good backup is older than two intervals is stale.
STALE_INTERVALS = 2
UNVERIFIED_AFTER = timedelta(days=35)


class State(StrEnum):
    """From harmless to worst."""

    PROTECTED = "protected"
    INACTIVE = "inactive"
    HELD = "held"
    WAITING = "waiting"
    LATE = "late"
    UNVERIFIED = "unverified"
    UNLOCKED = "unlocked"
    MISSED = "missed"
    STALE = "stale"


_SEVERITY = {state: number for number, state in enumerate(State)}
# What is told to people who subscribed; the others explain themselves.
ALERTING = frozenset({State.LATE, State.UNVERIFIED, State.UNLOCKED, State.MISSED, State.STALE})


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one definition.

    `last_good_at` is when the newest backup that is ok and healthy was finished and `last_good_slot_at` the slot it was
    made for; `last_slot_at` is the newest slot that was dispatched, `next_run_at` the next one, or one that nobody
    dispatched. `locked_until` is the end of the last good backup's lock as the store has it, None without one;
    `promised_until` what it was promised; both None: it lies where there are no locks, by intent. `since` is when it
    was made. `earlier` is what it promised before its present schedule, the oldest first, and `pauses` are those of the
    time since its last good backup: neither what another schedule left out nor what a person held back was missed.
    """

    cron: str
    time_zone: str
    active: bool
    since: datetime
    next_run_at: datetime | None
    last_slot_at: datetime | None = None
    last_good_at: datetime | None = None
    last_good_slot_at: datetime | None = None
    last_verified_at: datetime | None = None
    locked_until: datetime | None = None
    promised_until: datetime | None = None
    # False when the vault's bucket was seen without Object Lock.
    vault_locks: bool = True
    held_because: str = ""
    earlier: tuple[Era, ...] = ()
    pauses: tuple[Span, ...] = ()
    # The recovery point objective; None: two intervals of the schedule.
    rpo: timedelta | None = None

    @property
    def eras(self) -> tuple[Era, ...]:
        return *self.earlier, Era(self.cron, self.time_zone, self.active, self.changed_at)

    @property
    def changed_at(self) -> datetime:
        """Since when it promises what it promises now."""
        return max((self.since, *(era.end for era in self.earlier if era.end is not None)))


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is so; `since` is when it began."""

    state: State
    sentence: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    findings: tuple[Finding, ...]

    @property
    def state(self) -> State:
        return self.findings[0].state

    @property
    def sentence(self) -> str:
        return self.findings[0].sentence

    @property
    def alerts(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.state in ALERTING)


def standing_of(facts: Facts, *, now: datetime) -> Standing:
    """What is so at `now`, the worst first; never empty."""
    found = [*_of_schedule(facts, now), *_of_age(facts, now), *_of_checks(facts, now), *_of_lock(facts, now)]
    if not found:
        found = [_protected(facts)]
    return Standing(tuple(sorted(found, key=lambda finding: -_SEVERITY[finding.state])))


def due_slot(facts: Facts, *, now: datetime) -> datetime | None:
    """The newest slot known to have been due by `now`; None while none was."""
    slots = [slot for slot in (facts.next_run_at, facts.last_slot_at) if slot is not None and slot <= now]
    return max(slots, default=None)


def interval_after(facts: Facts, slot: datetime) -> timedelta:
    """From the slot to the one after it; a year for one without."""
    following = next_run(cron=facts.cron, time_zone=facts.time_zone, after=slot)
    return following - slot if following else timedelta(days=366)


def missed_at(facts: Facts, slot: datetime) -> datetime:
    """From when on a slot without a good backup counts as missed; of one that was held, the time when that ended."""
    return slot + interval_after(facts, slot) * MISSED_SHARE + GRACE


def _of_schedule(facts: Facts, now: datetime) -> list[Finding]:
    if not facts.active:
        return [Finding(State.INACTIVE, "It is not active: nothing runs by its schedule.")]
    held = [Finding(State.HELD, facts.held_because)] if facts.held_because else []
    oldest = _oldest_open_slot(facts, now)
    could_begin = released_at(facts.pauses, oldest) if oldest is not None else None
    if oldest is None or could_begin is None or now < could_begin + GRACE:
        return held
    if now >= missed_at(facts, could_begin):
        return [*held, Finding(State.MISSED, f"The run of {_at(oldest)} has made no good backup.", oldest)]
    return [*held, Finding(State.LATE, f"The run of {_at(oldest)} has not finished yet.", oldest)]


def _oldest_open_slot(facts: Facts, now: datetime) -> datetime | None:
    """The first slot after the last good backup that was due: later ones that fail do not start the clock anew."""
    due = due_slot(facts, now=now)
    if due is None or _covers(facts, due):
        return None
    begun = max(filter(None, (facts.last_good_slot_at, facts.last_good_at, facts.since)))
    first = first_promise(facts.eras, after=begun)
    return min(first, due) if first is not None else due


def _covers(facts: Facts, slot: datetime) -> bool:
    """Whether a good backup is there of the slot, or of any time after it."""
    return any(at is not None and at >= slot for at in (facts.last_good_slot_at, facts.last_good_at))


def _of_age(facts: Facts, now: datetime) -> list[Finding]:
    if not facts.active:
        return []
    reference = facts.last_good_at or facts.since
    when = reference + facts.rpo if facts.rpo else _stale_at(facts, reference, now)
    if when is not None and now > when:
        if facts.last_good_at is None:
            return [Finding(State.STALE, f"It has no good backup, {_for(now - reference)} after it was made.", when)]
        return [Finding(State.STALE, f"Its last good backup is {_for(now - reference)} old.", when)]
    if facts.last_good_at is None:
        return [Finding(State.WAITING, "It has no good backup yet.", facts.since)]
    return []


def _stale_at(facts: Facts, reference: datetime, now: datetime) -> datetime | None:
    """Two intervals after the last good backup, as far as they were promised: from when on the schedule is the present
    one, and without what was paused. None: it is paused now.
    """
    begin = max(reference, facts.changed_at)
    for pause in sorted(facts.pauses, key=lambda span: span.begin):
        if pause.begin < now and (pause.end is None or pause.end > now):
            return None
        if pause.end is not None and pause.begin < begin + _patience(facts, begin):
            begin = max(begin, pause.end)
    return begin + _patience(facts, begin)


def _patience(facts: Facts, begin: datetime) -> timedelta:
    return interval_after(facts, begin) * STALE_INTERVALS + GRACE


def _of_checks(facts: Facts, now: datetime) -> list[Finding]:
    if facts.last_good_at is None:
        return []
    checked = facts.last_verified_at
    if checked is not None and now - checked <= UNVERIFIED_AFTER:
        return []
    if checked is None and now - facts.since <= UNVERIFIED_AFTER:
        return []
    said = f"Its last check was {_for(now - checked)} ago." if checked else "None of its backups was ever checked."
    return [Finding(State.UNVERIFIED, said, checked + UNVERIFIED_AFTER if checked else None)]


def _of_lock(facts: Facts, now: datetime) -> list[Finding]:
    """Whether the last good backup could be deleted now, or sooner than was promised. No retention removes that one."""
    if not facts.vault_locks:
        return [Finding(State.UNLOCKED, "Its vault has no lock: what is in it can be deleted.")]
    if facts.last_good_at is None:
        return []
    ends, promised = facts.locked_until, facts.promised_until
    if ends is None:
        unlocked = [Finding(State.UNLOCKED, "Its last good backup has no lock in the vault.")]
        return unlocked if promised is not None else []
    if promised is not None and ends < promised and now < promised:
        return [
            Finding(State.UNLOCKED, f"The lock of its last good backup ends at {_at(ends)}, not at {_at(promised)}.")
        ]
    # Of one that a person switched off that is what he knows: nothing new comes.
    if ends <= now and facts.active:
        return [Finding(State.UNLOCKED, f"The lock of its last good backup ended at {_at(ends)}.", ends)]
    return []


def _protected(facts: Facts) -> Finding:
    good = f"Last good backup at {_at(facts.last_good_at)}" if facts.last_good_at else "No backup is due yet"
    following = f", next run at {_at(facts.next_run_at)}" if facts.next_run_at else ""
    return Finding(State.PROTECTED, f"{good}{following}.")


def _at(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _for(time: timedelta) -> str:
    hours = int(time.total_seconds() // 3600)
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours} hours" if hours != 1 else "1 hour"
