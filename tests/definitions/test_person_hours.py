"""The planned day by the clock of who looks."""

from __future__ import annotations

from datetime import date

import pytest

from definitions.person_hours import PersonDay
from definitions.spread import PileUp

WINTER, SUMMER = date(2026, 1, 14), date(2026, 7, 15)


@pytest.mark.parametrize(
    ("zone", "on", "first", "offset", "of_22"),
    [
        ("UTC", WINTER, (0, "00:00"), "UTC+00:00", ("22:00", "22:59")),
        ("Asia/Kolkata", WINTER, (19, "00:30"), "UTC+05:30", ("03:30", "04:29")),
        ("Asia/Kathmandu", WINTER, (19, "00:45"), "UTC+05:45", ("03:45", "04:44")),
        ("America/St_Johns", SUMMER, (3, "00:30"), "UTC-02:30", ("19:30", "20:29")),
        ("America/New_York", WINTER, (5, "00:00"), "UTC-05:00", ("17:00", "17:59")),
        ("America/New_York", SUMMER, (4, "00:00"), "UTC-04:00", ("18:00", "18:59")),
        ("Europe/Berlin", WINTER, (23, "00:00"), "UTC+01:00", ("23:00", "23:59")),
        ("Europe/Berlin", SUMMER, (22, "00:00"), "UTC+02:00", ("00:00", "00:59")),
        ("Pacific/Kiritimati", WINTER, (10, "00:00"), "UTC+14:00", ("12:00", "12:59")),
    ],
)
def test_its_hours_are_in_the_order_of_the_clock(
    zone: str, on: date, first: tuple[int, str], offset: str, of_22: tuple[str, str]
) -> None:
    day = PersonDay(on=on, zone=zone)
    hours = list(day)

    assert (hours[0].hour, hours[0].begin, day.offset) == (*first, offset)
    # A circle: each hour of UTC once, one after the other.
    assert [one.hour for one in hours] == [(first[0] + step) % 24 for step in range(24)]
    assert [one.begin for one in hours] == sorted(one.begin for one in hours)
    assert (day.of(22).begin, day.of(22).end) == of_22
    assert (day.of(9).utc, day.of(9).utc_span) == ("09:00 UTC", "09:00 to 09:59 UTC")


def test_only_utc_has_bare_numbers() -> None:
    assert [one.short for one in PersonDay(on=WINTER, zone="UTC")][:10:9] == ["0", "9"]
    assert [one.short for one in PersonDay(on=WINTER, zone="Europe/London")][:10:9] == ["00:00", "09:00"]


def test_advice_is_by_the_clock_and_the_apis_in_utc() -> None:
    pile = PileUp("node-1", 22, 2.04, ("a", "b", "c"))

    said = PersonDay(on=WINTER, zone="Asia/Kolkata").advice(pile)

    assert said == (
        "3 definitions start on node-1 between 03:30 and 04:29 Asia/Kolkata, 2.0 times its mean. "
        "Spread them over their window."
    )
    assert (
        PersonDay(on=WINTER, zone="UTC").advice(pile)
        == pile.sentence
        == said.replace("03:30 and 04:29 Asia/Kolkata", "22:00 and 22:59 UTC")
    )
