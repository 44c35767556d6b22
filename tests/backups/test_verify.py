"""The check with keys: what opens is verified, what does not is blamed on the right objects, trouble is no verdict."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from backups import verifier
from backups.checking import Outcome, Verdict
from backups.content import open_content
from backups.models import Backup
from backups.states import BackupHealth
from engine.crypto import DomainKeys, SessionKeys, generate_tenant_key
from engine.envelope import seal_envelope
from engine.hashing import sha256_hex
from engine.store.base import ObjectKind, object_key
from tests.backups.library import Library, library
from tests.engine.support import BLOCK_SIZE, noise
from vaults.damage import Damage, healing_list
from vaults.models import StoredObject, TenantKey

__all__ = ["library"]

IMAGE = noise(60 * BLOCK_SIZE) + bytes(20 * BLOCK_SIZE) + noise(5 * BLOCK_SIZE + 7, "more")


def verify(library: Library, backup: Backup, **options: Any) -> Verdict:
    """One check from request to end. No beat comes in between: no other thread sees the rows of a test."""
    job = verifier.request_verification(backup=library.fresh(backup), actor=None, now=library.now)
    verdict = verifier.verify_backup(job_id=job.pk, clock=library.clock, beat_seconds=3600, **options)
    assert verdict is not None
    return verdict


def damage_of(row: StoredObject) -> str:
    return StoredObject.objects.get(pk=row.pk).damage


def replace_bytes(library: Library, row: StoredObject, data: bytes) -> None:
    """As if the writer itself had stored these bytes: ledger, name and all are in order, the content is not."""
    versions = library.versions_of_key(row.key)
    key = row.key.replace(row.sha256, sha256_hex(data))
    library.store._versions[f"{library.vault.bucket}/{key}"] = [
        type(versions[0])(**{**{name: getattr(versions[0], name) for name in versions[0].__slots__}, "data": data})
    ]
    StoredObject.objects.filter(pk=row.pk).update(key=key, sha256=sha256_hex(data), size_bytes=len(data))


def test_a_good_backup_is_verified(library: Library) -> None:
    first = library.write(IMAGE)
    backup = library.write(noise(512, "x") + IMAGE[512:], base=first)

    assert verify(library, backup).outcome == Outcome.VERIFIED

    found = library.fresh(backup)
    assert (found.health, found.verified_at) == (BackupHealth.VERIFIED, library.now)
    assert library.fresh(first).verified_at is None


def test_every_block_is_opened(library: Library) -> None:
    backup = library.write(IMAGE)

    verify(library, backup)

    read = set(library.client.reads)
    assert {row.key for kind in "pi" for row in library.needed(backup, kind)} <= read


def test_junk_that_was_never_committed_does_not_stand_in_the_way(library: Library) -> None:
    backup = library.write(IMAGE)
    junk, tenant, domain = b"no relocation at all", str(library.server.tenant_id), str(library.domain.pk)
    key = object_key(tenant=tenant, domain=domain, kind=ObjectKind.RELOCATION, sha256=sha256_hex(junk))
    library.take_in(library.bucket.put(key=key, data=junk, sha256=sha256_hex(junk)))

    assert verify(library, backup).outcome == Outcome.VERIFIED


def test_bytes_that_changed_are_found_and_named(library: Library) -> None:
    backup = library.write(IMAGE)
    pack = library.needed(backup, "p")[1]
    library.spoil(pack, at=100)

    verdict = verify(library, backup)

    assert verdict.outcome == Outcome.DAMAGED
    assert damage_of(pack) == Damage.WRONG_BYTES
    found = library.fresh(backup)
    assert (found.health, found.verified_at) == (BackupHealth.DAMAGED, None)
    assert found.damage and found.damaged_bytes < len(IMAGE)


def test_a_block_that_does_not_open_though_its_bytes_are_right(library: Library, monkeypatch: Any) -> None:
    """A writer's fault: the hash is the name, so only keys can tell."""
    backup = library.write(IMAGE)
    pack, other = library.needed(backup, "p")[:2]
    library.spoil(pack, at=100)
    monkeypatch.setattr("vaults.looking._hash", lambda vault, row, throttle, **options: (row.sha256, row.size_bytes))

    verdict = verify(library, backup)

    assert verdict.outcome == Outcome.DAMAGED
    assert (damage_of(pack), damage_of(other)) == (Damage.DOES_NOT_OPEN, "")
    assert library.fresh(backup).health == BackupHealth.DAMAGED
    assert healing_list(library.domain) == {pack.sha256}


def test_a_spoiled_manifest_makes_the_backup_missing(library: Library) -> None:
    backup = library.write(IMAGE)
    library.spoil(backup.manifest)

    assert verify(library, backup).outcome == Outcome.DAMAGED

    assert library.fresh(backup).health == BackupHealth.MISSING
    assert damage_of(backup.manifest) == Damage.WRONG_BYTES


def test_a_spoiled_page_is_blamed_on_its_segment(library: Library) -> None:
    backup = library.write(IMAGE)
    segment = library.needed(backup, "i")[0]
    library.spoil(segment, at=100)

    assert verify(library, backup).outcome == Outcome.DAMAGED

    assert damage_of(segment) == Damage.WRONG_BYTES
    assert not StoredObject.objects.filter(kind="p").exclude(damage="").exists()


