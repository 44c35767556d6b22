"""A backup that fails at any operation of the store harms nothing; a cancel is quick; damage is told exactly."""

from __future__ import annotations

import threading
import time

import pytest

from engine.errors import (
    BaseMismatchError,
    CanceledError,
    DamagedError,
    EngineError,
    StoreContractError,
    StoreError,
)
from engine.restore import RestoreKeys
from engine.store.base import ObjectRef
from engine.store.memory import Fault, ModelStore
from engine.waiting import Cancel
from engine.writer import WriteResult
from tests.engine.hanging import Hang, canceled_in_time
from tests.engine.support import (
    BLOCK_SIZE,
    NOW,
    ImageSource,
    ImageTarget,
    PatchedSource,
    Vault,
    noise,
)

_OLD = noise(70 * BLOCK_SIZE)
_NEW = noise(9 * BLOCK_SIZE, "x") + _OLD[9 * BLOCK_SIZE : 60 * BLOCK_SIZE] + noise(17 * BLOCK_SIZE, "y")


def _vault_with_old_backup() -> tuple[Vault, WriteResult]:
    vault = Vault()
    return vault, vault.write(_OLD)


def _operations_of_a_backup() -> int:
    vault, first = _vault_with_old_backup()
    before = vault.store.operation_count
    vault.write(_NEW, base=first)
    return vault.store.operation_count - before


def _manifest_refs(store: ModelStore) -> list[ObjectRef]:
    return [
        ObjectRef(version.key, version.sha256, len(version.data), version.version_id)
        for version in store.list_versions()
        if "/m/" in version.key
    ]


@pytest.mark.parametrize("fault", list(Fault))
def test_a_fault_at_any_operation_leaves_the_old_backup_and_none_or_a_whole_new_one(fault: Fault) -> None:
    operations = _operations_of_a_backup()
    assert operations > 20
    completed = survived = 0

    for number in range(operations):
        vault, first = _vault_with_old_backup()
        spoiled = vault.store.operation_count + number
        vault.store.faults = {spoiled: fault}
        try:
            vault.write(_NEW, base=first)
        except BaseMismatchError:
            # The store refuses the manifest of the base for good: a full backup is asked for, nothing was stored.
            assert fault is Fault.REFUSE and vault.store.operations[spoiled][0] == "get"
        except StoreError:
            assert fault is not Fault.REFUSE or vault.store.operations[spoiled][0] == "put"
        else:
            # A map page of the base that is refused for good is no reason to fail.
            assert fault is Fault.REFUSE and "/i/" in vault.store.operations[spoiled][1]
            assert len(_manifest_refs(vault.store)) == 2
            survived += 1
        # A put that was on its way when the other one failed still finishes before the next look.
        _wait_for_uploads()
        vault.store.faults = {}

        assert vault.restored(first.manifest) == _OLD
        manifests = _manifest_refs(vault.store)
        assert len(manifests) <= 2
        if len(manifests) == 2:
            completed += 1
            assert vault.restored(manifests[-1]) == _NEW
        again = vault.write(_NEW, base=first)
        assert vault.restored(again.manifest) == _NEW
    assert completed == survived + (fault is Fault.AFTER)
    assert (survived > 0) == (fault is Fault.REFUSE)


def _wait_for_uploads() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("upload"):
            thread.join(timeout=60)


def test_objects_are_stored_after_all_that_they_refer_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.writer.DEFAULT_CONTAINER_SIZE", 1500)
    vault = Vault()
    vault.write(noise(200 * BLOCK_SIZE))
    stored: list[str] = [key for name, key in vault.store.operations if name == "put"]

    order = [key.split("/")[4] for key in stored]

    assert (order[0], order[-1]) == ("k", "m")
    assert order.count("k") == order.count("m") == 1
    # A segment may come before later packs, but never before one that its pages name.
    info = vault.open(_manifest_refs(vault.store)[0])
    from engine.repository import MapReader

    reader = MapReader(manifest=info, object_source=vault.store, map_key=vault.domain_keys.map_key)
    position = {key.split("/")[-1]: number for number, key in enumerate(stored)}
    for index in range(50):
        leaf = reader.page_ref(0, index)
        for entry in reader.leaf(index).values():
            assert position[entry.object_name.hex()] < position[leaf.object_name.hex()]


