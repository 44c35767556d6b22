"""A writer that holds its keys and its session, and wants more: each attempt ends at a check; the service goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from datetime import UTC, datetime

import msgspec
import pytest
from django.utils import timezone

from agents.program import backing_up as mover
from agents.program import sending
from agents.protocol import CommitRequest
from backups import runner
from backups.models import Backup
from backups.services import request_backup
from backups.states import JobState
from engine.backup import WriteContext, WriteResult
from engine.store.http import GrantedSink, PutSpec
from tests import factories
from tests.backups.conftest import MIB, Site
from vaults.grants import GrantContext, grant_puts
from vaults.models import Domain, StoredObject

pytestmark = pytest.mark.stack


def _spec(key: str, sha256: str) -> PutSpec:
    return PutSpec(key=key, sha256=sha256, md5_base64="1B2M2Y8AsgTpgAmY7PhCfg==", size_bytes=10)


@pytest.mark.parametrize(
    "name",
    [
        "p/x-{sha256}",
        "p/{upper}",
        "p/{sha256}/",
        "p//{sha256}",
        "i/0-{sha256}",
        "k/-{sha256}",
        "r/1-{sha256}",
        "c/{sha256}",
        "m/{source}/1-{sha256}",
        "m/{source}/0000000000000000000x-{sha256}",
        "m/{source}/{sha256}",
        "m/{source}/00000000000000000001-0-{sha256}",
    ],
)
@pytest.mark.django_db
def test_one_content_has_one_key(name: str) -> None:
    """A second name for one hash would let the ledger and a mark disagree for ever."""
    server = factories.make_server()
    vault = factories.make_vault(server.tenant)
    domain = Domain.objects.create(tenant=server.tenant, vault=vault, wrapped_id_key=b"x", wrapped_map_key=b"x")
    sha256 = hashlib.sha256(b"content").hexdigest()
    key = f"t/{domain.tenant_id}/d/{domain.pk}/" + name.format(sha256=sha256, upper=sha256.upper(), source="disk")
    now = timezone.now()
    context = GrantContext(domain=domain, session_id=domain.pk, now=now, retain_until=now)

    with pytest.raises(Exception) as refused:
        grant_puts(context, [_spec(key, sha256.upper() if "upper" in name else sha256)])

    assert getattr(refused.value, "code", "") in {"wrong_name", "foreign_key"}
    assert not StoredObject.objects.exists()


def _commit_with(monkeypatch: pytest.MonkeyPatch, change) -> None:
    """Let the mover ask for its commit with another request than it should."""
    honest = mover._commit_request
    monkeypatch.setattr(mover, "_commit_request", lambda *told: change(honest(*told)))


@pytest.mark.case("AZ-15")
def test_what_no_backup_ever_had_cannot_be_called_reused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects that were only uploaded were looked at by nobody: they are new, and are checked as new."""
    disk = site.server("web01", content=os.urandom(MIB))

    def as_reused(request: CommitRequest) -> CommitRequest:
        StoredObject.objects.filter(status="granted", kind="k").update(status="stored", version_id="1")
        envelopes = [message for message in request.new_objects if "/k/" in message.key]
        others = [message for message in request.new_objects if "/k/" not in message.key]
        return msgspec.structs.replace(request, new_objects=others, reused_objects=envelopes)

    _commit_with(monkeypatch, as_reused)
    job = site.back_up(site.definition(disk))

    assert (job.state, job.code) == (JobState.FAILED, "verification_failed")
    assert not Backup.objects.filter(status="ok").exists()


def test_a_damaged_object_of_the_base_is_no_part_of_a_good_backup(site: Site) -> None:
    disk = site.server("web01", content=os.urandom(MIB))
    definition = site.definition(disk)
    first = site.back_up(definition).backup
    job = request_backup(definition=definition, actor=site.admin, now=timezone.now())
    runner.run_job(job_id=str(job.pk))
    # Found between the writing and the commit.
    pack = StoredObject.objects.get(used_by__manifest=first.manifest, kind="p")
    StoredObject.objects.filter(pk=pack.pk).update(damaged_since=timezone.now(), damage="missing")

    job = site.commit(job)

    assert (job.state, job.code) == (JobState.FAILED, "verification_failed")
    healed = site.back_up(definition)
    assert healed.state == JobState.OK, healed.message


@pytest.mark.case("AZ-17")
@pytest.mark.parametrize("told", [datetime(9999, 1, 1, tzinfo=UTC), datetime(2001, 1, 1, tzinfo=UTC)])
def test_a_manifest_tells_the_time_of_its_session(site: Site, monkeypatch: pytest.MonkeyPatch, told: datetime) -> None:
    honest = sending.write_disk_backup

    def lying(*, context: WriteContext, **arguments: object) -> WriteResult:
        return honest(context=dataclasses.replace(context, created_at=told), **arguments)

    monkeypatch.setattr(sending, "write_disk_backup", lying)
    disk = site.server("web01", content=os.urandom(MIB))

    job = site.back_up(site.definition(disk))

    assert (job.state, job.code) == (JobState.FAILED, "verification_failed")
    assert "time" in job.message


def test_a_relocation_that_leads_nowhere_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its object is well stored and well named, but it is no relocation of this domain."""
    disk = site.server("web01", content=os.urandom(MIB))
    honest = mover.HealedBlocks.store

    def junk(self, result, *, context, sink: GrantedSink):
        data = os.urandom(200)
        sha256 = hashlib.sha256(data).hexdigest()
        key = f"t/{context.tenant}/d/{context.domain}/r/{sha256}"
        return [*honest(self, result, context=context, sink=sink), sink.put(key=key, data=data, sha256=sha256)]

    monkeypatch.setattr(mover.HealedBlocks, "store", junk)

    job = site.back_up(site.definition(disk))

    assert (job.state, job.code) == (JobState.FAILED, "verification_failed")
    assert "relocation" in job.message
