"""`check` finds every absent and every altered object, names the backups, and knows what is not needed any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.alone.bucket import StoredBytes, StoredVersion
from engine.alone.catalogue import open_domain, read_manifests
from engine.alone.checking import CheckResult, check_domain
from engine.alone.layout import DomainPlace
from engine.alone.listing import list_domain
from engine.alone.moves import Moves
from engine.alone.restoring import RestoreOrder, restore_backup
from engine.compression import Compressor
from engine.errors import StoreError
from engine.hashing import sha256_hex
from engine.index import MapEntry
from engine.manifest import ObjectEntry
from engine.relocations import RelocationWriter
from engine.repository import MapReader, open_manifest, walk_leaves
from engine.store.base import ObjectKind, ObjectRef, object_key
from tests.alone.support import RECOVERY_KEY, WRITER_KEY, ModelBucket, Server, copy_without, flipped, model_server
from tests.engine.support import noise

PLACE = DomainPlace("acme", "web01")
IMAGE = noise(150_000, "image")


def check(bucket: ModelBucket, *, read_data: bool = False) -> CheckResult:
    return check_domain(bucket, open_domain(bucket, PLACE, RECOVERY_KEY), read_data=read_data)


def two_backups() -> tuple[Server, ModelBucket]:
    server, bucket = model_server()
    server.back_up(IMAGE)
    server.back_up(IMAGE + noise(9000, "more"), base=server.results[0])
    server.describe()
    return server, bucket


def problems(result: CheckResult) -> dict[str, str]:
    return {bad.key: bad.problem for bad in result.bad_objects}


@pytest.mark.parametrize("read_data", [False, True])
def test_a_sound_vault_is_called_sound(read_data: bool) -> None:
    server, bucket = two_backups()

    result = check(bucket, read_data=read_data)

    objects = {ref.key for written in server.results for ref in written.new_objects}
    assert result.is_sound
    assert (result.backup_count, result.object_count) == (2, len(objects))
    assert (result.read_bytes > len(IMAGE)) == read_data


@pytest.mark.parametrize("read_data", [False, True])
def test_every_absent_object_is_found_with_its_backups(read_data: bool) -> None:
    server, bucket = two_backups()
    first, second = ({ref.key for ref in result.new_objects} for result in server.results)
    names = [result.manifest.sha256 for result in server.results]
    for key in first | second:
        result = check(ModelBucket(copy_without(bucket.store, {key})), read_data=read_data)

        assert problems(result) == {key: "missing"}
        used_by = result.bad_objects[0].backups
        assert used_by == (tuple(names[1:]) if key in second else used_by)
        assert set(used_by) <= set(names) and used_by


def test_every_altered_object_is_found_when_the_data_is_read() -> None:
    server, bucket = two_backups()
    for ref in {ref.key: ref for result in server.results for ref in result.new_objects}.values():
        store = copy_without(bucket.store, {ref.key})
        store.put_object(key=ref.key, data=flipped(bucket.store.get(ref)))

        assert problems(check(ModelBucket(store), read_data=True)) == {ref.key: "damaged"}


def test_an_object_of_another_length_is_found_without_reading_the_data() -> None:
    server, bucket = two_backups()
    ref = server.results[0].new_objects[0]
    store = copy_without(bucket.store, {ref.key})
    store.put_object(key=ref.key, data=b"short")

    assert problems(check(ModelBucket(store))) == {ref.key: "damaged"}


def test_an_altered_manifest_is_found() -> None:
    server, bucket = two_backups()
    ref = server.results[1].manifest
    store = copy_without(bucket.store, {ref.key})
    store.put_object(key=ref.key, data=flipped(bucket.store.get(ref)))

    result = check(ModelBucket(store))

    assert not result.is_sound
    assert [found.place.sha256 for found in result.bad_manifests] == [ref.sha256]


class FlakyBucket(ModelBucket):
    """Fails at reads of packs: once each, or always with an error of the store."""

    def __init__(self, inner: ModelBucket, error: StoreError | None) -> None:
        super().__init__(inner.store)
        self._error = error
        self._seen: set[str] = set()

    def read(self, version: StoredVersion, *, offset: int, length: int) -> StoredBytes:
        stored = super().read(version, offset=offset, length=length)
        if "/p/" not in version.key:
            return stored
        if self._error is not None:
            raise self._error
        if version.key not in self._seen:
            self._seen.add(version.key)
            return StoredBytes(flipped(stored.data), stored.retain_until)
        return stored


def test_a_first_bad_read_is_not_damage() -> None:
    _, bucket = two_backups()

    assert check(FlakyBucket(bucket, None), read_data=True).is_sound


def test_an_object_that_the_store_cannot_read_is_a_finding() -> None:
    _, bucket = two_backups()

    result = check(FlakyBucket(bucket, StoreError("broken disk", code="object_unreadable")), read_data=True)

    assert set(problems(result).values()) == {"unreadable"}


def test_a_store_that_is_away_says_nothing_about_its_objects() -> None:
    _, bucket = two_backups()

    with pytest.raises(StoreError, match="away"):
        check(FlakyBucket(bucket, StoreError("away", transient=True)), read_data=True)


# --- blocks that lie elsewhere by now ---------------------------------------------------------------------------------


def entries_of(server: Server, bucket: ModelBucket, manifest: ObjectRef, pack: str) -> list[MapEntry]:
    """The manifest's map entries in one pack."""
    map_key = server.domain_keys.map_key
    info = open_manifest(
        manifest_ref=manifest, object_source=bucket.store, trusted_writers=[WRITER_KEY.public], map_key=map_key
    )
    reader = MapReader(manifest=info, object_source=bucket.store, map_key=map_key)
    entries = [entry for leaf in walk_leaves(reader) for entry in (leaf.entries or {}).values()]
    return [entry for entry in entries if entry.object_name == bytes.fromhex(pack)]


