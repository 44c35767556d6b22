"""The page that shows what rules and a lock keep on each of the next days."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any

import pytest

from definitions.models import Definition, Policy
from definitions.retention import Reason
from definitions.simulator import Kept, SimulatedDay
from definitions.simulator_views import HEIGHT, WIDTH, bars_of
from tests.worlds import World

PAGE = "/definitions/simulation/"
TYPED: dict[str, Any] = {
    "cron": "0 1 * * *",
    "time_zone": "Europe/Berlin",
    "retention_count": 3,
    "keep_weekly": 2,
    "lock_days": 14,
    "size_gib": 10,
    "change_percent": 10,
    "days": 40,
}


def test_each_day_is_a_row_and_a_bar_with_its_backups_bytes_and_reasons(world: World) -> None:
    answer = world.client("owner_a1").get(PAGE, TYPED)

    text, days = answer.content.decode(), answer.context["days"]
    assert (answer.status_code, len(days), len(answer.context["bars"])) == (200, 40, 40)
    assert text.count('<rect class="sim-kept"') == text.count('<rect class="sim-tail"') == 40
    # Today there may have been no run yet.
    assert text.count("count, weekly, last good") >= 39
    last = days[-1]
    assert f'<td class="text-nowrap">{last.day:%Y-%m-%d}</td>' in text
    # Ten a day away: the three newest, and the newest of last week; what was removed within 14 days is locked still.
    assert last.tail_count > 0 < last.tail_bytes and last.kept_bytes > 10 << 30
    assert len(last.kept) in {3, 4}
    # Nothing that the policy of the pages' content would not let through.
    assert not re.search(r"\sstyle=|<script(?![^>]*\ssrc=)|\son\w+=", text)


def test_it_begins_with_what_a_definition_or_a_policy_gives(world: World) -> None:
    Definition.objects.filter(pk=world.ours.definition.pk).update(
        cron="7 3 * * *", time_zone="Asia/Tokyo", immutable_days=21, retention_count=5
    )
    Policy.objects.filter(pk=world.ours.policy.pk).update(
        window_start="23:30", retention_days=30, lock_days=None, lock_whole_retention=True
    )

    def begun(query: str) -> dict[str, Any]:
        answer = world.client("admin_a").get(f"{PAGE}?{query}")
        assert answer.status_code == 200 and answer.context["days"]
        return dict(answer.context["form"].data)

    one, policy = begun(f"definition={world.ours.definition.pk}"), begun(f"policy={world.ours.policy.pk}")

    assert (one["cron"], one["time_zone"], one["lock_days"], one["retention_count"]) == (
        *("7 3 * * *", "Asia/Tokyo"),
        *(21, 5),
    )
    assert one["size_gib"] == 1
    assert (policy["cron"], policy["lock_days"], policy["retention_days"]) == ("30 23 * * *", 30, 30)


@pytest.mark.parametrize("query", ["definition={0}", "policy={1}", "definition=x", "policy={0}"])
def test_what_is_not_seen_is_no_beginning(world: World, query: str) -> None:
    address = query.format(world.theirs.definition.pk, world.theirs.policy.pk)

    assert world.client("admin_a").get(f"{PAGE}?{address}").status_code == 404


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"cron": "0 25 * * *"}, "cannot be"),
        ({"time_zone": "Mars/Olympus"}, "is not a time zone"),
        ({"cron": "* * * * *", "days": 800}, "more than 10000 runs"),
        ({"days": 801}, "800"),
        ({"size_gib": ""}, "required"),
    ],
)
def test_what_cannot_be_is_said_where_it_was_typed(world: World, wrong: dict[str, Any], said: str) -> None:
    answer = world.client("owner_a1").get(PAGE, {**TYPED, **wrong})

    assert answer.status_code == 400
    assert said in answer.content.decode() and not answer.context["days"]
    assert next(iter(answer.context["form"].errors)) in {*wrong, "__all__"}


def test_the_highest_day_fills_the_picture_and_bars_stand_on_each_other() -> None:
    kept = (Kept(datetime(2026, 1, 14, tzinfo=UTC), (Reason.COUNT,)),)
    days = [SimulatedDay(date(2026, 1, 14), kept, 300, 100, 1), SimulatedDay(date(2026, 1, 15), kept, 100, 0, 0)]

    first, second = bars_of(days)

    assert (first.tail_y, first.tail_height, first.kept_y, first.kept_height) == (0, HEIGHT / 4, HEIGHT / 4, 150)
    assert (second.kept_y, second.kept_height, second.tail_height) == (HEIGHT - 50, 50, 0)
    assert second.x == WIDTH / 2 and first.width < WIDTH / 2
    assert bars_of([]) == []
