"""The probe: the real server passes, and a store that breaks one promise is refused with the failing call named."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from backupsite.stack.weed import EmbeddedWeed
from tests.stack.conftest import s3_client
from tests.vaults.lying_store import DELETED, OBEYED, STORED, Answer, Lie, LyingStore, Request, Silence
from vaults import probe_locks, storage
from vaults.models import Vault
from vaults.probe import ProbeReport, probe_vault
from vaults.probe_bucket import remove_leftovers
from vaults.probe_subject import Clock, ProbeFailedError, ProbeUnansweredError, Subject, real_clock
from vaults.provisioner import prepare_vault

pytestmark = pytest.mark.stack

LOCKED = "/locked"
HEAD_LOCK = ("x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date")


def when(condition: Callable[[Request], bool], lie: Callable[[Answer], Answer]) -> Lie:
    return lambda request, true: lie(true) if condition(request) else true


def is_retention(request: Request, text: bytes = b"") -> bool:
    return request.method == "PUT" and "retention" in request.query and text in request.body


def deletes_version(request: Request) -> bool:
    return request.method == "DELETE" and "versionId" in request.query


def bypasses(request: Request) -> bool:
    return "x-amz-bypass-governance-retention" in request.headers


def batch_says_deleted(true: Answer) -> Answer:
    return replace(true, body=true.body.replace(b"<Error>", b"<Deleted>").replace(b"</Error>", b"</Deleted>"))


def retention_date(request: Request) -> str:
    found = re.search(rb"<RetainUntilDate>([^<]+)<", request.body)
    return found[1].decode() if found else ""


def shortens(request: Request) -> bool:
    soon = (timezone.now() + timedelta(seconds=75)).strftime("%Y-%m-%dT%H:%M:%SZ")
    now = timezone.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    return is_retention(request, b"COMPLIANCE") and now < retention_date(request) < soon


def past(request: Request) -> bool:
    now = timezone.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    return is_retention(request, b"COMPLIANCE") and retention_date(request) < now


def puts(request: Request, name: str) -> bool:
    return request.method == "PUT" and request.path.endswith(name) and not request.query


def presigned(request: Request) -> bool:
    return "X-Amz-Signature" in request.query


def forget_newest(true: Answer) -> Answer:
    return replace(true, body=re.sub(rb"<Version>.*?</Version>", b"", true.body, count=1, flags=re.DOTALL))


def lists_runs(request: Request) -> bool:
    return "versions" in request.query and len(request.query.get("prefix", [""])[0]) > len("probe/runs/")


def forgets_retention(request: Request, true: Answer) -> Answer:
    """Says that it lengthened the lock, and did not."""
    if request.method == "GET" and "retention" in request.query:
        earlier = re.sub(rb"(?<=<RetainUntilDate>)\d{4}", lambda year: b"%d" % (int(year[0]) - 1), true.body)
        return replace(true, body=earlier)
    return true


_first_version: dict[str, str] = {}


def overwrites_in_place(request: Request, true: Answer) -> Answer:
    """Gives the second body the version id of the first."""
    if not puts(request, LOCKED):
        return true
    version_id = _first_version.setdefault(request.path, true.headers["x-amz-version-id"])
    return true.having(x_amz_version_id=version_id)


def hours_late(true: Answer) -> Answer:
    return true.having(date="Thu, 01 Jan 2026 00:00:00 GMT")


EXPIRES = (
    b"<LifecycleConfiguration><Rule><ID>tidy</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter>"
    b"<Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>"
)
ONE_VERSION = b"""<ListVersionsResult><IsTruncated>false</IsTruncated><Version><Key>k</Key><VersionId>v</VersionId>
<IsLatest>true</IsLatest><Size>1</Size></Version></ListVersionsResult>"""
DENIED = Answer(403, {"content-type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")
LIES: dict[str, tuple[Lie, str, str]] = {
    "ignores lock headers": (
        when(lambda r: r.method == "HEAD" and r.path.endswith(LOCKED), lambda a: a.without(*HEAD_LOCK)),
        "PutObject",
        "the lock of the request was not kept",
    ),
    "gives no version": (
        when(lambda r: puts(r, "/short"), lambda a: a.without("x-amz-version-id")),
        "PutObject",
        "gave the object no version",
    ),
    "deletes a locked version": (when(deletes_version, lambda a: DELETED), "DeleteObject", "deleted a locked version"),
    "deletes for the bypass header": (
        when(lambda r: deletes_version(r) and bypasses(r), lambda a: DELETED),
        "DeleteObject",
        "bypass header",
    ),
    "deletes in a batch": (
        when(lambda r: "delete" in r.query and LOCKED.encode() in r.body, batch_says_deleted),
        "DeleteObjects",
        "deleted a locked version",
    ),
    "refuses and deletes all the same": (
        when(lambda r: r.method == "GET" and r.path.endswith(LOCKED), lambda a: replace(a, body=b"")),
        "DeleteObject",
        "it was refused, and yet",
    ),
    "accepts shortening": (when(shortens, lambda a: OBEYED), "PutObjectRetention", "made a lock shorter"),
    "accepts shortening with bypass": (
        when(lambda r: shortens(r) and bypasses(r), lambda a: OBEYED),
        "PutObjectRetention",
        "made a lock shorter",
    ),
    "accepts a past date": (when(past, lambda a: OBEYED), "PutObjectRetention", "a lock date in the past"),
    "takes a lock away": (
        when(lambda r: is_retention(r) and b"Mode" not in r.body, lambda a: OBEYED),
        "PutObjectRetention",
        "took a lock away",
    ),
    "accepts GOVERNANCE": (
        when(lambda r: is_retention(r, b"GOVERNANCE"), lambda a: OBEYED),
        "PutObjectRetention",
        "weakened a COMPLIANCE lock",
    ),
    "forgets an extension": (forgets_retention, "PutObjectRetention", "did not lengthen"),
    "accepts an object whose lock is over": (
        when(lambda r: puts(r, "/past"), lambda a: STORED),
        "PutObject",
        "whose lock is over already",
    ),
    "overwrites in place": (overwrites_in_place, "PutObject", "overwrote a locked version"),
    "keeps what it refused": (
        when(lambda r: r.query.get("prefix", [""])[0].endswith("/signed"), lambda a: Answer(200, {}, ONE_VERSION)),
        "presigned PutObject",
        "and yet kept one of them",
    ),
    "lays no marker": (
        when(lambda r: r.method == "DELETE" and not r.query, lambda a: DELETED),
        "DeleteObject",
        "made no delete marker",
    ),
    "has no default retention": (
        when(lambda r: r.method == "HEAD" and "/lasting/" in r.path, lambda a: a.without(*HEAD_LOCK)),
        "PutObject",
        "default retention was not applied",
    ),
    "suspends versioning": (
        when(lambda r: "versioning" in r.query and b"Suspended" in r.body, lambda a: OBEYED),
        "PutBucketVersioning",
        "let versioning be suspended",
    ),
    "ignores ranges": (
        when(lambda r: "range" in r.headers, lambda a: replace(a, status=200, body=b"0123456789")),
        "GetObject",
        "a range of 4 bytes",
    ),
    "lists incompletely": (when(lists_runs, forget_newest), "ListObjectVersions", "are not listed"),
    "expires objects by a rule": (
        when(lambda r: "lifecycle" in r.query, lambda a: Answer(200, {}, EXPIRES)),
        "GetBucketLifecycleConfiguration",
        "'tidy' deletes objects by itself",
    ),
    "checks neither hash": (
        when(lambda r: puts(r, "/md5") or puts(r, "/sha256"), lambda a: STORED),
        "PutObject",
        "neither their MD5 nor their SHA-256",
    ),
    "accepts a dropped condition": (
        when(lambda r: presigned(r) and "if-none-match" not in r.headers and r.method == "PUT", lambda a: STORED),
        "presigned PutObject",
        "without If-None-Match",
    ),
    "accepts an expired signature": (
        lambda r, true: STORED if presigned(r) and b"expired" in true.body.lower() else true,
        "presigned PutObject",
        "(expired: 200)",
    ),
    "refuses right signatures": (
        when(lambda r: presigned(r) and r.method == "PUT", lambda a: DENIED),
        "presigned PutObject",
        "signed rightly",
    ),
    "lets the provisioner read backups": (
        when(lambda r: r.key.startswith("t/") and r.method == "GET", lambda a: OBEYED),
        "GetObject",
        "was allowed to the provisioner on t/",
    ),
    "lets the keeper delete": (
        when(lambda r: r.method == "DELETE" and "probe-of-rights" in r.path and r.key[0] == "p", lambda a: DELETED),
        "DeleteObject",
        "was allowed to the keeper",
    ),
    "has a wrong clock": (when(lambda r: True, hours_late), "HeadBucket", "set both by NTP"),
    "has no clock": (when(lambda r: True, lambda a: a.without("date")), "HeadBucket", "has no date"),
}


@pytest.fixture(scope="module")
def proxy(weed: EmbeddedWeed) -> Iterator[LyingStore]:
    with LyingStore(weed.url) as store:
        yield store


@pytest.fixture
def store(proxy: LyingStore) -> Iterator[LyingStore]:
    truth = proxy.lie
    yield proxy
    proxy.lie = truth


def prepare(vault: Vault, url: str) -> Vault:
    vault.endpoint.url = url
    vault.endpoint.save()
    prepare_vault(vault_id=str(vault.pk))
    vault.refresh_from_db()
    return vault


def test_the_real_server_passes_within_the_time(vault: Vault, weed: EmbeddedWeed) -> None:
    begun = time.monotonic()

    prepare(vault, weed.url)

    assert (vault.status, vault.refusal) == (Vault.Status.READY, "")
    assert time.monotonic() - begun < 25
    assert all(check["result"] == "ok" for check in vault.probe_report)
    assert len(vault.probe_report) >= 24
    assert vault.capabilities == dict.fromkeys(
        (
            *("checks_md5", "checks_sha256", "conditional_create", "multipart_keeps_lock"),
            *("presigned_replay_refused", "unsigned_headers_refused"),
        ),
        True,
    )
    assert vault.probed_at is not None
    assert vault.settings_seen["versioning"] == "Enabled"


@pytest.mark.parametrize("name", LIES)
def test_a_store_is_refused_that(vault: Vault, store: LyingStore, name: str) -> None:
    lie, call, finding = LIES[name]

    store.lie = lie
    prepare(vault, store.url)

    assert vault.status == Vault.Status.REFUSED
    assert vault.refusal.startswith(f"{call}: ")
    assert finding in vault.refusal
    assert vault.probe_report[-1] == {**vault.probe_report[-1], "result": "failed", "note": vault.refusal}
    assert vault.settings_seen == {}


class AllFoundError(Exception):
    """The probe waits for its last check, which has a test of its own."""


def all_found(seconds: float) -> None:
    raise AllFoundError


CLOCK_THAT_NEVER_WAITS = replace(real_clock(), wait_seconds=all_found)
WEAKNESSES: dict[str, tuple[Lie, str]] = {
    "checks no MD5": (when(lambda r: puts(r, "/md5"), lambda a: STORED), "checks_md5"),
    "checks no SHA-256": (when(lambda r: puts(r, "/sha256"), lambda a: STORED), "checks_sha256"),
    "ignores If-None-Match": (
        when(lambda r: puts(r, "/once") and "if-none-match" in r.headers, lambda a: STORED),
        "conditional_create",
    ),
    "takes a presigned upload twice": (
        lambda r, true: STORED if true.status == 412 and presigned(r) else true,
        "presigned_replay_refused",
    ),
    "takes headers that were not signed": (
        when(lambda r: presigned(r) and "x-amz-tagging" in r.headers, lambda a: STORED),
        "unsigned_headers_refused",
    ),
    "drops the lock of a multipart upload": (
        when(lambda r: r.method == "HEAD" and r.path.endswith("/multipart"), lambda a: a.without(*HEAD_LOCK)),
        "multipart_keeps_lock",
    ),
}


@pytest.mark.parametrize("name", WEAKNESSES)
def test_a_weakness_that_the_service_can_do_with_is_written_down(vault: Vault, store: LyingStore, name: str) -> None:
    lie, capability = WEAKNESSES[name]
    make_bucket(vault)
    report = ProbeReport()

    store.lie = lie
    vault.endpoint.url = store.url
    with pytest.raises(AllFoundError):
        probe_vault(vault, report, clock=CLOCK_THAT_NEVER_WAITS)

    assert {name for name, found in report.capabilities.items() if not found} == {capability}


def make_bucket(vault: Vault) -> None:
    prepare_vault(vault_id=str(vault.pk), probe=lambda vault, report: None)


def test_a_store_that_never_lets_go_is_refused(
    vault: Vault, weed: EmbeddedWeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than the other checks take on a busy machine.
    monkeypatch.setattr(probe_locks, "SHORT_LOCK", timedelta(minutes=10))
    make_bucket(vault)
    report = ProbeReport()

    with pytest.raises(ProbeFailedError, match=r"^DeleteObject: refused with AccessDenied"):
        probe_vault(vault, report, clock=replace(real_clock(), wait_seconds=lambda seconds: None))

    assert report.checks[-1]["check"] == "deleting after the lock"


def test_a_store_that_only_says_that_it_deleted_is_refused(vault: Vault, store: LyingStore) -> None:
    make_bucket(vault)
    store.lie = lambda request, true: (
        true if not request.path.endswith("/short") or request.method == "PUT" else Answer(200, {}, b"")
    )
    vault.endpoint.url = store.url

    with pytest.raises(ProbeFailedError, match="still there after it was deleted"):
        probe_vault(vault, ProbeReport(), clock=replace(real_clock(), wait_seconds=lambda seconds: None))


@pytest.mark.parametrize("place", ["first call", "in the middle", "presigned"])
def test_a_store_that_hangs_does_not_answer(
    vault: Vault, store: LyingStore, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    hangs = {
        "first call": lambda r: True,
        "in the middle": lambda r: r.path.endswith(LOCKED),
        "presigned": presigned,
    }[place]

    def lie(request: Request, true: Answer) -> Answer:
        if hangs(request):
            raise Silence
        return true

    monkeypatch.setitem(storage._IMPATIENT, "read_timeout", 0.5)
    monkeypatch.setattr(storage, "_client", storage._client.__wrapped__)
    monkeypatch.setattr("vaults.probe_uploads._TIMEOUT_SECONDS", 0.5)
    begun = time.monotonic()
    store.lie = lie
    prepare(vault, store.url)

    assert vault.status == Vault.Status.PENDING
    assert "does not answer" in vault.refusal
    assert time.monotonic() - begun < 10


def test_a_store_that_fails_is_asked_again_later(vault: Vault, store: LyingStore) -> None:
    broken = Answer(503, {}, b"<Error><Code>SlowDown</Code></Error>")
    store.lie = when(lambda r: puts(r, "/range"), lambda a: broken)
    prepare(vault, store.url)

    assert (vault.status, vault.refusal) == (
        Vault.Status.PENDING,
        "PutObject: the store failed with SlowDown; try again.",
    )


def test_a_store_that_answers_slowly_ends_the_probe_in_time(vault: Vault, weed: EmbeddedWeed) -> None:
    make_bucket(vault)
    ticks = iter(range(0, 10000, 4))
    clock = Clock(now=timezone.now, monotonic_seconds=lambda: float(next(ticks)), wait_seconds=lambda seconds: None)

    with pytest.raises(ProbeUnansweredError, match="does not answer in time"):
        probe_vault(vault, ProbeReport(), clock=clock)


def test_leftovers_of_earlier_probes_are_removed_and_locked_ones_stay(vault: Vault, weed: EmbeddedWeed) -> None:
    root: Any = s3_client(weed.url, weed.credentials["root"])
    root.create_bucket(Bucket=vault.bucket, ObjectLockEnabledForBucket=True)
    lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": timezone.now() + timedelta(minutes=5)}
    for key in ("probe/runs/a/free", "probe/lasting/a", "t/one/d/two/p/abc"):
        root.put_object(Bucket=vault.bucket, Key=key, Body=b"x")
    root.put_object(Bucket=vault.bucket, Key="probe/runs/b/held", Body=b"x", **lock)

    remove_leftovers(Subject(vault, real_clock()))

    left = [version["Key"] for version in root.list_object_versions(Bucket=vault.bucket)["Versions"]]
    assert left == ["probe/runs/b/held", "t/one/d/two/p/abc"]


def test_a_secret_is_in_no_report(vault: Vault, weed: EmbeddedWeed, store: LyingStore) -> None:
    store.lie = LIES["accepts a dropped condition"][0]
    prepare(vault, store.url)

    told = f"{vault.refusal} {vault.probe_report}"
    assert "Signature" not in told
    assert not any(credential.secret_key in told for credential in weed.credentials.values())
