"""Damaged objects show as exactly the ranges that a restore would miss, and health comes back with them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backups.content import open_content
from backups.damage import review_damage
from backups.lost_ranges import Loss, lost_ranges
from backups.models import Backup
from backups.moves import Moves, write_moves
from backups.states import BackupHealth
from engine.compression import Compressor
from engine.errors import DamagedError
from engine.fetching import RestoreKeys
from engine.hashing import sha256_hex
from engine.index import resolve
from engine.manifest import ObjectEntry
from engine.relocations import RelocationWriter
from engine.repository import walk_leaves
from engine.restore import restore_disk
from engine.store.base import ObjectKind, object_key
from tests.backups.library import LEAF_BYTES, Library, library
from tests.engine.support import BLOCK_SIZE, ImageTarget, noise
from vaults.custody import session_data_keys
from vaults.damage import Damage
from vaults.models import Envelope, RelocatedPack, StoredObject

__all__ = ["library"]

IMAGE = noise(100 * BLOCK_SIZE) + bytes(20 * BLOCK_SIZE) + noise(30 * BLOCK_SIZE + 100, "more")


def review(library: Library, **options: Any) -> int:
    return review_damage(vault_id=library.vault.pk, now=library.now, **options)


def blocks_in(library: Library, backup: Backup, pack: StoredObject) -> set[int]:
    """Offsets of the image's blocks that lie in the pack."""
    content = open_content(library.fresh(backup))
    return {
        span.offset + slot * BLOCK_SIZE
        for span in walk_leaves(content.map_reader())
        for slot, entry in (span.entries or {}).items()
        if resolve(entry.object_name).hex() == pack.sha256
    }


def blocks_of(ranges: list[list[int]]) -> set[int]:
    return {block for offset, length in ranges for block in range(offset, offset + length, BLOCK_SIZE)}


def health(library: Library, backup: Backup) -> tuple[str, int]:
    found = library.fresh(backup)
    return found.health, found.damaged_bytes


def test_a_lost_pack_shows_as_the_ranges_that_lie_in_it(library: Library) -> None:
    backup = library.write(IMAGE)
    pack = library.needed(backup, "p")[1]
    library.mark(pack)

    assert review(library) == 1

    found = library.fresh(backup)
    expected = blocks_in(library, backup, pack)
    assert found.health == BackupHealth.DAMAGED
    assert blocks_of(found.damage) == expected
    assert found.damaged_bytes == sum(length for _, length in found.damage) == len(expected) * BLOCK_SIZE


def test_only_backups_that_need_the_pack_are_damaged(library: Library) -> None:
    first = library.write(IMAGE)
    changed = bytearray(IMAGE)
    changed[: 40 * BLOCK_SIZE] = noise(40 * BLOCK_SIZE, "changed")
    second = library.write(bytes(changed), base=first)
    only_first = set(library.needed(first, "p")) - set(library.needed(second, "p"))
    assert only_first

    library.mark(*only_first)
    review(library)

    assert health(library, first)[0] == BackupHealth.DAMAGED
    assert health(library, second) == (BackupHealth.UNVERIFIED, 0)


def test_a_shared_pack_damages_both_each_with_its_own_ranges(library: Library) -> None:
    first = library.write(IMAGE)
    changed = noise(BLOCK_SIZE, "new") + IMAGE[BLOCK_SIZE:]
    second = library.write(changed, base=first)
    pack = library.needed(first, "p")[0]

    library.mark(pack)
    review(library)

    assert blocks_of(library.fresh(first).damage) - blocks_of(library.fresh(second).damage) == {0}


def test_a_lost_segment_counts_with_all_that_its_pages_cover(library: Library) -> None:
    backup = library.write(IMAGE)
    library.mark(*library.needed(backup, "i"))

    review(library)

    assert health(library, backup) == (BackupHealth.DAMAGED, len(IMAGE))
    assert library.fresh(backup).damage == [[0, len(IMAGE)]]


def test_a_lost_segment_of_an_incremental_costs_its_own_leaves_only(library: Library) -> None:
    first = library.write(IMAGE)
    changed = IMAGE[: 8 * BLOCK_SIZE] + noise(BLOCK_SIZE, "new") + IMAGE[9 * BLOCK_SIZE :]
    second = library.write(changed, base=first)
    old = [row for row in library.needed(second, "i") if row in library.needed(first, "i")]
    assert old

    library.mark(*old)
    review(library)

    lost = blocks_of(library.fresh(second).damage)
    assert not lost & set(range(8 * BLOCK_SIZE, 8 * BLOCK_SIZE + LEAF_BYTES, BLOCK_SIZE))
    assert health(library, first) == (BackupHealth.DAMAGED, len(IMAGE))


