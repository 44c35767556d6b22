from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import BaseMismatchError, EngineError, SourceError
from engine.scan import Extent
from tests.engine.support import BLOCK_SIZE, ImageSource, ImageTarget, Vault, kinds, noise

_SETTINGS = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))

# A piece of an image: (length, fill) where fill 0 is zeros, small numbers repeat (dedup), others are noise.
_pieces = st.lists(st.tuples(st.integers(0, 3 * BLOCK_SIZE), st.integers(0, 9)), max_size=25)


def build(pieces: list[tuple[int, int]]) -> bytes:
    fills = [bytes(BLOCK_SIZE * 3), b"a" * BLOCK_SIZE * 3, *(noise(BLOCK_SIZE * 3, str(n)) for n in range(2, 10))]
    return b"".join(fills[fill][:length] for length, fill in pieces)


@_SETTINGS
@given(_pieces, st.sampled_from([None, 1, 3]), st.sampled_from([2, 3, 1024]))
def test_any_image_comes_back(pieces: list[tuple[int, int]], level: int | None, fan_out: int) -> None:
    vault, image = Vault(), build(pieces)

    result = vault.write(image, compression_level=level, fan_out=fan_out)

    assert vault.restored(result.manifest) == image


@_SETTINGS
@given(_pieces, st.lists(_pieces, min_size=1, max_size=4), st.sampled_from([2, 4]))
def test_a_chain_of_images_of_any_size_comes_back(
    first: list[tuple[int, int]], rest: list[list[tuple[int, int]]], fan_out: int
) -> None:
    vault = Vault()
    images = [build(pieces) for pieces in (first, *rest)]

    results = []
    for image in images:
        results.append(vault.write(image, base=results[-1] if results else None, fan_out=fan_out))

    assert [vault.restored(result.manifest) for result in results] == images
    _check_census(vault, results)


@_SETTINGS
@given(
    st.integers(1, 40 * BLOCK_SIZE),
    st.integers(1, 40 * BLOCK_SIZE),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 2000), st.booleans()), max_size=8),
)
def test_changed_extents_are_enough(old_size: int, new_size: int, edits: list[tuple[int, int, bool]]) -> None:
    vault = Vault()
    old = noise(old_size, "old")
    new = bytearray(old[:new_size] + noise(max(0, new_size - old_size), "grown"))
    touched = bytearray(new_size)
    for position, length, to_zero in edits:
        start = position % new_size
        end = min(start + length, new_size)
        new[start:end] = bytes(end - start) if to_zero else noise(end - start, str(position))
        touched[start:end] = b"\x01" * (end - start)
    first = vault.write(old)

    second = vault.write(ImageSource(new, changed=_runs(touched)), base=first)
    full = Vault(seed="full").write(new)

    assert vault.restored(second.manifest) == new
    assert vault.restored(first.manifest) == old
    assert second.stats.scanned_bytes == full.stats.scanned_bytes == new_size
    _check_census(vault, [first, second])


def _runs(touched: bytearray) -> list[Extent]:
    extents: list[Extent] = []
    start = touched.find(1)
    while start >= 0:
        end = touched.find(0, start)
        end = end if end >= 0 else len(touched)
        extents.append(Extent(start, end - start))
        start = touched.find(1, end)
    return extents


def _check_census(vault: Vault, results: list) -> None:
    """Use counts of an incremental manifest equal those counted by walking its map."""
    from collections import Counter

    from engine.repository import MapReader

    for result in results:
        info = vault.open(result.manifest)
        reader = MapReader(manifest=info, object_source=vault.store, map_key=vault.domain_keys.map_key)
        packs: Counter = Counter()
        segments: Counter = Counter()
        sessions: Counter = Counter()
        pages = [(info.body.height, 0)]
        while pages:
            level, index = pages.pop()
            ref = reader.page_ref(level, index)
            if ref is None:
                continue
            segments[ref.object_name] += 1
            if level:
                pages += [(level - 1, index * info.body.fan_out + slot) for slot in reader.interior(level, index)]
                continue
            for entry in reader.leaf(index).values():
                packs[entry.object_name] += 1
                sessions[entry.session_id] += 1
        assert {entry.sha256: entry.use_count for entry in info.body.packs} == packs
        assert {entry.sha256: entry.use_count for entry in info.body.segments} == segments
        assert {e.session_id: e.use_count for e in info.body.sessions if e.use_count} == sessions


