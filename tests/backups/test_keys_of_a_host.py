"""No read-back: what a host is told and may fetch opens nothing that it wrote before. Keys replaced on a real store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.test import Client
from django.utils import timezone

from agents import protocol
from backups import runner
from backups.models import Backup, Job, Session
from backups.services import request_backup
from backups.states import JobState
from backups.transitions import claim_job, end_session_job
from engine.crypto import generate_tenant_key
from engine.recovery import RecoveryKey, answer_challenge, decode_challenge
from tests.backups.conftest import MIB, Site
from vaults.custody import fingerprint, private_key_of, session_data_keys, sessions_of
from vaults.models import Envelope, StoredObject, TenantKey
from vaults.own_objects import NO_SESSION
from vaults.recovery_keys import finish_test, register_customer_key, show_recovery_key, start_test
from vaults.rotation import RETIRED_KEPT, rewrap, rotate_managed_key, sessions_left

pytestmark = pytest.mark.stack
# All that a writing host is told. A new field is looked at here: it may open nothing that is in the vault already.
TOLD = {
    "disk", "tenant", "domain", "source_id", "sequence", "created_at", "id_key", "map_key", "tenant_public_key",
    "block_size_bytes", "compression_level", "source_facts", "trusted_writers", "base", "resumable", "distrusted",
    "bandwidth_bytes_per_second",
    # Names of points on the node itself, and whether to freeze.
    "base_point", "kept_points", "new_point", "freeze",
    # Patterns of what is left out, and how many files the base has.
    "excludes", "base_files",
}  # fmt: skip


def test_a_writer_is_told_nothing_but_this() -> None:
    assert {field.name for field in msgspec.structs.fields(protocol.BackupWork)} == TOLD


@pytest.fixture
def second(site: Site) -> Iterator[tuple[Site, Backup, Any]]:
    """A site with a good backup, and a call to the gate with the token of the next backup's session."""
    disk = site.server("web01", content=os.urandom(2 * MIB))
    definition = site.definition(disk)
    assert site.back_up(definition).state == "ok"
    first = Backup.objects.get(status="ok")
    job = request_backup(definition=definition, actor=site.admin, now=timezone.now())
    claim = claim_job(job_id=job.pk, now=timezone.now())
    assert claim is not None

    def call(path: str, message: Any = None) -> Any:
        return Client().post(
            protocol.PATH_PREFIX + path,
            msgspec.json.encode(message) if message is not None else b"{}",
            content_type="application/json",
            headers={"Authorization": f"Bearer {claim.token}"},
        )

    yield site, first, call


def test_no_answer_of_the_gate_holds_or_opens_an_earlier_sessions_key(second: Any) -> None:
    site, first, call = second
    assert first.manifest is not None
    earlier = session_data_keys(first.manifest.domain, sessions_of(first.manifest))
    private = private_key_of(TenantKey.objects.get(tenant=site.tenant))
    opened = call("open")
    everything = list(StoredObject.objects.filter(used_by__manifest=first.manifest))
    asked = {
        row.kind: call(
            "grants/get",
            protocol.GetGrantsRequest([protocol.ObjectMessage(row.key, row.sha256, row.size_bytes, row.version_id)]),
        )
        for row in everything
    }

    work = msgspec.json.decode(opened.content, type=protocol.Work)
    assert isinstance(work, protocol.BackupWork)
    for secret in (*earlier.values(), private):
        assert secret not in msgspec.msgpack.encode(work)
        for text in (secret.hex().encode(), msgspec.json.encode(secret).strip(b'"')):
            assert text not in opened.content
    statuses = {kind: answer.status_code for kind, answer in asked.items()}
    assert statuses == {"p": 404, "i": 200, "k": 404}


def test_no_message_to_a_writer_has_a_field_for_a_data_key() -> None:
    messages = (protocol.BackupWork, protocol.ResumableMessage, protocol.HeartbeatAnswer, protocol.GrantMessage)
    names = {field.name for message in messages for field in msgspec.structs.fields(message)}

    assert not names & {"data_keys", "private_key", "recovery_key", "data_key"}


# --- a key replaced, on the real store --------------------------------------------------------------------------------


