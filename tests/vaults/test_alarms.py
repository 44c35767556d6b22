"""Alarms: how bad each is, who may put one aside and for how long, and why one is over."""

from __future__ import annotations

import importlib
from datetime import timedelta
from typing import Any

import pytest

from common.errors import ConflictError, InvalidInputError, NotAllowedError
from tenants.models import AuditEvent, Person
from tests.factories import a_moment, make_person, make_tenant, make_vault
from vaults.alarms import acknowledge_alarm, clear_alarm, raise_alarm
from vaults.models import Alarm, Vault
from vaults.severity import ALARM_KINDS, Severity, kind_of

NOW = a_moment()
CRITICAL, WARNING, ONCE = "damaged_objects", "scrub_late", "extra_version_same"

# Where codes of alarms are named, by module.
NAMED = {
    "backups.lock_coverage": ["SHORT_ALARM", "MARGIN_ALARM", "KEEPER_ALARM"],
    "backups.removal.reconcile": ["MISSING", "ALTERED", "UNKNOWN", "RETURNED", "KNOWN_BAD"],
    "backups.removal.rounds": ["RECONCILING_FAILED", "REMOVAL_FAILED"],
    "backups.removal.run": ["STOPPED_ALARM", "NEEDED_ALARM"],
    "vaults.drift": ["ALARM"],
    "vaults.extra_versions": ["MORE"],
    "vaults.probe_runs": ["ALARM", "RIGHTS_ALARM"],
    "vaults.rotation": ["REWRAP_ALARM"],
    "vaults.scrub_alarms": ["DAMAGED", "SHORT_LOCKS", "LATE", "ABSURD_DATES"],
}


@pytest.fixture
def vault(db: None) -> Vault:
    return make_vault(make_tenant())


@pytest.fixture
def boss(db: None) -> Person:
    return make_person("boss", superadmin=True)


def rise(vault: Vault, code: str, message: str = "bad", **options: Any) -> Alarm:
    raise_alarm(vault, code=code, message=message, now=NOW, **options)
    return Alarm.objects.standing().get(vault=vault, code=code, subject=options.get("subject", ""))


def needing(vault: Vault) -> list[str]:
    return [alarm.code for alarm in Alarm.objects.filter(vault=vault).needing_a_person().worst_first()]


@pytest.mark.parametrize("module", NAMED)
def test_every_code_that_is_raised_is_in_the_table(module: str) -> None:
    found = importlib.import_module(module)

    assert {getattr(found, name) for name in NAMED[module]} <= set(ALARM_KINDS)


def test_every_kind_says_why_it_is_over() -> None:
    assert all(kind.mended.endswith(".") for kind in ALARM_KINDS.values())
    assert set(Alarm._meta.get_field("severity").choices or []) == {(s.value, s.name.lower()) for s in Severity}


def test_a_code_without_an_entry_is_critical(vault: Vault) -> None:
    assert kind_of("brand_new").severity is Severity.CRITICAL
    assert rise(vault, "brand_new").get_severity_display() == "critical"


def test_the_worst_comes_first_and_info_needs_nobody(vault: Vault) -> None:
    for code in (WARNING, ONCE, CRITICAL):
        rise(vault, code)

    assert needing(vault) == [CRITICAL, WARNING]
    assert [alarm.code for alarm in Alarm.objects.worst_first()] == [CRITICAL, WARNING, ONCE]


def test_an_alarm_of_before_the_table_gets_its_severity_when_it_is_raised_again(vault: Vault) -> None:
    Alarm.objects.create(vault=vault, code=WARNING, message="old", seen_at=NOW)

    assert rise(vault, WARNING).severity == Severity.WARNING
    assert Alarm.objects.count() == 1


def test_one_stands_for_each_subject(vault: Vault) -> None:
    for subject in ("a", "b", "a"):
        rise(vault, ONCE, subject=subject)

    clear_alarm(vault, code=ONCE, subject="a", now=NOW)

    assert list(Alarm.objects.standing().values_list("subject", flat=True)) == ["b"]