def test_holes_are_neither_read_nor_stored() -> None:
    vault = Vault()
    image = bytearray(100 * BLOCK_SIZE)
    image[10 * BLOCK_SIZE : 12 * BLOCK_SIZE] = noise(2 * BLOCK_SIZE)
    source = ImageSource(image, allocated=[Extent(10 * BLOCK_SIZE + 5, BLOCK_SIZE)])

    result = vault.write(source)

    assert source.reads == [(10 * BLOCK_SIZE, 2 * BLOCK_SIZE)]
    assert result.stats.new_blocks == 2
    assert vault.restored(result.manifest) == image


def test_zero_blocks_are_not_stored() -> None:
    vault = Vault()

    result = vault.write(bytes(50 * BLOCK_SIZE + 7))

    assert result.stats.zero_blocks == 51
    assert kinds(result.new_objects) == "k"
    assert vault.restored(result.manifest) == bytes(50 * BLOCK_SIZE + 7)


def test_an_all_zero_chain_keeps_one_envelope() -> None:
    vault = Vault()
    first = vault.write(bytes(5000))

    second = vault.write(bytes(5000), base=first)
    third = vault.write(bytes(5000), base=second)

    assert second.new_objects == third.new_objects == ()
    assert vault.restored(third.manifest) == bytes(5000)


def test_equal_blocks_are_stored_once() -> None:
    vault = Vault()
    block = noise(BLOCK_SIZE)

    result = vault.write(block * 40)

    assert result.stats.new_blocks == 1
    assert result.stats.reused_blocks == 39
    assert vault.restored(result.manifest) == block * 40


def test_a_backup_without_changes_writes_only_a_manifest() -> None:
    vault = Vault()
    image = noise(300 * BLOCK_SIZE + 3)
    first = vault.write(image)

    second = vault.write(image, base=first)

    assert second.new_objects == ()
    assert second.stats.read_bytes == len(image)
    assert set(second.reused_objects) == set(first.new_objects)


def test_known_changes_read_only_those() -> None:
    vault = Vault()
    image = bytearray(noise(300 * BLOCK_SIZE))
    first = vault.write(image)
    image[100 * BLOCK_SIZE + 1] ^= 1
    source = ImageSource(image, changed=[Extent(100 * BLOCK_SIZE + 1, 1)])

    second = vault.write(source, base=first)

    assert source.reads == [(100 * BLOCK_SIZE, BLOCK_SIZE)]
    assert kinds(second.new_objects) == "ikp"
    assert vault.restored(second.manifest) == image


def test_one_changed_block_rewrites_one_path_of_pages() -> None:
    from engine.pack import parse_container
    from engine.sealing import RecordType, map_sealer
    from engine.store.base import ObjectKind
    from tests.engine.support import DOMAIN, TENANT

    vault = Vault()
    image = bytearray(noise(64 * BLOCK_SIZE))
    first = vault.write(image)
    image[33 * BLOCK_SIZE] ^= 1

    second = vault.write(image, base=first)

    segment = next(ref for ref in second.new_objects if "/i/" in ref.key)
    sealer = map_sealer(RecordType.TABLE, tenant=TENANT, domain=DOMAIN, map_key=vault.domain_keys.map_key)
    records = parse_container(vault.store.get(segment), kind=ObjectKind.INDEX, table_sealer=sealer).records
    assert len(records) == 3  # fan-out 4, 64 blocks: leaf, interior page, root
    assert second.stats.new_blocks == 1


def test_manifests_of_a_source_are_chained_by_hash() -> None:
    vault = Vault()
    first = vault.write(noise(5000))
    second = vault.write(noise(5000), base=first)
    third = vault.write(noise(5000), previous_sha256=second.manifest.sha256)

    previous = [vault.open(result.manifest).body.previous_sha256 for result in (first, second, third)]

    assert previous == [None, bytes.fromhex(first.manifest.sha256), bytes.fromhex(second.manifest.sha256)]