def test_a_lost_envelope_costs_what_its_session_sealed(library: Library) -> None:
    first = library.write(IMAGE)
    changed = IMAGE[: 8 * BLOCK_SIZE] + noise(BLOCK_SIZE, "new") + IMAGE[9 * BLOCK_SIZE :]
    second = library.write(changed, base=first)
    [own] = [row for row in library.needed(second, "k") if row not in library.needed(first, "k")]

    library.mark(own)
    review(library)

    assert library.fresh(second).damage == [[8 * BLOCK_SIZE, BLOCK_SIZE]]
    assert health(library, first) == (BackupHealth.UNVERIFIED, 0)


def test_an_envelope_of_a_rotation_stands_in_for_a_lost_one(library: Library) -> None:
    backup = library.write(IMAGE)
    [lost] = library.needed(backup, "k")
    spare = StoredObject.objects.get(pk=lost.pk)
    spare.pk, spare.key = None, lost.key + "-rotated"
    spare.save()
    Envelope.objects.create(stored_object=spare, writer_session=lost.envelope.writer_session, recipient="ab" * 32)

    library.mark(lost)
    review(library)

    assert health(library, backup) == (BackupHealth.UNVERIFIED, 0)


def test_a_lost_manifest_makes_the_backup_missing(library: Library) -> None:
    backup = library.write(IMAGE)
    library.mark(backup.manifest)

    review(library)

    assert health(library, backup) == (BackupHealth.MISSING, len(IMAGE))


def test_health_comes_back_to_what_it_was(library: Library) -> None:
    checked, unchecked = library.write(IMAGE), library.write(noise(9 * BLOCK_SIZE, "b"))
    Backup.objects.filter(pk=checked.pk).update(verified_at=library.now)
    rows = [row for backup in (checked, unchecked) for row in (*library.needed(backup, "p"), backup.manifest)]
    library.mark(*rows)
    review(library)

    library.mend(*rows)
    review(library)

    assert health(library, checked) == (BackupHealth.VERIFIED, 0)
    assert health(library, unchecked) == (BackupHealth.UNVERIFIED, 0)
    assert library.fresh(checked).damage == []


def test_what_is_mended_in_part_is_measured_again_by_the_daily_review(library: Library) -> None:
    backup = library.write(IMAGE)
    one, two = library.needed(backup, "p")[:2]
    library.mark(one, two)
    review(library)
    before = health(library, backup)[1]

    library.mend(one)
    library.now += timedelta(hours=2)
    assert review(library) == 0
    assert review(library, everything=True) == 1

    assert 0 < health(library, backup)[1] < before
    assert blocks_of(library.fresh(backup).damage) == blocks_in(library, backup, two)


def test_a_second_review_changes_nothing(library: Library) -> None:
    library.mark(library.needed(library.write(IMAGE), "p")[0])

    assert (review(library), review(library), review(library, everything=True)) == (1, 0, 0)


def test_a_short_lock_is_no_damage_of_the_backup(library: Library) -> None:
    backup = library.write(IMAGE)
    library.mark(*library.needed(backup, "p"), damage=Damage.SHORT_LOCK)

    assert review(library, everything=True) == 0
    assert health(library, backup) == (BackupHealth.UNVERIFIED, 0)


def test_a_removed_backup_is_not_reviewed(library: Library) -> None:
    backup = library.write(IMAGE)
    library.mark(*library.needed(backup, "p"))
    Backup.objects.filter(pk=backup.pk).update(removed_at=library.now)

    assert review(library) == 0


def test_trouble_of_the_store_changes_nothing(library: Library, monkeypatch: Any) -> None:
    backup = library.write(IMAGE)
    library.mark(library.needed(backup, "p")[0])

    def away(**options: Any) -> Any:
        raise EndpointConnectionError(endpoint_url="x")

    monkeypatch.setattr(library.client, "get_object", away)

    assert review(library) == 0
    assert health(library, backup) == (BackupHealth.UNVERIFIED, 0)


