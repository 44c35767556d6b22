"""What was promised at a time: beside an oracle that walks minute by minute, and kept by every verb that changes it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConflictError
from definitions.holds import add_blackout, end_pause, pause, remove_blackout
from definitions.hour_moves import move_to_hour
from definitions.models import BlackoutWindow, Definition, EarlierSchedule, Policy
from definitions.past_holds import past_holds
from definitions.policies import update_policy
from definitions.promised import Era, SlotTimes, Span, first_promise, released_at, slots_of
from definitions.schedule_history import eras_of
from definitions.services import Fate, delete_definition, update_definition
from definitions.spreading import undo_spread
from tenants.models import Person, Tenant
from tenants.services import resume_tenant, suspend_tenant
from tests.definitions.cron_oracle import expected, minute_of, pieces_of
from tests.factories import make_definition, make_person, make_server

# Around the change of the clock in Europe; Cairo's day of that week begins at one.
FIRST = datetime(2026, 10, 23, 12, tzinfo=UTC)
MINUTES = 4 * 24 * 60
LAST = FIRST + timedelta(minutes=MINUTES)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
CRONS = ["", "30 2 * * *", "0 * * * *", "*/45 1-3 * * *", "0 22 * * sun", "15 0 * * *"]
ZONES = ["UTC", "Europe/Berlin", "Africa/Cairo", "Asia/Kathmandu"]

moments = st.integers(0, MINUTES * 60).map(lambda seconds: FIRST + timedelta(seconds=seconds))
full_minutes = st.integers(0, MINUTES).map(lambda minutes: FIRST + timedelta(minutes=minutes))
promises = st.tuples(st.sampled_from(CRONS), st.sampled_from(ZONES), st.booleans())
changes = st.lists(st.tuples(moments | full_minutes, promises), min_size=1, max_size=6, unique_by=lambda one: one[0])


@cache
def oracle(cron: str, zone: str) -> frozenset[int]:
    return frozenset(expected(cron, pieces_of(zone, FIRST, LAST)) if cron else ())


def eras_from(history: list[tuple[datetime, tuple[str, str, bool]]]) -> list[Era]:
    """The first one is of when the definition was made."""
    ordered = sorted(history)
    ends = [*(at for at, _ in ordered[1:]), None]
    return [Era(*promise, begin, end) for (begin, promise), end in zip(ordered, ends, strict=True)]


@settings(max_examples=40, deadline=None)
@given(history=changes, asked=moments)
def test_slots_are_those_of_a_walk_minute_by_minute(
    history: list[tuple[datetime, tuple[str, str, bool]]], asked: datetime
) -> None:
    walked, waiting, standing = [], sorted(history), ("", "UTC", False)
    for minute in range(minute_of(FIRST), minute_of(LAST)):
        while waiting and waiting[0][0].timestamp() < minute * 60:
            standing = waiting.pop(0)[1]
        if minute in oracle(*standing[:2]):
            walked.append((minute, standing[2]))

    eras = eras_from(history)
    found = [(minute_of(slot.at), slot.active) for slot in slots_of(eras, SlotTimes(FIRST, LAST))]
    first = first_promise(eras, after=asked)
    later = [minute for minute, active in walked if active and minute * 60 > asked.timestamp()]

    assert found == walked
    if later:
        assert first is not None and minute_of(first) == later[0]
    else:
        assert first is None or first >= LAST


@settings(max_examples=60, deadline=None)
@given(
    spans=st.lists(st.tuples(full_minutes, st.none() | full_minutes).map(lambda ends: Span(*ends)), max_size=5),
    at=full_minutes,
)
def test_what_was_held_is_released_at_the_first_minute_that_nothing_holds(spans: list[Span], at: datetime) -> None:
    walked = at
    while walked <= LAST and any(span.covers(walked) for span in spans):
        walked += MINUTE

    assert released_at(spans, at) == (walked if walked <= LAST else None)


@pytest.fixture
def boss(db: None) -> Person:
    return make_person("boss", superadmin=True)


def kept(definition: Definition) -> list[tuple[str, str, bool, datetime | None]]:
    eras = eras_of([Definition.objects.get(pk=definition.pk)])[definition.pk]
    return [(era.cron, era.time_zone, era.active, era.end) for era in eras]


def test_every_verb_that_changes_a_schedule_keeps_what_was_promised_until_then(boss: Person) -> None:
    policy = Policy.objects.create(name="nightly", restricted=False)
    definition = make_definition(make_server(), cron="0 3 * * *", policy=policy)
    Definition.objects.filter(pk=definition.pk).update(created_at=FIRST)
    definition.refresh_from_db()
    was, ended = [("0 3 * * *", "UTC", True)], []

    def row() -> Definition:
        return Definition.objects.select_related("disk__server__node", "tenant", "vault", "policy").get(
            pk=definition.pk
        )

    def step(verb: Callable[..., Any], **options: Any) -> Any:
        """An hour after the one before; afterwards it is another promise."""
        ended.append(FIRST + (len(ended) + 1) * HOUR)
        done = verb(actor=boss, now=ended[-1], **options)
        was.append((row().cron, row().time_zone, row().active))
        return done

    step(update_definition, definition=row(), changes={"cron": "0 4 * * 1"})
    # What is no promise leaves no trace.
    update_definition(definition=row(), changes={"description": "x"}, now=ended[-1] + MINUTE, actor=boss)
    step(update_definition, definition=row(), changes={"active": False})
    again = {"active": True, "time_zone": "Asia/Kathmandu", "cron": "0 5 * * *"}
    step(update_definition, definition=row(), changes=again)
    step(update_policy, policy=policy, changes={"window_start": time(20)})
    hour = 22 if row().cron.split()[1] != "22" else 23
    moved = step(move_to_hour, hour=hour, chosen=[definition.pk])
    step(undo_spread, act=moved.act)
    step(delete_definition, definition=row(), backups=Fate.KEEP_UNTIL_AGE, days=9)

    # Retired, it promises nothing: there is no present era.
    assert kept(definition) == [(*promise, end) for promise, end in zip(was[:-1], ended, strict=True)]
    assert all(before != after for before, after in pairwise(was))
    assert set(EarlierSchedule.objects.values_list("tenant", flat=True)) == {definition.tenant_id}


def test_what_held_is_known_when_it_is_over(boss: Person) -> None:
    definition, other = make_definition(make_server()), make_definition(make_server())
    ended = pause(reason="move", now=FIRST, actor=boss, definition=definition)
    end_pause(pause=ended, now=FIRST + DAY, actor=boss)
    pause(reason="disks", now=FIRST + 2 * DAY, until=FIRST + 3 * DAY, actor=boss, node=definition.disk.server.node)
    window = add_blackout(reason="trade", start=time(9), end=time(17), actor=boss, tenant=definition.tenant)
    BlackoutWindow.objects.filter(pk=window.pk).update(created_at=FIRST)
    remove_blackout(window=window, now=FIRST + 5 * DAY, actor=boss)
    suspend_tenant(tenant=definition.tenant, actor=boss, reason="unpaid", now=FIRST + 7 * DAY)
    resume_tenant(tenant=Tenant.objects.get(pk=definition.tenant_id), actor=boss, now=FIRST + 8 * DAY)

    holds = past_holds([definition, other], begin=FIRST, end=FIRST + 9 * DAY)
    hourly = [FIRST + number * HOUR for number in range(9 * 24)]
    said = [(at, holds.words_at(definition, at)) for at in hourly]

    paused = {at for at in hourly if at - FIRST < DAY or 2 * DAY <= at - FIRST < 3 * DAY}
    assert {at for at, words in said if words in {"paused: move", "paused: disks"}} == paused
    trading = {at for at in hourly if 9 <= at.hour < 17 and at - FIRST < 5 * DAY} - paused
    assert {at for at, words in said if words == "time without backups: trade"} == trading
    assert [at for at, words in said if words == "tenant suspended"] == hourly[7 * 24 : 8 * 24]
    assert not any(holds.words_at(other, at) for at in hourly)
    with pytest.raises(ConflictError):
        remove_blackout(window=window, now=FIRST, actor=boss)
