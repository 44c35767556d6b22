"""What a mover with a session's token can and cannot do."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
from django.utils import timezone

from agents.models import Server
from agents.program.session import GateRefusedError, SessionClient, SessionEndedError
from agents.protocol import BackupWork, Progress
from backups.models import Job, Session
from backups.services import request_backup
from backups.transitions import claim_job
from engine.store.base import ObjectRef
from engine.store.http import Grant, PutSpec
from tenants.models import AuditEvent
from tests.backups.conftest import MIB, Site
from vaults.models import StoredObject
from vaults.presign import MUST_BE_SIGNED
from vaults.storage import Credential, client_for

pytestmark = pytest.mark.stack


@dataclass
class Opened:
    """A claimed backup job with its session opened."""

    site: Site
    job: Job
    client: SessionClient
    work: BackupWork

    def spec(self, data: bytes, *, kind: str = "p", tenant: str = "", domain: str = "") -> PutSpec:
        name = hashlib.sha256(data).hexdigest()
        key = f"t/{tenant or self.work.tenant}/d/{domain or self.work.domain}/{kind}/{name}"
        md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
        return PutSpec(key=key, sha256=name, md5_base64=md5, size_bytes=len(data))


@pytest.fixture
def opened(site: Site, settings) -> Opened:
    disk = site.server("web01", content=os.urandom(MIB))
    definition = site.definition(disk)
    site.back_up(definition)
    job = request_backup(definition=definition, actor=site.admin, now=timezone.now())
    claim = claim_job(job_id=job.pk, now=timezone.now())
    client = SessionClient(gate_url=settings.CONFIG.gate_url, token=claim.token, retry_seconds=1)
    return Opened(site=site, job=job, client=client, work=client.open())


def send(grant: Grant, data: bytes, *, method: str = "", url: str = "", **headers: str | None) -> tuple[int, bytes]:
    parts = urlsplit(url or grant.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    told = {**grant.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
    told = {name: value for name, value in told.items() if value is not None}
    connection.putrequest(method or grant.method, f"{parts.path}?{parts.query}", skip_accept_encoding=True)
    for name, value in told.items():
        connection.putheader(name, value)
    connection.endheaders()
    with contextlib.suppress(OSError):
        connection.send(data)
    answer = connection.getresponse()
    status, body = answer.status, answer.read()
    connection.close()
    return status, body


def test_a_grant_binds_everything_and_is_in_the_ledger_before(opened: Opened) -> None:
    spec = opened.spec(b"pack" * 100)

    grant = opened.client.grant_puts([spec])[0]

    signed = set(parse_qs(urlsplit(grant.url).query)["X-Amz-SignedHeaders"][0].split(";"))
    assert signed >= MUST_BE_SIGNED
    row = StoredObject.objects.get(key=spec.key)
    assert (row.status, row.sha256, row.size_bytes) == ("granted", spec.sha256, 400)
    assert send(grant, b"pack" * 100)[0] == 200
    assert send(grant, b"pack" * 100)[0] == 412


@pytest.mark.case("AG-15", "AZ-13")
def test_no_tampering_with_a_grant_is_accepted(opened: Opened) -> None:
    data = os.urandom(1000)
    grant = opened.client.grant_puts([opened.spec(data)])[0]
    parts = urlsplit(grant.url)
    query = dict(parse_qsl(parts.query))
    later = (timezone.now() + timedelta(days=36500)).strftime("%Y-%m-%dT%H:%M:%SZ")
    sooner = (timezone.now() + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def with_query(**changes: str) -> str:
        return parts._replace(query=urlencode({**query, **changes})).geturl()

    attempts = {
        "other body": send(grant, os.urandom(1000)),
        "longer body": send(grant, data + b"x", Content_Length="1001"),
        "shorter body": send(grant, data[:-1], Content_Length="999"),
        "other key": send(grant, data, url=grant.url.replace("/p/", "/p/00", 1)),
        "other bucket": send(grant, data, url=grant.url.replace(opened.site.vault.bucket, "backup-vault-none", 1)),
        "other method": send(grant, b"", method="DELETE", Content_Length="0"),
        "longer life": send(grant, data, url=with_query(**{"X-Amz-Expires": "604000"})),
        "a version": send(grant, data, url=with_query(versionId="null")),
        "retention sub-resource": send(grant, data, url=with_query(retention="")),
        "lock for a hundred years": send(grant, data, x_amz_object_lock_retain_until_date=later),
        "lock for an hour": send(grant, data, x_amz_object_lock_retain_until_date=sooner),
        "governance": send(grant, data, x_amz_object_lock_mode="GOVERNANCE"),
        "no lock mode": send(grant, data, x_amz_object_lock_mode=None),
        "no lock date": send(grant, data, x_amz_object_lock_retain_until_date=None),
        "no condition": send(grant, data, If_None_Match=None),
        "no checksum": send(grant, data, x_amz_checksum_sha256=None),
        "no md5": send(grant, data, Content_MD5=None),
        "legal hold": send(grant, data, x_amz_object_lock_legal_hold="ON"),
        "copy source": send(grant, data, x_amz_copy_source="/other/key"),
    }

    accepted = {name: status for name, (status, _) in attempts.items() if status < 400}
    assert not accepted
    assert send(grant, data)[0] == 200


@pytest.mark.case("AG-15", "AZ-13")
def test_no_grant_lists_what_is_in_the_vault(opened: Opened) -> None:
    data, vault = os.urandom(1000), opened.site.vault
    row = StoredObject.objects.filter(domain_id=opened.work.domain, kind="m", status="stored").get()
    # Of another one: an error names the object that was asked for.
    secret = StoredObject.objects.filter(domain_id=opened.work.domain, kind="p", status="stored")[0].key.encode()
    grants = {
        "PUT": opened.client.grant_puts([opened.spec(data)])[0],
        "GET": opened.client.grant_gets([ObjectRef(row.key, row.sha256, row.size_bytes, row.version_id)])[0],
    }
    assert send(grants["GET"], b"")[0] == 200

    answers = {}
    for name, grant in grants.items():
        parts = urlsplit(grant.url)
        for what in ("list-type=2", "versions=", "uploads=", "prefix=t/", "object-lock=", "policy="):
            for path in (f"/{vault.bucket}", f"/{vault.bucket}/", "/", parts.path):
                for query in (f"{what}&{parts.query}", f"{parts.query}&{what}", what):
                    url = parts._replace(path=path, query=query).geturl()
                    length = {"Content_Length": "0"} if "Content-Length" in grant.headers else {}
                    answers[name, path, query] = send(grant, b"", method="GET", url=url, **length)

    assert len(answers) == 144
    assert {asked: status for asked, (status, _) in answers.items() if status < 400} == {}
    assert [asked for asked, (_, body) in answers.items() if secret in body] == []
    # Asked in the same way by who may, the store lists it.
    told = {"Params": {"Bucket": vault.bucket}, "ExpiresIn": 60}
    for call in ("list_objects_v2", "list_object_versions"):
        url = client_for(vault.endpoint, Credential.KEEPER).generate_presigned_url(call, **told)
        status, body = send(Grant("GET", url, {}), b"")
        assert status == 200 and secret in body


@pytest.mark.case("AG-15", "AZ-11")
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"tenant": "00000000-0000-7000-8000-000000000000"}, "foreign_key"),
        ({"domain": "00000000-0000-7000-8000-000000000000"}, "foreign_key"),
        ({"kind": "x"}, "foreign_key"),
        ({"kind": "../../p"}, "foreign_key"),
        ({"kind": "m"}, "foreign_key"),
    ],
)
def test_nothing_outside_of_the_domain_is_granted(opened: Opened, change: dict[str, str], code: str) -> None:
    before = StoredObject.objects.count()

    with pytest.raises(GateRefusedError) as refused:
        opened.client.grant_puts([opened.spec(b"data", **change)])

    assert refused.value.code == code
    assert StoredObject.objects.count() == before


def test_a_vault_in_the_servers_own_region_is_on_the_job_and_in_the_audit_of_each_backup(site: Site) -> None:
    """By the session itself: nobody but the signer knows that a backup begins."""
    disk = site.server("moved", content=b"m" * MIB)
    definition = site.definition(disk)
    own = AuditEvent.objects.filter(action="backup.same_region")
    assert site.back_up(definition).state == "ok" and not own.exists()
    Server.objects.filter(pk=disk.server_id).update(region_id=site.vault.endpoint.region_id)

    jobs = [site.back_up(definition) for _ in range(2)]

    assert [job.state for job in jobs] == ["ok", "ok"]
    assert [job.events.filter(code="same_region").count() for job in jobs] == [1, 1]
    assert own.count() == 2


def test_names_that_are_not_the_hash_and_wrong_sizes_are_refused(opened: Opened) -> None:
    good = opened.spec(b"data")
    wrong = [
        PutSpec(good.key, "00" * 32, good.md5_base64, good.size_bytes),
        PutSpec(good.key, good.sha256, "AAAA", good.size_bytes),
        PutSpec(good.key, good.sha256, good.md5_base64, 0),
        PutSpec(good.key, good.sha256, good.md5_base64, 2**40),
    ]

    for spec in wrong:
        with pytest.raises(GateRefusedError):
            opened.client.grant_puts([spec])


@pytest.mark.case("AG-15")
def test_a_session_cannot_upload_more_than_its_disk_allows(opened: Opened) -> None:
    Session.objects.filter(job=opened.job).update(granted_bytes=10**12)

    with pytest.raises(GateRefusedError) as refused:
        opened.client.grant_puts([opened.spec(b"data")])

    assert refused.value.code == "quota_exceeded"


@pytest.mark.case("AG-15")
def test_a_backup_reads_the_map_of_its_base_and_neither_content_nor_keys(opened: Opened) -> None:
    rows = {row.kind: row for row in StoredObject.objects.filter(domain_id=opened.work.domain, status="stored")}

    def ask(kind: str) -> Grant:
        row = rows[kind]
        return opened.client.grant_gets([ObjectRef(row.key, row.sha256, row.size_bytes, row.version_id)])[0]

    assert ask("m").method == ask("i").method == "GET"
    for kind in ("p", "k"):
        with pytest.raises(GateRefusedError) as refused:
            ask(kind)
        assert refused.value.code == "not_found"


@pytest.mark.case("AG-15")
def test_a_backup_gets_no_key_that_opens_earlier_ones(opened: Opened) -> None:
    told = {name for name in BackupWork.__struct_fields__ if "key" in name}

    assert told == {"id_key", "map_key", "tenant_public_key"}


@pytest.mark.case("AG-15", "AZ-12")
def test_a_read_of_another_servers_objects_looks_like_a_missing_one(opened: Opened) -> None:
    other = opened.site.back_up(opened.site.definition(opened.site.server("other", content=b"y" * MIB))).backup.manifest

    with pytest.raises(GateRefusedError) as foreign:
        opened.client.grant_gets([ObjectRef(other.key, other.sha256, other.size_bytes, other.version_id)])
    with pytest.raises(GateRefusedError) as missing:
        opened.client.grant_gets([ObjectRef("t/none", "00" * 32, 1, "v")])

    assert (foreign.value.code, foreign.value.message) == (missing.value.code, missing.value.message)


def test_a_wrong_token_is_refused_and_never_repeated(opened: Opened, settings) -> None:
    client = SessionClient(gate_url=settings.CONFIG.gate_url, token="guess-" + "x" * 30, retry_seconds=1)

    with pytest.raises(SessionEndedError) as refused:
        client.open()

    assert refused.value.code == "not_signed_in"
    assert "guess" not in str(refused.value) + repr(client)


@pytest.mark.case("AZ-11")
def test_a_session_without_lease_can_do_nothing(opened: Opened) -> None:
    Job.objects.filter(pk=opened.job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))

    for call in (
        lambda: opened.client.heartbeat(Progress(phase="copying")),
        lambda: opened.client.grant_puts([opened.spec(b"data")]),
        opened.client.open,
    ):
        with pytest.raises(SessionEndedError):
            call()


def test_a_message_that_is_not_of_the_schema_is_refused(opened: Opened, settings) -> None:
    parts = urlsplit(settings.CONFIG.gate_url)
    token = opened.client._token
    for body in (b"", b"[]", b'{"specs": 1}', b"\xff", b'{"specs": [{"key": 1}]}', b"[" * 50_000):
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
        connection.request("POST", "/session/v1/grants/put", body, {"Authorization": f"Bearer {token}"})
        assert connection.getresponse().status == 400
        connection.close()


@pytest.mark.case("AZ-14")
def test_a_mover_that_floods_the_gate_is_stopped_and_the_others_are_not(opened: Opened, settings: Any) -> None:
    beat = Progress(phase="reading", total_bytes=MIB)
    stranger = SessionClient(gate_url=settings.CONFIG.gate_url, token="of nobody", retry_seconds=0)
    settings.API_RATES = {"session": "3/d"}
    opened.client.heartbeat(beat)
    opened.client.heartbeat(beat)
    opened.client.heartbeat(beat)

    with pytest.raises(GateRefusedError) as flood:
        opened.client.heartbeat(beat)
    with pytest.raises(SessionEndedError) as other:
        stranger.heartbeat(beat)

    assert (flood.value.code, other.value.code) == ("throttled", "not_signed_in")