def test_nothing_that_refers_is_sent_while_its_objects_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.writer.DEFAULT_CONTAINER_SIZE", 1500)
    on_their_way: set[str] = set()
    seen: list[tuple[str, list[str]]] = []

    class SlowSink:
        def put(self, *, key: str, data: bytes, sha256: str) -> ObjectRef:
            kind = key.split("/")[4]
            seen.append((kind, [other.split("/")[4] for other in on_their_way]))
            on_their_way.add(key)
            time.sleep(0.02 if kind == "p" else 0.005)
            on_their_way.discard(key)
            return ObjectRef(key, sha256, len(data), "v")

    Vault().write(noise(100 * BLOCK_SIZE), sink=SlowSink())

    assert any(others for kind, others in seen if kind == "p")
    assert not any("p" in others for kind, others in seen if kind == "i")
    assert not any(others for kind, others in seen if kind in "km")
    assert not any("k" in others for _, others in seen)


def test_an_object_that_is_there_already_is_success() -> None:
    vault = Vault()
    first = vault.store.put(key="t/a/d/b/p/x", data=b"data", sha256=_sha(b"data"))

    again = vault.store.put(key="t/a/d/b/p/x", data=b"data", sha256=_sha(b"data"))

    assert again.version_id is None and first.version_id is not None
    with pytest.raises(StoreError):
        vault.store.put(key="t/a/d/b/p/x", data=b"evil", sha256=_sha(b"evil"))


def _sha(data: bytes) -> str:
    from engine.hashing import sha256_hex

    return sha256_hex(data)


def test_a_sink_that_answers_for_another_object_is_refused() -> None:
    class LyingSink:
        def put(self, *, key: str, data: bytes, sha256: str) -> ObjectRef:
            return ObjectRef(key + "x", sha256, len(data), "v")

    with pytest.raises(StoreContractError):
        Vault().write(noise(5000), sink=LyingSink())


def test_a_cancel_while_reading_is_quick() -> None:
    canceled = threading.Event()
    source = ImageSource(noise(4000 * BLOCK_SIZE), on_read=canceled.set)

    with pytest.raises(CanceledError):
        Vault().write(source, cancel=canceled.is_set)

    assert len(source.reads) <= 1


def test_a_cancel_while_the_store_hangs_is_quick() -> None:
    def backup(hang: Hang, cancel: Cancel) -> object:
        class HangingSink:
            def put(self, *, key: str, data: bytes, sha256: str) -> ObjectRef:
                hang.wait()
                return ObjectRef(key, sha256, len(data), "v")

        return Vault().write(noise(400 * BLOCK_SIZE), sink=HangingSink(), cancel=cancel)

    canceled_in_time(backup, most=1)


def test_a_cancel_while_restoring_is_quick() -> None:
    vault = Vault()
    result = vault.write(noise(400 * BLOCK_SIZE))
    calls = 0

    def cancel() -> bool:
        nonlocal calls
        calls += 1
        return calls > 5

    with pytest.raises(CanceledError):
        vault.restore(result.manifest, ImageTarget(400 * BLOCK_SIZE), cancel=cancel)


def _packs(result: WriteResult) -> list[ObjectRef]:
    return [ref for ref in result.new_objects if "/p/" in ref.key]


def _restore_damaged(
    vault: Vault, result: WriteResult, patches: dict[str, bytes | None], size: int
) -> tuple[ImageTarget, tuple[tuple[int, int], ...]]:
    keys = vault.keys_for(result.manifest)
    target = ImageTarget(size)
    with pytest.raises(DamagedError) as caught:
        vault.restore(result.manifest, target, keys=keys, source=PatchedSource(vault.store, patches))
    return target, caught.value.ranges


def test_a_missing_pack_leaves_exactly_its_blocks_untouched() -> None:
    vault = Vault()
    image = noise(50 * BLOCK_SIZE)
    result = vault.write(image, compression_level=None)
    reader_entries = _block_places(vault, result)
    lost = _packs(result)[1]

    target, ranges = _restore_damaged(vault, result, {lost.key: None}, len(image) + 1000)

    expected = bytearray(image + bytes(1000))
    for offset, sha256 in reader_entries.items():
        if sha256 == lost.sha256:
            expected[offset : offset + BLOCK_SIZE] = b"\xa5" * BLOCK_SIZE
    assert target.data == expected
    blocks = [offset for offset, sha256 in sorted(reader_entries.items()) if sha256 == lost.sha256]
    assert ranges == ((blocks[0], len(blocks) * BLOCK_SIZE),)
    assert target.flushed