def test_the_list_is_bounded_and_the_total_is_not() -> None:
    many = ((number * 1024, 512) for number in range(5000))

    loss = Loss.of(many, most=1000)

    assert (len(loss.ranges), loss.total_bytes) == (1000, 5000 * 512)


# --- relocations ------------------------------------------------------------------------------------------------------


def relocate(library: Library, backup: Backup, pack: StoredObject, *, is_committed: bool = True) -> StoredObject:
    """The same payloads in another object at the same offsets, and what says so."""
    content = open_content(library.fresh(backup))
    data = library.versions_of_key(pack.key)[0].data + b"another name"
    sha256 = sha256_hex(data)
    key = object_key(tenant=content.body.tenant, domain=content.body.domain, kind=ObjectKind.PACK, sha256=sha256)
    library.take_in(library.bucket.put(key=key, data=data, sha256=sha256))
    writer = RelocationWriter(
        tenant=content.body.tenant,
        domain=content.body.domain,
        map_key=library.domain_keys.map_key,
        random_bytes=library.random_bytes,
        compressor=Compressor(None),
    )
    for span in walk_leaves(content.map_reader()):
        for entry in (span.entries or {}).values():
            if resolve(entry.object_name).hex() == pack.sha256:
                writer.add(entry, entry._replace(object_name=bytes.fromhex(sha256)))
    moved = ObjectEntry(bytes.fromhex(sha256), len(data), None, 1)
    told = writer.finish({bytes.fromhex(sha256): moved}, content.body.sessions)
    name = sha256_hex(told)
    told_key = object_key(
        tenant=content.body.tenant, domain=content.body.domain, kind=ObjectKind.RELOCATION, sha256=name
    )
    relocation = library.take_in(library.bucket.put(key=told_key, data=told, sha256=name))
    place = StoredObject.objects.get(key=key)
    if is_committed:
        write_moves([Moves(relocation, [pack], [place])])
    return place


def test_what_a_relocation_covers_is_not_damaged(library: Library) -> None:
    backup = library.write(IMAGE)
    one, two = library.needed(backup, "p")[:2]
    library.mark(one, two)
    review(library)

    relocate(library, backup, one)
    review(library)
    assert blocks_of(library.fresh(backup).damage) == blocks_in(library, backup, two)
    moved = relocate(library, backup, two)
    review(library)
    assert health(library, backup) == (BackupHealth.UNVERIFIED, 0)

    library.mark(moved)
    review(library)
    assert blocks_of(library.fresh(backup).damage) == blocks_in(library, backup, two)


def test_a_pack_that_was_repacked_and_deleted_is_no_damage_until_its_new_place_is(library: Library) -> None:
    backup = library.write(IMAGE)
    old = library.needed(backup, "p")[0]
    moved = relocate(library, backup, old)
    StoredObject.objects.filter(pk=old.pk).update(status="deleted")
    library.mark(library.needed(backup, "p")[1])

    review(library)
    assert blocks_of(library.fresh(backup).damage) == blocks_in(library, backup, library.needed(backup, "p")[1])
    library.mend(library.needed(backup, "p")[1])
    review(library)
    assert health(library, backup) == (BackupHealth.UNVERIFIED, 0)
    library.mark(moved)
    review(library)
    assert blocks_of(library.fresh(backup).damage) == blocks_in(library, backup, old)


def put_junk(library: Library, data: bytes) -> StoredObject:
    """What a writer uploaded under `r/` and never committed; it is in the vault and in the ledger all the same."""
    tenant, domain, sha256 = str(library.server.tenant_id), str(library.domain.pk), sha256_hex(data)
    key = object_key(tenant=tenant, domain=domain, kind=ObjectKind.RELOCATION, sha256=sha256)
    return library.take_in(library.bucket.put(key=key, data=data, sha256=sha256))


def test_what_was_never_committed_under_r_says_nothing(library: Library) -> None:
    backup = library.write(IMAGE)
    one, two = library.needed(backup, "p")[:2]
    junk = put_junk(library, b"no relocation at all")
    relocate(library, backup, two, is_committed=False)
    library.mark(one, two)

    review(library)

    assert blocks_of(library.fresh(backup).damage) == blocks_in(library, backup, one) | blocks_in(library, backup, two)
    assert junk.key not in library.client.reads