def test_a_base_with_another_geometry_is_refused() -> None:
    vault = Vault()
    first = vault.write(noise(5000))

    with pytest.raises(BaseMismatchError):
        vault.write(noise(5000), base=first, block_size=1024)


def test_a_base_of_another_source_is_refused() -> None:
    vault = Vault()
    first = vault.write(noise(5000))

    with pytest.raises(BaseMismatchError):
        vault.write(noise(5000), base=first, source_id="other")


def test_errors_of_the_source_pass_through() -> None:
    class DiskGoneError(SourceError):
        pass

    def fail() -> None:
        raise DiskGoneError("gone")

    vault = Vault()
    with pytest.raises(DiskGoneError):
        vault.write(ImageSource(noise(5000), on_read=fail))
    assert not [version for version in vault.store.list_versions() if "/m/" in version.key]


def test_a_source_that_changed_meanwhile_leaves_no_manifest() -> None:
    def changed() -> None:
        raise SourceError("changed while it was read")

    vault = Vault()
    with pytest.raises(SourceError):
        vault.write(ImageSource(noise(5000), on_end=changed))
    assert not [version for version in vault.store.list_versions() if "/m/" in version.key]


def test_a_short_read_is_an_error_of_the_source() -> None:
    class ShortSource(ImageSource):
        def read(self, offset: int, length: int) -> bytes:
            return super().read(offset, length)[:-1]

    with pytest.raises(SourceError):
        Vault().write(ShortSource(noise(5000)))


@pytest.mark.parametrize(
    "extents",
    [[Extent(600, 10), Extent(0, 10)], [Extent(0, 20), Extent(10, 20)], [Extent(0, 5001)], [Extent(5, -1)]],
)
def test_disordered_extents_are_refused(extents: list[Extent]) -> None:
    with pytest.raises(SourceError):
        Vault().write(ImageSource(noise(5000), allocated=extents))


def test_progress_ends_at_the_size_of_the_image() -> None:
    seen = []
    image = noise(40 * BLOCK_SIZE)

    result = Vault().write(image, progress=seen.append)

    assert seen[-1].scanned_bytes == len(image)
    assert seen[-1].stored_bytes == result.stats.stored_bytes > len(image)
    assert all(a.scanned_bytes <= b.scanned_bytes for a, b in itertools.pairwise(seen))


def test_a_larger_target_is_zeroed_to_its_end() -> None:
    vault = Vault()
    image = noise(5000)
    result = vault.write(image)
    target = ImageTarget(7777)

    vault.restore(result.manifest, target)

    assert target.data == image + bytes(2777)
    assert target.flushed


def test_a_smaller_target_is_refused_before_any_write() -> None:
    vault = Vault()
    result = vault.write(noise(5000))
    target = ImageTarget(4999)

    with pytest.raises(EngineError) as caught:
        vault.restore(result.manifest, target)

    assert caught.value.code == "target_too_small"
    assert target.writes == 0


def test_many_changed_leaves_close_packs_early_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.blockmap.WAITING_BYTES_MAX", 2500)
    vault = Vault()
    image = bytearray(noise(400 * BLOCK_SIZE))
    first = vault.write(image, pack_size=1 << 20)
    for block in range(0, 400, 8):
        image[block * BLOCK_SIZE] ^= 1

    second = vault.write(image, base=first, pack_size=1 << 20)

    assert kinds(second.new_objects).count("p") > 5
    assert vault.restored(second.manifest) == image


def test_segments_fill_and_refer_across_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.writer.DEFAULT_CONTAINER_SIZE", 1500)
    vault = Vault()
    image = bytearray(noise(200 * BLOCK_SIZE))

    first = vault.write(image)
    image[150 * BLOCK_SIZE] ^= 1
    second = vault.write(image, base=first)

    assert kinds(first.new_objects).count("i") > 5
    assert vault.restored(second.manifest) == image
    _check_census(vault, [first, second])