def test_an_envelope_that_does_not_open_is_blamed(library: Library) -> None:
    backup = library.write(IMAGE)
    [envelope] = library.needed(backup, "k")
    library.spoil(envelope, at=-5)

    assert verify(library, backup).outcome == Outcome.DAMAGED

    assert damage_of(envelope) == Damage.WRONG_BYTES
    assert library.fresh(backup).damaged_bytes == len(IMAGE) - 20 * BLOCK_SIZE


def test_wrong_keys_in_an_envelope_are_blamed_on_it(library: Library) -> None:
    """Right bytes, right recipient, another session's data key."""
    backup = library.write(IMAGE)
    [row] = library.needed(backup, "k")
    session = open_content(library.fresh(backup)).body.sessions[0].session_id
    false = seal_envelope(
        session=SessionKeys(session_id=session, data_key=b"f" * 32),
        domain_keys=DomainKeys(id_key=library.domain_keys.id_key, map_key=library.domain_keys.map_key),
        tenant=str(library.server.tenant_id),
        domain=str(library.domain.pk),
        tenant_public_key=library.tenant_key.public,
    )
    replace_bytes(library, row, false)

    assert verify(library, backup).outcome == Outcome.DAMAGED
    assert damage_of(row) == Damage.DOES_NOT_OPEN


def test_what_opens_again_is_cleared_by_the_next_check(library: Library) -> None:
    backup = library.write(IMAGE)
    library.mark(library.needed(backup, "k")[0], damage=Damage.DOES_NOT_OPEN)

    assert verify(library, backup).outcome == Outcome.VERIFIED

    assert not StoredObject.objects.exclude(damage="").exists()


def test_a_bad_read_that_passes_is_no_damage(library: Library, monkeypatch: Any) -> None:
    """Two wrong answers in a row for one record, then the right ones: the whole check is made once more."""
    backup = library.write(IMAGE)
    pack = library.needed(backup, "p")[0]
    whole, wrong = library.client.get_object, [3]

    def flaky(**options: Any) -> Any:
        answer = whole(**options)
        if options["Key"] == pack.key and "Range" in options and wrong[0]:
            wrong[0] -= 1
            answer["Body"] = type(answer["Body"])(bytes(len(answer["Body"].getvalue())))
        return answer

    monkeypatch.setattr(library.client, "get_object", flaky)

    assert verify(library, backup).outcome == Outcome.VERIFIED
    assert not StoredObject.objects.exclude(damage="").exists()
    assert not wrong[0]


def test_trouble_of_the_store_is_no_verdict(library: Library, monkeypatch: Any) -> None:
    backup = library.write(IMAGE)

    def away(**options: Any) -> Any:
        raise EndpointConnectionError(endpoint_url="x")

    monkeypatch.setattr(library.client, "get_object", away)

    assert verify(library, backup).outcome == Outcome.PUT_OFF
    assert (library.fresh(backup).health, library.fresh(backup).verified_at) == (BackupHealth.UNVERIFIED, None)


def test_a_customer_s_key_leaves_map_and_hashes(library: Library) -> None:
    backup = library.write(IMAGE)
    TenantKey.objects.filter(tenant=library.server.tenant).update(mode="customer", wrapped_private_key=None)

    verdict = verify(library, backup)

    assert verdict.outcome == Outcome.VERIFIED_WITHOUT_KEY
    assert library.fresh(backup).verified_at == library.now
    assert {row.key for kind in "pik" for row in library.needed(backup, kind)} <= set(library.client.reads)


@pytest.mark.parametrize("kind", ["p", "i", "k"])
def test_without_the_key_damage_is_found_by_hash(library: Library, kind: str) -> None:
    backup = library.write(IMAGE)
    TenantKey.objects.filter(tenant=library.server.tenant).update(mode="customer", wrapped_private_key=None)
    row = library.needed(backup, kind)[0]
    library.spoil(row)

    assert verify(library, backup).outcome == Outcome.DAMAGED
    assert damage_of(row) == Damage.WRONG_BYTES
    assert library.fresh(backup).health == BackupHealth.DAMAGED


def test_a_lost_tenant_key_is_blamed_on_envelopes_that_nobody_opens(library: Library) -> None:
    backup = library.write(IMAGE)
    pair = generate_tenant_key()
    wrapped = library._wrap(pair.private, "tenant private key", library.server.tenant_id)
    TenantKey.objects.update(public_key=pair.public, wrapped_private_key=wrapped)

    assert verify(library, backup).outcome == Outcome.DAMAGED
    assert library.fresh(backup).health == BackupHealth.DAMAGED


# --- which are due ----------------------------------------------------------------------------------------------------


def checked(backup: Backup, at: datetime) -> None:
    Backup.objects.filter(pk=backup.pk).update(verified_at=at)


def test_the_newest_of_a_disk_is_due_a_month_after_the_last_check_of_any(library: Library) -> None:
    first = library.write(IMAGE)
    second = library.write(IMAGE, base=first)
    now = library.now

    assert verifier.backups_to_verify(now=now) == [second.pk]
    checked(first, now - timedelta(days=29))
    assert verifier.backups_to_verify(now=now) == []
    checked(first, now - timedelta(days=30))
    assert verifier.backups_to_verify(now=now) == [second.pk]
    Backup.objects.filter(pk=second.pk).update(removed_at=now)
    assert verifier.backups_to_verify(now=now) == [first.pk]