@pytest.mark.parametrize("how", ["rotten", "missing", "junk"])
def test_a_committed_relocation_that_cannot_be_read_costs_only_what_it_led_to(library: Library, how: str) -> None:
    backup = library.write(IMAGE)
    one, two = library.needed(backup, "p")[:2]
    relocate(library, backup, two)
    relocate(library, backup, one)
    relocation = StoredObject.objects.get(kind="r", relocated_packs__pack=one)
    if how == "rotten":
        library.spoil(relocation)
    elif how == "missing":
        library.versions_of_key(relocation.key).clear()
    else:
        RelocatedPack.objects.filter(relocation=relocation).update(relocation=put_junk(library, b"junk"))
    library.mark(one, two)

    review(library)

    assert blocks_of(library.fresh(backup).damage) == blocks_in(library, backup, one)


def test_a_relocation_that_the_store_fails_on_is_no_damage(library: Library, monkeypatch: Any) -> None:
    """One that is only out of reach must not make blocks look lost."""
    backup = library.write(IMAGE)
    pack = library.needed(backup, "p")[0]
    relocate(library, backup, pack)
    relocation = StoredObject.objects.get(kind="r")
    library.mark(pack)
    whole = library.client.get_object

    def failing(**options: Any) -> Any:
        if options["Key"] == relocation.key:
            raise EndpointConnectionError(endpoint_url="x")
        return whole(**options)

    monkeypatch.setattr(library.client, "get_object", failing)

    assert review(library) == 0
    assert health(library, backup) == (BackupHealth.UNVERIFIED, 0)


def test_only_so_many_relocations_are_in_memory_the_newest(library: Library, monkeypatch: Any) -> None:
    backup = library.write(IMAGE)
    one, two = library.needed(backup, "p")[:2]
    relocate(library, backup, one)
    relocate(library, backup, two)
    library.mark(one, two)
    monkeypatch.setattr("backups.content.MOST_RELOCATIONS", 1)

    review(library)

    assert blocks_of(library.fresh(backup).damage) == blocks_in(library, backup, one)


# --- any loss ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_ranges_are_those_that_a_restore_misses(library: Library, data: st.DataObject) -> None:
    """For any set of lost packs and segments of a chain of two, compared with a real restore."""
    if not Backup.objects.filter(manifest__domain=library.domain).exists():
        first = library.write(IMAGE)
        library.write(IMAGE[: 50 * BLOCK_SIZE] + noise(3 * BLOCK_SIZE, "new") + IMAGE[53 * BLOCK_SIZE :], base=first)
    backup = Backup.objects.order_by("-sequence")[0]
    content = open_content(library.fresh(backup))
    rows = library.needed(backup, "p") + library.needed(backup, "i")
    lost = data.draw(st.sets(st.sampled_from(rows), max_size=4))

    found = lost_ranges(
        content.map_reader(lost_segments={bytes.fromhex(row.sha256) for row in lost if row.kind == "i"}),
        packs={bytes.fromhex(row.sha256) for row in lost if row.kind == "p"},
        sessions=(),
    )

    assert list(found) == missed(library, backup, lost)


def missed(library: Library, backup: Backup, lost: set[StoredObject]) -> list[tuple[int, int]]:
    content = open_content(library.fresh(backup))
    sessions = [session.session_id.hex() for session in content.body.sessions]
    keys = session_data_keys(library.domain, sessions)
    kept = {row.key: list(library.versions_of_key(row.key)) for row in lost}
    for row in lost:
        library.versions_of_key(row.key).clear()
    try:
        restore_disk(
            manifest_ref=content.ref,
            object_source=content.source,
            keys=RestoreKeys(library.domain_keys, {bytes.fromhex(name): key for name, key in keys.items()}),
            trusted_writers=[library.writer_key.public],
            target=ImageTarget(len(IMAGE)),
        )
    except DamagedError as error:
        return list(error.ranges)
    finally:
        for key, versions in kept.items():
            library.versions_of_key(key).extend(versions)
    return []


def test_a_lost_session_costs_all_but_the_holes(library: Library) -> None:
    backup = library.write(IMAGE)
    content = open_content(library.fresh(backup))
    session = content.body.sessions[0].session_id

    found = list(lost_ranges(content.map_reader(), packs=(), sessions=[session]))

    assert found == [(0, 100 * BLOCK_SIZE), (120 * BLOCK_SIZE, 30 * BLOCK_SIZE + 100)]