def _block_places(vault: Vault, result: WriteResult) -> dict[int, str]:
    from engine.repository import MapReader

    info = vault.open(result.manifest)
    reader = MapReader(manifest=info, object_source=vault.store, map_key=vault.domain_keys.map_key)
    leaf_size = info.body.fan_out * BLOCK_SIZE
    return {
        index * leaf_size + slot * BLOCK_SIZE: entry.object_name.hex()
        for index in range(-(-info.body.size_bytes // leaf_size))
        for slot, entry in reader.leaf(index).items()
    }


def test_one_damaged_block_is_the_only_range_reported() -> None:
    vault = Vault()
    image = noise(50 * BLOCK_SIZE)
    result = vault.write(image, compression_level=None)
    pack = _packs(result)[0]
    data = bytearray(vault.store.get(pack))
    data[60 + 3 * (BLOCK_SIZE + 16) + 5] ^= 1

    target, ranges = _restore_damaged(vault, result, {pack.key: bytes(data)}, len(image))

    assert ranges == ((3 * BLOCK_SIZE, BLOCK_SIZE),)
    expected = bytearray(image)
    expected[3 * BLOCK_SIZE : 4 * BLOCK_SIZE] = b"\xa5" * BLOCK_SIZE
    assert target.data == expected


def test_a_truncated_pack_loses_only_what_is_cut_off() -> None:
    vault = Vault()
    image = noise(14 * BLOCK_SIZE)
    result = vault.write(image, compression_level=None)
    pack = _packs(result)[0]
    cut = vault.store.get(pack)[: 60 + 5 * (BLOCK_SIZE + 16) + 1]
    in_pack = [offset for offset, sha256 in _block_places(vault, result).items() if sha256 == pack.sha256]

    _, ranges = _restore_damaged(vault, result, {pack.key: cut}, len(image))

    assert ranges == ((5 * BLOCK_SIZE, (len(in_pack) - 5) * BLOCK_SIZE),)


def test_a_missing_map_page_is_damage_not_zeros() -> None:
    vault = Vault()
    image = noise(16 * BLOCK_SIZE)
    result = vault.write(image)
    segment = next(ref for ref in result.new_objects if "/i/" in ref.key)

    target, ranges = _restore_damaged(vault, result, {segment.key: None}, len(image))

    assert ranges == ((0, len(image)),)
    assert target.data == b"\xa5" * len(image)


def test_a_first_bad_read_is_read_again() -> None:
    vault = Vault()
    image = noise(16 * BLOCK_SIZE)
    result = vault.write(image)
    keys = vault.keys_for(result.manifest)

    class FlakySource:
        def __init__(self) -> None:
            self.bad_reads = 0

        def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
            data = vault.store.get(ref, offset=offset, length=length)
            if "/p/" in ref.key and len(data) > 2000:
                self.bad_reads += 1
                return bytes(len(data))
            return data

    source = FlakySource()
    target = ImageTarget(len(image))
    vault.restore(result.manifest, target, keys=keys, source=source)

    assert source.bad_reads > 0
    assert target.data == image


def test_an_unreachable_store_is_not_reported_as_damage() -> None:
    vault = Vault()
    result = vault.write(noise(16 * BLOCK_SIZE))
    keys = vault.keys_for(result.manifest)

    class DownSource:
        def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
            if "/p/" in ref.key:
                raise StoreError("down", transient=True)
            return vault.store.get(ref, offset=offset, length=length)

    with pytest.raises(StoreError) as caught:
        vault.restore(result.manifest, ImageTarget(16 * BLOCK_SIZE), keys=keys, source=DownSource())

    assert caught.value.transient and not isinstance(caught.value, DamagedError)


def test_a_writing_host_needs_no_pack_and_no_envelope_for_an_incremental() -> None:
    vault, first = _vault_with_old_backup()
    before = len(vault.store.operations)

    vault.write(_NEW, base=first)

    read = [key for name, key in vault.store.operations[before:] if name == "get"]
    assert read and all("/m/" in key or "/i/" in key for key in read)


def test_a_host_without_old_data_keys_cannot_restore() -> None:
    vault, first = _vault_with_old_backup()

    with pytest.raises(EngineError):
        vault.restore(
            first.manifest,
            ImageTarget(len(_OLD)),
            keys=RestoreKeys(domain=vault.domain_keys, data_keys={}),
        )


def test_a_corrupting_compressor_is_noticed_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.compression import Compression, Compressor
    from engine.errors import IntegrityError

    honest = Compressor(1).compress(b"another text " * 100)[1]
    monkeypatch.setattr(Compressor, "compress", lambda self, data: (Compression.ZSTD, honest))
    vault = Vault()

    with pytest.raises(IntegrityError):
        vault.write(b"some text " * 1000)

    assert vault.store.list_versions() == []


def test_equal_input_and_random_bytes_give_equal_packs_and_segments() -> None:
    image = noise(500 * BLOCK_SIZE) + b"text" * 9000

    results = [Vault(seed="same").write(image) for _ in range(3)]

    names = [[ref.key for ref in result.new_objects if "/k/" not in ref.key] for result in results]
    assert names[0] == names[1] == names[2]


def test_the_time_of_the_model_store_is_virtual() -> None:
    assert Vault().store.put_object(key="x", data=b"").modified_at == NOW
