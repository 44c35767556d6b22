"""What is found in a bucket, what is believed, and what is said about the rest. Over a model store."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.alone.catalogue import open_domain
from engine.alone.finding import NothingFoundError, Scope, find_backup, open_domains
from engine.alone.layout import DomainPlace, find_domains, find_manifests
from engine.alone.listing import BackupSummary, DomainListing, chain_findings, list_domain
from engine.crypto import (
    SessionKeys,
    generate_domain_keys,
    generate_session_keys,
    generate_tenant_key,
    writer_key_from_private,
)
from engine.envelope import seal_envelope, unwrap_envelope
from engine.errors import IntegrityError, KeyMismatchError, SignatureError
from engine.hashing import sha256_hex
from engine.recovery import RecoveryKey
from engine.store.base import ObjectKind, object_key
from tests.alone.support import (
    NOW,
    RECOVERY_KEY,
    WRITER_KEY,
    ModelBucket,
    Server,
    copy_without,
    model_server,
)
from tests.engine.support import noise, seeded_bytes

PLACE = DomainPlace("acme", "web01")


def listed(bucket: ModelBucket) -> DomainListing:
    return list_domain(bucket, open_domain(bucket, PLACE, RECOVERY_KEY))


def codes(listing: DomainListing) -> list[str]:
    return [finding.code for source in listing.sources for finding in source.findings]


def backups(listing: DomainListing) -> list[BackupSummary]:
    return [backup for source in listing.sources for backup in source.backups]


def with_backups(count: int = 2, **changes: Any) -> tuple[Server, ModelBucket]:
    server, bucket = model_server(**changes)
    for number in range(count):
        server.back_up(noise(20_000, str(number)), base=server.results[-1] if server.results else None)
    server.describe()
    return server, bucket


def cover(bucket: ModelBucket) -> None:
    for key in {version.key for version in bucket.store.list_versions()}:
        bucket.store.put_object(key=key, data=b"junk")
        bucket.store.delete_object(key=key)


def test_backups_are_listed_with_what_people_call_things() -> None:
    server, bucket = with_backups(3)

    found = listed(bucket)

    assert [backup.sequence for backup in backups(found)] == [1, 2, 3]
    assert [backup.backup for backup in backups(found)] == [result.manifest.sha256 for result in server.results]
    assert all(backup.is_complete for backup in backups(found))
    assert found.domain.description.labels is not None
    assert found.domain.description.labels.server_name == "server web01"
    assert codes(found) == []


def test_nothing_can_be_hidden_by_laying_something_over_it() -> None:
    _, bucket = with_backups()
    before = backups(listed(bucket))

    cover(bucket)

    assert backups(listed(bucket)) == before
    assert list(find_domains(bucket)) == [PLACE]


@pytest.mark.parametrize("kind", ["p", "i", "k"])
def test_a_missing_object_makes_exactly_its_backups_incomplete(kind: str) -> None:
    server, bucket = model_server()
    for number in range(2):
        server.back_up(noise(20_000, str(number)))
    server.describe()
    gone = next(ref.key for ref in server.results[0].new_objects if f"/{kind}/" in ref.key)

    found = backups(listed(ModelBucket(copy_without(bucket.store, {gone}))))

    assert [backup.is_complete for backup in found] == [False, True]
    assert found[0].missing == (gone,)


def test_an_object_of_another_size_is_missing() -> None:
    server, bucket = with_backups(1)
    pack = next(ref for ref in server.results[0].new_objects if "/p/" in ref.key)
    store = copy_without(bucket.store, {pack.key})
    store.put_object(key=pack.key, data=b"short")

    assert backups(listed(ModelBucket(store)))[0].missing == (pack.key,)


def test_a_manifest_of_a_writer_that_the_description_does_not_trust_is_told_not_listed() -> None:
    server, bucket = with_backups(1)
    stranger = writer_key_from_private(noise(32, "stranger"))
    forged = server.back_up(noise(5000, "forged"), writer_key=stranger)

    found = listed(bucket)

    assert [backup.sequence for backup in backups(found)] == [1]
    assert codes(found) == ["unreadable_backup"]
    assert forged.manifest.sha256[:12] in found.sources[0].findings[0].message
    with pytest.raises(SignatureError):
        find_backup(bucket, RECOVERY_KEY, Scope(), forged.manifest.sha256)


def test_an_old_manifest_that_is_stored_again_as_the_newest_is_told_not_listed() -> None:
    server, bucket = with_backups(2)
    old = server.results[0].manifest
    newest = server.results[1].manifest.key.rpartition("-")[0].replace("2", "9")
    bucket.store.put_object(key=f"{newest}-{old.sha256}", data=bucket.store.get(old))
    bucket.store.put_object(key=old.key.replace("disk-0", "disk-1"), data=bucket.store.get(old))

    found = listed(bucket)

    assert [backup.sequence for backup in backups(found)] == [1, 2]
    assert codes(found) == ["unreadable_backup", "unreadable_backup"]


def test_a_republished_older_description_takes_no_trust_away() -> None:
    server, bucket = model_server()
    second_writer = writer_key_from_private(noise(32, "second"))
    server.back_up(noise(5000))
    old = server.describe()
    server.back_up(noise(5000, "later"), writer_key=second_writer)
    server.describe(writers=[WRITER_KEY.public, second_writer.public])
    bucket.store.put_object(key=old.key, data=bucket.store.get(old))

    assert [backup.sequence for backup in backups(listed(bucket))] == [1, 2]


def test_a_description_of_another_catalogue_key_is_not_believed() -> None:
    server, bucket = with_backups(1)
    stranger = writer_key_from_private(noise(32, "stranger"))
    server.describe(catalogue_key=stranger, writers=[stranger.public])

    assert listed(bucket).domain.description.body.writers == [WRITER_KEY.public]


def test_without_a_valid_description_nothing_is_trusted() -> None:
    server, bucket = model_server()
    server.back_up(noise(5000))
    server.describe(catalogue_key=writer_key_from_private(noise(32, "stranger")))

    with pytest.raises(IntegrityError) as caught:
        open_domain(bucket, PLACE, RECOVERY_KEY)

    assert caught.value.code == "no_description"
    assert [finding.code for finding in open_domains(bucket, RECOVERY_KEY, Scope()).findings] == ["no_description"]


def test_a_description_stored_under_another_domain_is_not_used_there() -> None:
    _, bucket = with_backups(1)
    other = Server(bucket.store, bucket.store, domain="web02")
    other.back_up(noise(5000))
    description = next(ref for ref in bucket.store.list_versions() if "/c/" in ref.key)
    other.put(description.key.replace("web01", "web02"), description.data)

    with pytest.raises(IntegrityError):
        open_domain(bucket, DomainPlace("acme", "web02"), RECOVERY_KEY)


def test_what_is_named_strangely_is_passed_over() -> None:
    server, bucket = with_backups(1)
    manifest = server.results[0].manifest.key
    for key in ("t/acme/d/web01/m/x", f"{manifest}0", manifest.replace("disk-0", ".."), "t/..", "t/a b/d/c/m/x", "x"):
        bucket.store.put_object(key=key, data=b"junk")

    assert len(backups(listed(bucket))) == 1
    assert len(list(find_manifests(bucket, PLACE))) == 1


# --- several servers and tenants --------------------------------------------------------------------------------------


def test_servers_of_other_tenants_are_counted_and_left_alone() -> None:
    _, bucket = with_backups(1)
    stranger = generate_tenant_key()
    other = Server(bucket.store, bucket.store, tenant="other", domain="db", tenant_public_key=stranger.public)
    other.back_up(noise(5000))
    other.describe(catalogue_key=writer_key_from_private(noise(32, "other catalogue")))

    opened = open_domains(bucket, RECOVERY_KEY, Scope())

    assert [domain.place for domain in opened.domains] == [PLACE]
    assert (opened.foreign_count, opened.findings) == (1, ())


def test_a_key_that_fits_nothing_is_said_so() -> None:
    _, bucket = with_backups(1)
    wrong = RecoveryKey(generate_tenant_key().private, RECOVERY_KEY.catalogue_fingerprint)

    with pytest.raises(KeyMismatchError) as caught:
        open_domains(bucket, wrong, Scope())

    assert caught.value.code == "wrong_recovery_key"


def test_a_server_that_has_no_backup_yet_is_no_trouble() -> None:
    _, bucket = with_backups(1)
    Server(bucket.store, bucket.store, domain="new").describe()

    opened = open_domains(bucket, RECOVERY_KEY, Scope())

    assert (len(opened.domains), opened.findings, opened.empty_count) == (1, (), 1)


def test_manifests_without_any_envelope_are_trouble() -> None:
    _, bucket = with_backups(1)
    envelopes = {version.key for version in bucket.store.list_versions() if "/k/" in version.key}

    opened = open_domains(ModelBucket(copy_without(bucket.store, envelopes)), RECOVERY_KEY, Scope())

    assert [finding.code for finding in opened.findings] == ["no_envelopes"]


def test_a_backup_is_found_by_the_first_digits_of_its_name() -> None:
    server, bucket = with_backups(2)
    name = server.results[1].manifest.sha256

    domain, found = find_backup(bucket, RECOVERY_KEY, Scope(), name[:8].upper())

    assert found.ref == replace(server.results[1].manifest, version_id=found.ref.version_id)
    assert domain.place == PLACE


def test_digits_that_fit_two_backups_are_refused() -> None:
    server, bucket = with_backups(1)
    manifest = server.results[0].manifest
    name = manifest.sha256
    twin = manifest.key.replace(name, name[:-1] + ("0" if name[-1] != "0" else "1"))
    bucket.store.put_object(key=twin, data=b"junk")

    with pytest.raises(NothingFoundError) as caught:
        find_backup(bucket, RECOVERY_KEY, Scope(), name[:10])

    assert caught.value.code == "ambiguous_backup"
    assert find_backup(bucket, RECOVERY_KEY, Scope(), name)[1].problem is None


# --- keys -------------------------------------------------------------------------------------------------------------


def _envelope(server: Server, session_keys: Any, **changes: Any) -> None:
    values = {
        "session": session_keys,
        "domain_keys": server.domain_keys,
        "tenant": server.tenant,
        "domain": server.domain,
        "tenant_public_key": RECOVERY_KEY.tenant_public_key,
    }
    data = seal_envelope(**values | changes)
    sha256 = sha256_hex(data)
    key = object_key(tenant=server.tenant, domain=server.domain, kind=ObjectKind.KEY, sha256=sha256)
    server.put(key, data)


def test_forged_envelopes_with_other_keys_change_nothing() -> None:
    """Anybody can seal to a public key; only what signed objects confirm counts."""
    server, bucket = with_backups(1)
    random_bytes = seeded_bytes("forger")
    real = server.results[0].session_id
    for number in range(20):
        forged = generate_session_keys(random_bytes)
        if number % 2:
            forged = SessionKeys(real, forged.data_key)
        _envelope(server, forged, domain_keys=generate_domain_keys(random_bytes))

    domain = open_domain(bucket, PLACE, RECOVERY_KEY)
    _, found = find_backup(bucket, RECOVERY_KEY, Scope(), server.results[0].manifest.sha256)

    assert domain.domain_keys == server.domain_keys
    assert found.body is not None
    assert domain.keyring.data_keys(found.body.sessions).keys() == {real}


def test_after_a_change_of_the_key_the_new_envelope_is_found() -> None:
    """The manifest lists the old envelope; a new one for the same session was sealed to the new key."""
    old = generate_tenant_key()
    server, bucket = with_backups(1, tenant_public_key=old.public)
    listed_envelope = next(ref for ref in server.results[0].new_objects if "/k/" in ref.key)
    unwrapped = unwrap_envelope(
        bucket.store.get(listed_envelope), tenant_private_key=old.private, tenant="acme", domain="web01"
    )
    _envelope(server, unwrapped.session)

    for store in (bucket.store, copy_without(bucket.store, {listed_envelope.key})):
        rotated = ModelBucket(store)
        domain, found = find_backup(rotated, RECOVERY_KEY, Scope(), server.results[0].manifest.sha256)
        assert found.body is not None
        assert domain.keyring.data_keys(found.body.sessions) == {
            unwrapped.session.session_id: unwrapped.session.data_key
        }
        assert backups(listed(rotated))[0].is_complete


# --- what the numbers say ---------------------------------------------------------------------------------------------


def summary(sequence: int, **changes: Any) -> BackupSummary:
    values = {
        "backup": f"{sequence:064x}",
        "source_id": "disk-0",
        "content": "disk",
        "sequence": sequence,
        "previous": f"{sequence - 1:064x}",
        "created_at": NOW + timedelta(days=sequence),
        "size_bytes": 1,
        "stored_bytes": 1,
        "retain_until": None,
        "missing_count": 0,
        "missing": (),
    }
    return BackupSummary(**values | changes)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 50), st.integers(1, 20))
def test_an_unbroken_chain_is_no_news(first: int, count: int) -> None:
    chain = [summary(sequence) for sequence in range(first, first + count)]

    assert chain_findings(chain, latest_sequence=first + count - 1) == []


@settings(max_examples=100, deadline=None)
@given(st.integers(3, 20), st.data())
def test_every_backup_taken_out_of_the_middle_is_noticed(count: int, data: st.DataObject) -> None:
    chain = [summary(sequence) for sequence in range(1, count + 1)]
    removed = data.draw(st.integers(1, count - 2))

    findings = chain_findings(chain[:removed] + chain[removed + 1 :], latest_sequence=count)

    assert [finding.code for finding in findings] == ["chain_gap"]
    assert f"number {removed + 2} " in findings[0].message


@pytest.mark.parametrize(
    ("chain", "latest", "code"),
    [
        ([summary(1), summary(2)], 3, "hidden_backups"),
        ([], 1, "hidden_backups"),
        ([summary(1), summary(2, created_at=NOW - timedelta(days=9))], 2, "sequence_regression"),
        ([summary(1), summary(2), summary(2, backup="f" * 64)], 2, "sequence_twice"),
    ],
)
def test_what_may_be_hidden_is_said(chain: list[BackupSummary], latest: int, code: str) -> None:
    assert [finding.code for finding in chain_findings(chain, latest_sequence=latest)] == [code]


def test_a_listing_without_the_newest_backup_warns() -> None:
    server, bucket = with_backups(2)
    store = copy_without(bucket.store, {server.results[1].manifest.key})

    found = listed(ModelBucket(store))

    assert codes(found) == ["hidden_backups"]
    assert "newest backups may be hidden" in found.sources[0].findings[0].message
