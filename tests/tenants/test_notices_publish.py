"""Who is told of what: exactly those who asked for it and may see it, in the transaction of what happened."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction

from agents.models import ServerUserPermission
from backups.models import Backup, Job
from backups.states import BackupHealth, JobState
from backups.telling import tell_of_health, tell_of_job, tell_of_late_run
from tenants.models import NoticeEvent, OutboxMessage, Person, Subscription, Tenant, Webhook
from tenants.notices import publish
from tenants.notices.events import CATALOGUE, Audience, kind_of, one_line, reported_facts
from tenants.services import resume_tenant, suspend_tenant
from tests.factories import a_moment, make_person, make_subscription, make_token, make_webhook
from tests.worlds import World
from vaults.alarms import clear_alarm, raise_alarm
from vaults.models import Alarm

pytestmark = pytest.mark.django_db
NOW = a_moment("2026-03-02 10:00")


@pytest.fixture
def quiet(world: World) -> World:
    """The world without its own webhooks and subscriptions; everybody has an address."""
    Webhook.objects.all().delete()
    Subscription.objects.all().delete()
    NoticeEvent.objects.all().delete()
    for person in world.people.values():
        if person is not None:
            person.email = f"{person.username}@example.com"
            person.save(update_fields=["email"])
    return world


def everybody_asks(world: World) -> None:
    for person in world.people.values():
        if person is not None:
            make_subscription(person=person)


def told() -> set[str]:
    rows = OutboxMessage.objects.select_related("subscription__person", "webhook", "person")
    return {str(row.webhook or row.person or (row.subscription and str(row.subscription))) for row in rows}


def a_failure(world: World, **changes: Any) -> NoticeEvent | None:
    job = world.ours.job
    return publish(event="backup.failed", tenant=job.tenant, subject=job, cause="backups:1", at=NOW, **changes)


def test_of_a_server_are_told_its_owner_its_administrators_and_super_admins(quiet: World) -> None:
    everybody_asks(quiet)

    a_failure(quiet)

    assert told() == {"super", "admin_a", "owner_a1"}


def test_of_the_tenant_its_administrators_only(quiet: World) -> None:
    everybody_asks(quiet)
    tenant = quiet.ours.tenant

    publish(event="tenant.suspended", tenant=tenant, subject=tenant)

    assert told() == {"super", "admin_a"}


def test_of_an_alarm_no_owner_of_a_server(quiet: World) -> None:
    everybody_asks(quiet)

    raise_alarm(quiet.ours.vault, code="locks_short", message="An object is free.", now=NOW)

    assert told() == {"super", "admin_a"}
    assert OutboxMessage.objects.first().event.facts["message"] == "An object is free."


def test_of_a_person_himself_unasked_and_super_admins(quiet: World) -> None:
    for name in ("super", "admin_a", "admin_b"):
        make_subscription(person=quiet.people[name])
    owner = quiet.people["owner_a1"]
    assert owner is not None

    make_token(owner, label="ci")

    assert told() == {"super", "owner_a1"}
    assert OutboxMessage.objects.get(person=owner).kind == "email"


def test_who_subscribed_and_is_told_directly_is_told_once(quiet: World) -> None:
    owner = quiet.people["owner_a1"]
    make_subscription(person=owner)

    publish(event="token.created", tenant=None, subject=quiet.ours.tenant, person=owner)

    assert OutboxMessage.objects.count() == 1


def test_a_teams_address_is_told_of_its_tenant_and_of_no_person(quiet: World) -> None:
    make_subscription(tenant=quiet.ours.tenant, address="ours@example.com")
    make_subscription(tenant=quiet.theirs.tenant, address="theirs@example.com")
    make_subscription(address="all@example.com")

    a_failure(quiet)

    assert told() == {"ours@example.com", "all@example.com"}


def test_a_webhook_is_told_of_its_tenant_and_the_installations_of_all(quiet: World) -> None:
    make_webhook(quiet.ours.tenant, label="ours")
    make_webhook(quiet.theirs.tenant, label="theirs")
    make_webhook(None, label="installation")
    make_webhook(quiet.ours.tenant, label="paused", status=Webhook.Status.PAUSED)
    make_webhook(quiet.ours.tenant, label="disabled", status=Webhook.Status.DISABLED)

    a_failure(quiet)

    assert told() == {"ours", "installation"}


@pytest.mark.parametrize(
    ("asked", "is_told"),
    [
        ({"events": []}, True),
        ({"events": ["backup.failed", "backup.ok"]}, True),
        ({"events": ["backup.ok"]}, False),
        ({"severity": 3}, True),
    ],
)
def test_only_what_was_asked_for(quiet: World, asked: dict[str, Any], is_told: bool) -> None:
    make_webhook(quiet.ours.tenant, **asked)

    assert (a_failure(quiet) is not None) is is_told


def test_what_is_not_bad_enough_is_not_told(quiet: World) -> None:
    make_webhook(quiet.ours.tenant, severity=2)
    job = quiet.ours.job

    assert publish(event="backup.ok", tenant=job.tenant, subject=job) is None
    assert NoticeEvent.objects.count() == 0


def test_without_a_grant_without_an_account_or_without_an_address_nobody_is_told(quiet: World) -> None:
    everybody_asks(quiet)
    ServerUserPermission.objects.all().delete()
    Person.objects.filter(username="admin_a").update(is_active=False)
    Person.objects.filter(username="super").update(email="")

    assert a_failure(quiet) is None


def test_an_inactive_subscription_is_passed_over(quiet: World) -> None:
    make_subscription(tenant=quiet.ours.tenant, address="ours@example.com", active=False)

    assert a_failure(quiet) is None


def test_what_is_rolled_back_is_told_to_nobody(quiet: World) -> None:
    make_webhook(quiet.ours.tenant)

    with pytest.raises(RuntimeError), transaction.atomic():
        a_failure(quiet)
        raise RuntimeError

    assert OutboxMessage.objects.count() == NoticeEvent.objects.count() == 0


# --- when it is over --------------------------------------------------------------------------------------------------


def test_who_was_told_of_trouble_is_told_when_it_is_over(quiet: World) -> None:
    make_webhook(quiet.ours.tenant, label="troubles", severity=3, events=["backup.failed"])
    make_webhook(quiet.ours.tenant, label="others", severity=3, events=["vault.alarm"])
    job = quiet.ours.job
    a_failure(quiet)

    over = publish(event="backup.ok", tenant=job.tenant, subject=job, cause="backups:1")

    assert over is not None and over.recovers
    assert [str(message.webhook) for message in over.messages.all()] == ["troubles"]
    assert publish(event="backup.ok", tenant=job.tenant, subject=job, cause="backups:1") is None


def test_another_cause_is_not_over(quiet: World) -> None:
    make_webhook(quiet.ours.tenant, severity=3)
    a_failure(quiet)

    job = quiet.ours.job
    assert publish(event="backup.ok", tenant=job.tenant, subject=job, cause="backups:2") is None
    assert NoticeEvent.objects.get().open


def test_the_same_is_quiet_for_a_while(quiet: World) -> None:
    make_webhook(quiet.ours.tenant)

    first = a_failure(quiet, quiet_for=timedelta(hours=1))
    again = a_failure(quiet, quiet_for=timedelta(hours=1))

    assert first is not None and again is None


# --- the table --------------------------------------------------------------------------------------------------------


def test_an_unknown_event_is_refused(quiet: World) -> None:
    with pytest.raises(KeyError):
        publish(event="backup.exploded", tenant=None, subject=quiet.ours.tenant)


def test_a_fact_that_the_table_does_not_name_is_not_told() -> None:
    assert reported_facts("token.created", {"label": "ci", "secret": "bks_x"}) == {"label": "ci"}


@pytest.mark.parametrize("event", sorted(CATALOGUE))
def test_every_row_is_sound(event: str) -> None:
    kind = kind_of(event)

    assert kind.recovers <= set(CATALOGUE)
    assert not any(kind_of(other).recovers for other in kind.recovers)
    assert "{" not in kind.text.replace("{name}", "")
    assert kind.audience in set(Audience)
    assert not any(word in fact for fact in kind.facts for word in ("secret", "password", "key"))


def test_text_of_others_is_one_plain_line() -> None:
    assert one_line("a\r\nBcc: x\x1b[31m\u202e\u0000b", longest=50) == "a Bcc: x [31m b"


# --- where it is called from ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "state", "event"),
    [
        ("job", JobState.OK, "backup.ok"),
        ("job", JobState.FAILED, "backup.failed"),
        ("job", JobState.CANCELED, None),
        ("job", JobState.RUNNING, None),
        ("restore", JobState.RUNNING, "restore.started"),
        ("restore", JobState.OK, "restore.done"),
        ("restore", JobState.FAILED, "restore.failed"),
    ],
)
def test_jobs_are_told_of(quiet: World, which: str, state: JobState, event: str | None) -> None:
    make_webhook(quiet.ours.tenant)
    job = Job.objects.get(pk=getattr(quiet.ours, which).pk)

    tell_of_job(job, state=state, now=NOW, code="disk_gone", message="The disk is gone.")

    found = NoticeEvent.objects.first()
    assert (found and found.code) == event
    if found is not None:
        assert found.facts["server"] == quiet.ours.server.name
        assert found.facts["message"] == "The disk is gone."


@pytest.mark.parametrize(("begun", "event"), [("22:05", None), ("22:30", "backup.late"), ("next day", "backup.missed")])
def test_a_late_run_is_told_of(quiet: World, begun: str, event: str | None) -> None:
    make_webhook(quiet.ours.tenant)
    now = a_moment("2026-03-02 23:00") if begun == "next day" else a_moment(f"2026-03-01 {begun}")

    tell_of_late_run(quiet.ours.definition, slot_at=a_moment("2026-03-01 22:00"), now=now)

    found = NoticeEvent.objects.first()
    assert (found and found.code) == event


def test_damage_is_told_of_once_and_that_it_is_whole_again(quiet: World) -> None:
    make_webhook(quiet.ours.tenant, severity=3)
    backup = Backup.objects.get(pk=quiet.ours.backup.pk)

    tell_of_health(backup, before="verified", after=BackupHealth.DAMAGED, damaged_bytes=7)
    tell_of_health(backup, before="damaged", after=BackupHealth.MISSING, damaged_bytes=9)
    tell_of_health(backup, before="missing", after=BackupHealth.UNVERIFIED, damaged_bytes=0)

    assert list(NoticeEvent.objects.order_by("pk").values_list("code", flat=True)) == ["verify.damaged", "verify.whole"]


def test_an_alarm_is_told_of_once_and_when_it_is_over(quiet: World) -> None:
    make_webhook(quiet.ours.tenant, severity=3)
    vault = quiet.ours.vault
    Alarm.objects.all().delete()
    for _ in range(2):
        raise_alarm(vault, code="locks_short", message="An object is free.", now=NOW)
    raise_alarm(vault, code="extra_version_same", message="Good to know.", now=NOW)

    clear_alarm(vault, code="locks_short", now=NOW)
    clear_alarm(vault, code="locks_short", now=NOW)

    codes = list(NoticeEvent.objects.order_by("pk").values_list("code", flat=True))
    assert codes == ["vault.alarm", "vault.alarm_cleared"]


def test_suspending_and_resuming_a_tenant_is_told_of(quiet: World) -> None:
    make_webhook(quiet.ours.tenant, severity=2)
    actor, tenant = quiet.people["super"], Tenant.objects.get(pk=quiet.ours.tenant.pk)
    assert actor is not None

    suspend_tenant(tenant=tenant, reason="unpaid", actor=actor, now=NOW)
    resume_tenant(tenant=tenant, actor=actor, now=NOW)

    codes = list(NoticeEvent.objects.order_by("pk").values_list("code", flat=True))
    assert codes == ["tenant.suspended", "tenant.resumed"]


def test_people_of_other_tenants_cost_no_statement_each(quiet: World, django_assert_max_num_queries: Any) -> None:
    for number in range(20):
        make_subscription(person=make_person(f"other{number}", administers=[quiet.theirs.tenant]))

    with django_assert_max_num_queries(6):
        a_failure(quiet)