def moved(*, left_out: int = 0) -> tuple[Server, ModelBucket, ObjectRef]:
    """A backup with a pack that is gone, whose blocks (all but some) lie in a copy under another name."""
    server, bucket = model_server()
    result = server.back_up(IMAGE)
    server.describe()
    old = next(ref for ref in result.new_objects if "/p/" in ref.key)
    data = bucket.store.get(old) + b"a copy under another name"
    sha256 = sha256_hex(data)
    new = server.put(object_key(tenant="acme", domain="web01", kind=ObjectKind.PACK, sha256=sha256), data)
    info = open_manifest(manifest_ref=result.manifest, object_source=bucket.store, trusted_writers=[WRITER_KEY.public])
    writer = RelocationWriter(
        tenant="acme",
        domain="web01",
        map_key=server.domain_keys.map_key,
        random_bytes=server.random_bytes,
        compressor=Compressor(1),
    )
    for entry in entries_of(server, bucket, result.manifest, old.sha256)[left_out:]:
        writer.add(entry, entry._replace(object_name=bytes.fromhex(sha256)))
    pack = ObjectEntry(bytes.fromhex(sha256), new.size_bytes, new.version_id, 1)
    relocations = writer.finish({pack.sha256: pack}, info.body.sessions)
    key = object_key(tenant="acme", domain="web01", kind=ObjectKind.RELOCATION, sha256=sha256_hex(relocations))
    server.put(key, relocations)
    return server, ModelBucket(copy_without(bucket.store, {old.key})), new


def test_a_pack_whose_blocks_all_lie_elsewhere_is_not_missed(tmp_path: Path) -> None:
    _, bucket, _ = moved()
    domain = open_domain(bucket, PLACE, RECOVERY_KEY)
    target = tmp_path / "image"

    listing = list_domain(bucket, domain)
    found = next(read_manifests(bucket, domain))
    outcome = restore_backup(
        bucket, domain, found, RestoreOrder(to=str(target)), progress=lambda _: None, cancel=lambda: False
    )

    assert check(bucket).is_sound
    assert listing.sources[0].backups[0].is_complete
    assert outcome.is_complete
    assert target.read_bytes() == IMAGE


def test_a_pack_of_which_one_block_lies_nowhere_is_missed() -> None:
    _, bucket, _ = moved(left_out=1)
    domain = open_domain(bucket, PLACE, RECOVERY_KEY)

    assert set(problems(check(bucket)).values()) == {"missing"}
    assert not list_domain(bucket, domain).sources[0].backups[0].is_complete


def test_moves_into_a_pack_that_is_gone_too_do_not_help() -> None:
    _, bucket, new = moved()
    bucket = ModelBucket(copy_without(bucket.store, {new.key}))
    listing = list_domain(bucket, open_domain(bucket, PLACE, RECOVERY_KEY))

    assert set(problems(check(bucket)).values()) == {"missing"}
    assert not listing.sources[0].backups[0].is_complete


def test_a_damaged_pack_with_moved_blocks_is_found_when_the_data_is_read() -> None:
    server, bucket, new = moved()
    store = copy_without(bucket.store, {new.key})
    store.put_object(key=new.key, data=flipped(bucket.store.head(key=new.key).data))

    assert check(ModelBucket(store)).is_sound
    assert set(problems(check(ModelBucket(store), read_data=True)).values()) == {"missing"}
    assert server.results[0].manifest.sha256 in check(ModelBucket(store), read_data=True).bad_objects[0].backups


def test_a_damaged_relocation_object_stops_nothing() -> None:
    server, bucket, _ = moved()
    version = next(found for found in bucket.store.list_versions() if "/r/" in found.key)
    store = copy_without(bucket.store, {version.key})
    store.put_object(key=version.key, data=flipped(version.data))
    moves = Moves(ModelBucket(store), open_domain(bucket, PLACE, RECOVERY_KEY))

    packs = [bytes.fromhex(ref.sha256) for ref in server.results[0].new_objects if "/p/" in ref.key]

    assert moves.relevant(packs) == []
    assert set(problems(check(ModelBucket(store))).values()) == {"missing"}