def rotate(site: Site) -> TenantKey:
    active = TenantKey.objects.get(tenant=site.tenant, status="active")
    return rotate_managed_key(site.tenant, replaced=active.pk, actor=site.admin, now=timezone.now())


def data_keys_of(backup: Backup) -> dict[str, bytes]:
    assert backup.manifest is not None
    return session_data_keys(backup.manifest.domain, sessions_of(backup.manifest))


def test_backups_from_before_and_after_a_change_open_with_the_new_key_alone(site: Site) -> None:
    disk = site.server("web01", content=os.urandom(2 * MIB))
    definition = site.definition(disk)
    site.back_up(definition)
    first = Backup.objects.get(status="ok")
    before = data_keys_of(first)

    rotate(site)
    assert site.back_up(definition).state == "ok"
    assert sessions_left(site.tenant.pk) == 1
    done = rewrap(site.tenant.pk, now=timezone.now())
    later = rewrap(site.tenant.pk, now=timezone.now() + RETIRED_KEPT + timedelta(hours=1))

    assert (done.rewrapped, done.failed, later.dropped_keys) == (1, 0, 1)
    assert TenantKey.objects.filter(tenant=site.tenant).count() == 1
    assert data_keys_of(first) == before
    assert set(data_keys_of(Backup.objects.exclude(pk=first.pk).get())) >= set(before)
    own = StoredObject.objects.get(session_id=NO_SESSION)
    assert (own.kind, own.status, bool(own.version_id)) == ("k", "stored", True)


def test_the_recovery_key_that_was_shown_opens_the_vault(site: Site) -> None:
    key = TenantKey.objects.get(tenant=site.tenant)

    shown = RecoveryKey.decode(show_recovery_key(key, actor=site.admin, now=timezone.now()))

    assert shown.tenant_public_key == bytes(key.public_key)


def test_a_session_that_was_open_during_the_change_is_committed(site: Site) -> None:
    disk = site.server("web01", content=os.urandom(MIB))
    definition = site.definition(disk)
    old = TenantKey.objects.get(tenant=site.tenant)
    job = request_backup(definition=definition, actor=site.admin, now=timezone.now())
    runner.run_job(job_id=str(job.pk))
    assert Session.objects.get(job=job).commit_requested_at is not None
    rotate(site)

    job = site.commit(job)

    assert job.state == "ok", job.message
    backup = Backup.objects.get(status="ok")
    assert len(data_keys_of(backup)) == 1
    old.refresh_from_db()
    assert old.status == "retired"


def take_over(site: Site) -> TenantKey:
    """A customer's own key, brought and tested."""
    pair = generate_tenant_key()
    key = register_customer_key(site.tenant, public_key=pair.public.hex(), actor=site.admin)
    answer = answer_challenge(RecoveryKey(pair.private, bytes(32)), decode_challenge(start_test(key)))
    return finish_test(key, answer=answer, actor=site.admin, now=timezone.now())


def recipients_of(backup: Backup) -> set[str]:
    envelopes = Envelope.objects.filter(stored_object__used_by__manifest=backup.manifest)
    return set(envelopes.values_list("recipient", flat=True))


def test_a_customers_new_key_opens_every_new_backup_alone(site: Site) -> None:
    disk = site.server("web01", content=os.urandom(2 * MIB))
    definition = site.definition(disk)
    take_over(site)
    assert site.back_up(definition).state == "ok"
    cut = request_backup(definition=definition, actor=site.admin, now=timezone.now())
    runner.run_job(job_id=str(cut.pk))
    assert Session.objects.get(job=cut).base is not None
    _fail(cut)

    newer = take_over(site)
    job = site.back_up(definition)

    assert job.state == "ok", job.message
    assert job.sessions.get().base is None
    assert job.backup is not None
    assert recipients_of(job.backup) == {fingerprint(newer)}


def _fail(job: Job) -> None:
    """The attempt ends here; what it stored could be taken up by the next one."""
    job.refresh_from_db()
    holder = job.sessions.get()
    assert end_session_job(holder, state=JobState.FAILED, code="cut", message="Cut off.", now=timezone.now())
