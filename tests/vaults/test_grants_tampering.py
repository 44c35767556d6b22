"""What the real gate grants, turned into something else in every way known, against the real server."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from agents.program.session import SessionClient
from agents.protocol import BackupWork
from backups.services import request_backup
from backups.transitions import claim_job
from backupsite.stack.weed import EmbeddedWeed
from engine.store.http import Grant, PutSpec
from tests.backups.conftest import MIB, Site, site
from tests.stack.conftest import s3_client
from vaults.grants import GRANT_LIFETIME
from vaults.probe_uploads import granted_key, send
from vaults.tampering import UNSIGNED_EXTRAS, Upload, tampered

__all__ = ["site"]
pytestmark = pytest.mark.stack
LEAST_VARIANTS = 25


@pytest.fixture
def session(site: Site, settings: Any) -> Iterator[tuple[SessionClient, BackupWork]]:
    definition = site.definition(site.server("web01", content=os.urandom(MIB)))
    job = request_backup(definition=definition, actor=site.admin, now=timezone.now())
    claim = claim_job(job_id=job.pk, now=timezone.now())
    assert claim is not None
    client = SessionClient(gate_url=settings.CONFIG.gate_url, token=claim.token, retry_seconds=1)
    yield client, client.open()


def spec_of(work: BackupWork, data: bytes) -> PutSpec:
    sha256, md5 = hashlib.sha256(data).hexdigest(), base64.b64encode(hashlib.md5(data).digest()).decode()
    return PutSpec(f"t/{work.tenant}/d/{work.domain}/p/{sha256}", sha256, md5, len(data))


def upload_of(grant: Grant, data: bytes) -> Upload:
    return Upload("granted", grant.method, grant.url, grant.headers, data)


def versions(weed: EmbeddedWeed, bucket: str, prefix: str) -> list[Any]:
    root = s3_client(weed.url, weed.credentials["root"])
    told = root.list_object_versions(Bucket=bucket, Prefix=prefix)
    return [*told.get("Versions", []), *told.get("DeleteMarkers", [])]


@pytest.mark.case("AZ-13")
def test_every_tampering_is_refused_and_leaves_nothing(
    session: tuple[SessionClient, BackupWork],
    site: Site,
    weed: EmbeddedWeed,
) -> None:
    client, work = session
    data = os.urandom(1000)
    granted = upload_of(client.grant_puts([spec_of(work, data)])[0], data)

    statuses = {attempt.name: send(attempt) for attempt in tampered(granted)}

    assert len(statuses) >= LEAST_VARIANTS
    assert {name: status for name, status in statuses.items() if status < 400} == {}
    assert versions(weed, site.vault.bucket, granted_key(granted)) == []
    assert send(granted) == 200
    stored = versions(weed, site.vault.bucket, granted_key(granted))
    assert len(stored) == 1


def test_every_tampering_is_its_own(session: tuple[SessionClient, BackupWork]) -> None:
    client, work = session
    granted = upload_of(client.grant_puts([spec_of(work, b"data")])[0], b"data")

    attempts = list(tampered(granted))

    assert len({attempt.name for attempt in attempts}) == len(attempts)
    asked = {(a.method, a.url, tuple(sorted(a.headers.items())), a.body) for a in [granted, *attempts]}
    assert len(asked) == len(attempts) + 1


@pytest.mark.parametrize("header", UNSIGNED_EXTRAS)
def test_a_header_that_was_not_signed_is_refused(session: tuple[SessionClient, BackupWork], header: str) -> None:
    client, work = session
    granted = upload_of(client.grant_puts([spec_of(work, b"data")])[0], b"data")

    assert send(replace(granted, headers={**granted.headers, header: UNSIGNED_EXTRAS[header]})) >= 400


@pytest.mark.case("AZ-13")
def test_a_grant_works_once(session: tuple[SessionClient, BackupWork]) -> None:
    client, work = session
    granted = upload_of(client.grant_puts([spec_of(work, b"data")])[0], b"data")

    assert (send(granted), send(granted)) == (200, 412)


def test_a_grant_that_was_kept_too_long_is_refused(session: tuple[SessionClient, BackupWork], settings: Any) -> None:
    client, work = session
    specs = [spec_of(work, data) for data in (b"old", b"young")]
    with time_machine.travel(timezone.now() - GRANT_LIFETIME - timedelta(seconds=5), tick=True):
        old = client.grant_puts(specs[:1])[0]
    with time_machine.travel(timezone.now() - GRANT_LIFETIME + timedelta(seconds=60), tick=True):
        young = client.grant_puts(specs[1:])[0]

    assert send(upload_of(old, b"old")) == 403
    assert send(upload_of(young, b"young")) == 200
