"""What a mover says of its driver is taken within bounds, and only by the session that it is about."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from agents.program.session import GateRefusedError, SessionClient, SessionEndedError
from agents.protocol import FactsMessage, TargetOpened, WarnedMessage
from backups.models import Backup, Job, Session
from backups.points import safety_name, told_facts
from backups.services import request_backup, request_restore
from backups.transitions import claim_job
from tests.backups.conftest import MIB, Site

POINT = "backupsite-0123"
LONG = "x" * 5000


@pytest.mark.parametrize(
    ("point", "kept"),
    [
        (POINT, POINT),
        (f"{POINT}-2", f"{POINT}-2"),
        ("", ""),
        ("backupsite-of-another", ""),
        (f"{POINT}4", ""),
        (f"{POINT}-{LONG}", ""),
    ],
)
def test_only_the_sessions_own_point_is_kept(point: str, kept: str) -> None:
    facts = told_facts(Session(new_point=POINT, full_reason="first_backup"), FactsMessage(point=point))

    # Without a point nothing could have been told apart: no reason has to be given for reading everything.
    assert (facts["point"], facts["full_reason"]) == (kept, "first_backup" if kept else "")


def test_a_session_without_a_name_for_its_point_leaves_none() -> None:
    assert told_facts(Session(), FactsMessage(point="-x"))["point"] == ""


def test_words_of_another_machine_are_bounded() -> None:
    warnings = [WarnedMessage(LONG, LONG)] * 1000

    facts: dict[str, Any] = told_facts(Session(), FactsMessage(full_reason=LONG, frozen=True, warnings=warnings))

    assert facts["frozen"] and len(facts["full_reason"]) == 64
    assert len(facts["warnings"]) == 20
    assert {(len(one["code"]), len(one["message"])) for one in facts["warnings"]} == {(64, 500)}


def client_of(settings: Any, job: Job) -> SessionClient:
    claim = claim_job(job_id=job.pk, now=timezone.now())
    assert claim is not None
    return SessionClient(gate_url=settings.CONFIG.gate_url, token=claim.token, retry_seconds=1)


@pytest.mark.stack
def test_a_target_is_told_of_by_its_own_restore_alone(site: Site, settings: Any) -> None:
    disk = site.server("web01", content=b"x" * MIB)
    definition = site.definition(disk)
    backup = Backup.objects.get(pk=site.back_up(definition).backup_id)
    writer = client_of(settings, request_backup(definition=definition, actor=site.admin, now=timezone.now()))
    target = site.server("web02")
    order = {"confirmation": "web02", "actor": site.admin, "now": timezone.now()}
    job = request_restore(backup=backup, target=target, **order)
    restorer = client_of(settings, job)

    for call in (lambda: writer.target_opened(TargetOpened()), writer.restore_written, restorer.restore_written):
        with pytest.raises(GateRefusedError) as refused:
            call()
        assert refused.value.code == "not_a_restore"
    # Another name than it was given would be kept, or swept, in place of somebody else's.
    restorer.target_opened(TargetOpened(safety_point="backupsite-of-another"))
    job.refresh_from_db()
    target.refresh_from_db()
    assert job.safety_point == "" and target.incomplete_since is not None
    restorer.target_opened(TargetOpened(safety_point=safety_name(job.pk), warnings=[WarnedMessage("a", "b")]))
    job.refresh_from_db()
    assert (job.safety_point, job.warnings) == (safety_name(job.pk), [{"code": "a", "message": "b"}])

    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    with pytest.raises(SessionEndedError):
        restorer.target_opened(TargetOpened())
