"""What follows from a probe: a vault is closed, opened again, or a person is told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from backups.services import request_backup
from common.errors import BackupsiteError
from tests.factories import make_definition, make_server, make_tenant, make_vault
from tests.vaults.conftest import Hold
from vaults.models import Alarm, Vault
from vaults.probe import ProbeFailedError, ProbeReport, ProbeUnansweredError
from vaults.probe_rights import FORBIDDEN, check_rights
from vaults.probe_runs import ALARM, RIGHTS_ALARM, check_rights_here, due_vault, probe_again, run_probe
from vaults.probe_subject import Subject, real_clock
from vaults.provisioner import prepare_vault, probe_next_due
from vaults.storage import Credential

NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)
Probe = Callable[[Vault, ProbeReport], None]


def good(vault: Vault, report: ProbeReport) -> None:
    report.run("all", lambda: None)
    report.capabilities["conditional_create"] = True


def broken(vault: Vault, report: ProbeReport) -> None:
    def check() -> None:
        raise ProbeFailedError("DeleteObject", "the store deleted a locked version.")

    report.run("all", check)


def silent(vault: Vault, report: ProbeReport) -> None:
    raise ProbeUnansweredError("HeadBucket", "the store does not answer.")


@pytest.fixture
def ready(db: None) -> Vault:
    vault = make_vault(make_tenant())
    vault.settings_seen = {"versioning": "Enabled"}
    vault.save()
    return vault


def standing(vault: Vault) -> dict[str, str]:
    return dict(Alarm.objects.standing().filter(vault=vault).values_list("code", "message"))


def test_a_broken_promise_closes_the_vault_and_raises_the_alarm(ready: Vault) -> None:
    probe_again(vault_id=str(ready.pk), now=NOW, probe=broken)

    ready.refresh_from_db()
    assert ready.status == Vault.Status.REFUSED
    assert ready.refusal == "DeleteObject: the store deleted a locked version."
    assert standing(ready)[ALARM].startswith(ready.refusal)
    assert (ready.probed_at, ready.probe_report[-1]["result"]) == (NOW, "failed")


def test_no_backup_is_made_in_a_closed_vault(ready: Vault) -> None:
    definition = make_definition(make_server(ready.tenant))
    assert definition.vault == ready
    probe_again(vault_id=str(ready.pk), now=NOW, probe=broken)
    definition.refresh_from_db()

    with pytest.raises(BackupsiteError) as refused:
        request_backup(definition=definition, actor=None, now=NOW)

    assert refused.value.code == "vault_not_ready"


def test_the_next_good_probe_opens_the_vault_and_clears_the_alarm(ready: Vault) -> None:
    probe_again(vault_id=str(ready.pk), now=NOW, probe=broken)

    probe_again(vault_id=str(ready.pk), now=NOW + timedelta(hours=1), probe=good)

    ready.refresh_from_db()
    assert (ready.status, ready.refusal) == (Vault.Status.READY, "")
    assert ready.capabilities == {"conditional_create": True}
    assert standing(ready) == {}


def test_silence_raises_the_alarm_and_closes_nothing(ready: Vault) -> None:
    probe_again(vault_id=str(ready.pk), now=NOW, probe=silent)

    ready.refresh_from_db()
    assert ready.status == Vault.Status.READY
    assert standing(ready) == {ALARM: "HeadBucket: the store does not answer."}


def test_a_failed_probe_keeps_the_capabilities_that_were_known(ready: Vault) -> None:
    run_probe(ready, now=NOW, probe=good)

    with pytest.raises(ProbeFailedError):
        run_probe(ready, now=NOW, probe=broken)

    ready.refresh_from_db()
    assert ready.capabilities == {"conditional_create": True}


def test_a_probe_never_opens_a_vault_that_is_still_being_made(ready: Vault) -> None:
    Vault.objects.filter(pk=ready.pk).update(status=Vault.Status.PENDING)

    probe_again(vault_id=str(ready.pk), now=NOW, probe=good)

    ready.refresh_from_db()
    assert ready.status == Vault.Status.PENDING


@pytest.mark.parametrize(
    ("status", "hours", "due"),
    [
        (Vault.Status.READY, None, True),
        (Vault.Status.READY, 22, False),
        (Vault.Status.READY, 23, True),
        (Vault.Status.REFUSED, 0.9, False),
        (Vault.Status.REFUSED, 1, True),
        (Vault.Status.PENDING, None, False),
        (Vault.Status.PENDING, 100, False),
    ],
)
def test_a_vault_is_due_once_a_day_and_a_refused_one_every_hour(
    ready: Vault, status: str, hours: float | None, due: bool
) -> None:
    probed_at = None if hours is None else NOW - timedelta(hours=hours)
    Vault.objects.filter(pk=ready.pk).update(status=status, probed_at=probed_at)

    assert due_vault(NOW) == (ready if due else None)


def test_the_one_that_waits_longest_comes_first(ready: Vault) -> None:
    other = make_vault(make_tenant())
    Vault.objects.filter(pk=ready.pk).update(probed_at=NOW - timedelta(days=2))
    Vault.objects.filter(pk=other.pk).update(probed_at=NOW - timedelta(days=3))
    assert due_vault(NOW) == other

    Vault.objects.filter(pk=ready.pk).update(probed_at=None)
    assert due_vault(NOW) == ready


@pytest.mark.stack
def test_a_bucket_that_is_gone_is_never_made_again(vault: Vault, weed: object) -> None:
    Vault.objects.filter(pk=vault.pk).update(status=Vault.Status.READY, settings_seen={"versioning": "Enabled"})

    probe_next_due(now=NOW)

    vault.refresh_from_db()
    assert vault.status == Vault.Status.REFUSED
    assert vault.refusal.startswith("HeadBucket: ")
    prepare_vault(vault_id=str(vault.pk))
    vault.refresh_from_db()
    assert vault.status == Vault.Status.REFUSED


@pytest.mark.stack
@pytest.mark.parametrize("name", list(Credential))
def test_each_credential_of_the_stack_is_narrow_enough(vault: Vault, hold: Hold, name: str) -> None:
    prepare_vault(vault_id=str(vault.pk), probe=good)
    hold(name)

    tried = check_rights(Subject(vault, real_clock()))

    assert tried == len([one for one in FORBIDDEN if one.credential == name]) > 0


@pytest.mark.stack
@pytest.mark.parametrize("name", list(Credential))
def test_a_credential_that_may_more_than_its_task_is_named(vault: Vault, hold: Hold, name: str) -> None:
    prepare_vault(vault_id=str(vault.pk), probe=good)
    hold(**{name: "root"})

    with pytest.raises(ProbeFailedError, match=rf"to the {name}.*take this right"):
        check_rights(Subject(vault, real_clock()))


@pytest.mark.stack
def test_the_reapers_process_tells_when_its_key_may_too_much(vault: Vault, hold: Hold) -> None:
    prepare_vault(vault_id=str(vault.pk), probe=good)
    hold(reaper="root")
    check_rights_here(now=NOW)
    assert "to the reaper" in standing(vault)[RIGHTS_ALARM]

    hold("reaper")
    check_rights_here(now=NOW)

    assert standing(vault) == {}


@pytest.mark.parametrize("name", ["reap", "check_rights"])
def test_what_needs_the_right_to_delete_goes_to_the_reaper_only(name: str) -> None:
    from backupsite.celery import app

    assert app.amqp.router.route({}, f"vaults.tasks.{name}")["queue"].name == "reaper"
    assert app.amqp.router.route({}, "vaults.tasks.prepare_vault")["queue"].name == "system"