def test_what_is_over_says_when_and_why(vault: Vault) -> None:
    rise(vault, CRITICAL)
    clear_alarm(vault, code=CRITICAL, now=NOW + timedelta(hours=1))
    rise(vault, CRITICAL)
    clear_alarm(vault, code=CRITICAL, now=NOW + timedelta(hours=2), reason="because")

    told = Alarm.objects.order_by("cleared_at").values_list("cleared_at", "cleared_reason")

    assert list(told) == [
        (NOW + timedelta(hours=1), ALARM_KINDS[CRITICAL].mended),
        (NOW + timedelta(hours=2), "because"),
    ]


# --- acknowledging ----------------------------------------------------------------------------------------------------


def test_an_acknowledged_alarm_needs_nobody_and_stands_on(vault: Vault, boss: Person) -> None:
    alarm = rise(vault, CRITICAL)

    acknowledge_alarm(alarm, note=" looking ", actor=boss, now=NOW)

    alarm.refresh_from_db()
    assert (alarm.acknowledged_by, alarm.acknowledged_at, alarm.acknowledgement) == (boss, NOW, "looking")
    assert alarm.cleared_at is None
    assert needing(vault) == []
    told = AuditEvent.objects.get(action="alarm.acknowledge")
    assert (told.actor_name, told.after["code"], told.after["note"]) == (str(boss), CRITICAL, "looking")


def test_the_first_acknowledgement_is_kept(vault: Vault, boss: Person) -> None:
    alarm, other = rise(vault, CRITICAL), make_person(superadmin=True)
    acknowledge_alarm(alarm, note="first", actor=boss, now=NOW)

    acknowledge_alarm(alarm, note="second", actor=other, now=NOW + timedelta(hours=1))

    alarm.refresh_from_db()
    assert (alarm.acknowledged_by, alarm.acknowledgement) == (boss, "first")


def test_a_critical_alarm_that_says_something_new_is_shown_again(vault: Vault, boss: Person) -> None:
    acknowledge_alarm(rise(vault, CRITICAL, "1 missing"), note="", actor=boss, now=NOW)
    assert rise(vault, CRITICAL, "1 missing").acknowledged_by == boss

    again = rise(vault, CRITICAL, "1000 missing")

    assert (again.acknowledged_at, again.acknowledged_by, again.acknowledgement) == (None, None, "")
    assert needing(vault) == [CRITICAL]


def test_a_warning_stays_acknowledged_while_its_figures_change(vault: Vault, boss: Person) -> None:
    acknowledge_alarm(rise(vault, WARNING, "1 late"), note="", actor=boss, now=NOW)

    assert rise(vault, WARNING, "2 late").acknowledged_by == boss
    assert needing(vault) == []


def test_an_alarm_that_comes_again_is_acknowledged_by_nobody(vault: Vault, boss: Person) -> None:
    acknowledge_alarm(rise(vault, WARNING), note="", actor=boss, now=NOW)
    clear_alarm(vault, code=WARNING, now=NOW)

    assert rise(vault, WARNING).acknowledged_at is None


def test_one_that_leaves_nothing_to_mend_is_closed_by_it(vault: Vault, boss: Person) -> None:
    alarm = rise(vault, ONCE, subject="a")

    acknowledge_alarm(alarm, note="known", actor=boss, now=NOW)

    alarm.refresh_from_db()
    assert (alarm.cleared_at, alarm.cleared_reason) == (NOW, "Acknowledged by boss. known")
    assert acknowledge_alarm(alarm, note="", actor=boss, now=NOW).acknowledgement == "known"


def test_what_cannot_be_acknowledged(vault: Vault, boss: Person) -> None:
    alarm = rise(vault, CRITICAL)
    for person in (make_person(), make_person(administers=[vault.tenant])):
        with pytest.raises(NotAllowedError):
            acknowledge_alarm(alarm, note="", actor=person, now=NOW)
    with pytest.raises(InvalidInputError):
        acknowledge_alarm(alarm, note="x" * 256, actor=boss, now=NOW)
    clear_alarm(vault, code=CRITICAL, now=NOW)
    with pytest.raises(ConflictError) as caught:
        acknowledge_alarm(alarm, note="", actor=boss, now=NOW)

    assert caught.value.code == "alarm_cleared"
    alarm.refresh_from_db()
    assert alarm.acknowledged_at is None
