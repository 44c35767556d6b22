"""A differential restore fetches and writes only what differs; a restore that was killed goes on like that."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import DamagedError, EngineError
from engine.index import resolve
from engine.ranges import merge_ranges
from engine.waiting import Cancel
from tests.engine.hanging import Hang, canceled_in_time
from tests.engine.restoring import (
    KilledError,
    ReadableTarget,
    blocks_in,
    map_entries,
    packs_of,
    restore,
)
from tests.engine.support import BLOCK_SIZE, ImageTarget, PatchedSource, Vault, noise

_IMAGE = noise(30 * BLOCK_SIZE) + bytes(9 * BLOCK_SIZE) + noise(20 * BLOCK_SIZE, "b") + noise(77, "end")


@pytest.fixture(autouse=True)
def exact_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads do not span records that are not needed, so that fetched bytes can be counted exactly."""
    monkeypatch.setattr("engine.fetching.GAP_BYTES_MAX", 0)


def test_a_target_that_is_right_already_is_neither_fetched_nor_written() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    target = ReadableTarget(_IMAGE + bytes(5000))

    told = restore(vault, result.manifest, target, differential=True)

    assert (target.writes, told.fetched_bytes, told.written_bytes, told.zeroed_bytes) == (0, 0, 0, 0)
    assert told.same_bytes == target.size_bytes
    assert target.flushed


def test_only_differing_blocks_are_fetched_and_written() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    target = ReadableTarget(_IMAGE)
    for block in (3, 4, 17, 50):
        target.data[block * BLOCK_SIZE + 9] ^= 1

    told = restore(vault, result.manifest, target, differential=True)

    stored = {offset: entry.record_length for offset, entry in map_entries(vault, result.manifest)}
    blocks = [block * BLOCK_SIZE for block in (3, 4, 17, 50)]
    assert target.data == _IMAGE
    assert sorted(target.touched) == [(offset, BLOCK_SIZE) for offset in blocks]
    assert told.fetched_bytes == sum(stored[offset] for offset in blocks)
    assert told.same_bytes == len(_IMAGE) - 4 * BLOCK_SIZE


def test_only_the_dirty_part_of_a_hole_is_zeroed() -> None:
    vault = Vault()
    image = bytes(1024 * BLOCK_SIZE)
    result = vault.write(image)
    target = ReadableTarget(image)
    target.data[300_000] = 7

    told = restore(vault, result.manifest, target, differential=True)

    assert target.data == image
    assert target.touched == [(4 * 65536, 65536)]
    assert (told.zeroed_bytes, told.same_bytes) == (65536, len(image) - 65536)


def test_a_hole_that_the_target_knows_is_not_read() -> None:
    class Holey(ReadableTarget):
        reads: list[tuple[int, int]] = []

        def is_hole(self, offset: int, length: int) -> bool:
            return not any(self.data[offset : offset + length])

        def read(self, offset: int, length: int) -> bytes:
            self.reads.append((offset, length))
            return super().read(offset, length)

    vault = Vault()
    image = bytes(100 * BLOCK_SIZE) + noise(BLOCK_SIZE)
    result = vault.write(image)
    target = Holey(image)

    restore(vault, result.manifest, target, differential=True)

    assert target.reads == [(100 * BLOCK_SIZE, BLOCK_SIZE)]


def test_a_restore_killed_at_any_write_goes_on_and_fetches_only_what_is_missing() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    keys = vault.keys_for(result.manifest)
    stored = {
        offset: (entry.record_length, entry.plain_length) for offset, entry in map_entries(vault, result.manifest)
    }
    whole = ReadableTarget(len(_IMAGE))
    restore(vault, result.manifest, whole, keys=keys)
    assert whole.writes > 50

    for killed_at in range(whole.writes):
        target = ReadableTarget(len(_IMAGE), break_at=killed_at)
        with pytest.raises(KilledError):
            restore(vault, result.manifest, target, keys=keys)
        target.break_at = None
        missing = [
            offset
            for offset, (_, length) in stored.items()
            if target.data[offset : offset + length] != _IMAGE[offset : offset + length]
        ]

        told = restore(vault, result.manifest, target, keys=keys, differential=True)

        assert target.data == _IMAGE
        assert told.fetched_bytes == sum(stored[offset][0] for offset in missing)
        assert told.written_bytes == sum(stored[offset][1] for offset in missing)


def test_a_differential_restore_can_be_killed_and_go_on_again() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    target = ReadableTarget(len(_IMAGE))

    for killed_at in (5, 11, 30):
        target.break_at = killed_at
        with pytest.raises(KilledError):
            restore(vault, result.manifest, target, differential=True)
    target.break_at = None
    restore(vault, result.manifest, target, differential=True)

    assert target.data == _IMAGE
    # Nothing was written twice: every byte of the target was wrong at first.
    assert sum(length for _, length in target.touched) == len(_IMAGE)


def test_what_the_target_holds_is_no_damage_even_if_its_pack_is_lost() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    lost = packs_of(result)[0]
    offsets = blocks_in(vault, result.manifest, [lost])
    target = ReadableTarget(_IMAGE)
    target.data[offsets[2]] ^= 1
    spoiled = bytes(target.data)

    with pytest.raises(DamagedError) as caught:
        restore(
            vault,
            result.manifest,
            target,
            keys=vault.keys_for(result.manifest),
            object_source=PatchedSource(vault.store, {lost.key: None}),
            differential=True,
        )

    assert caught.value.ranges == ((offsets[2], BLOCK_SIZE),)
    assert target.data == spoiled


def test_a_target_that_cannot_be_read_is_refused_before_any_write() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    target = ImageTarget(len(_IMAGE))

    with pytest.raises(EngineError) as caught:
        restore(vault, result.manifest, target, differential=True)

    assert caught.value.code == "bad_option"
    assert target.writes == 0


def test_a_short_read_of_the_target_is_an_error_not_a_difference() -> None:
    class Short(ReadableTarget):
        def read(self, offset: int, length: int) -> bytes:
            return super().read(offset, length)[:-1]

    vault = Vault()
    result = vault.write(_IMAGE)

    with pytest.raises(EngineError) as caught:
        restore(vault, result.manifest, Short(_IMAGE), differential=True)

    assert caught.value.code == "short_read"


def test_the_target_is_read_about_one_mib_at_a_time_and_never_while_it_is_written() -> None:
    class Watched(ReadableTarget):
        lock = threading.Lock()
        lengths: list[int] = []
        reading = peak = 0

        def read(self, offset: int, length: int) -> bytes:
            with self.lock:
                self.lengths.append(length)
                Watched.reading += 1
                Watched.peak = max(self.peak, self.reading)
            data = super().read(offset, length)
            with self.lock:
                Watched.reading -= 1
            return data

        def write(self, offset: int, data: bytes) -> None:
            assert self.reading == 0
            super().write(offset, data)

    vault = Vault()
    image = noise(5 << 20)
    result = vault.write(image, block_size=65536, fan_out=64, pack_size=4 << 20)
    target = Watched(bytes(len(image)))

    restore(vault, result.manifest, target, differential=True)

    assert target.data == image
    assert max(target.lengths) == 1 << 20
    assert target.peak <= 2


def test_a_cancel_while_comparing_is_quick() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)

    def comparing(hang: Hang, cancel: Cancel) -> object:
        class Hanging(ReadableTarget):
            def read(self, offset: int, length: int) -> bytes:
                hang.wait()
                return super().read(offset, length)

        return restore(vault, result.manifest, Hanging(_IMAGE), differential=True, cancel=cancel)

    canceled_in_time(comparing)


_CELLS = st.lists(st.sampled_from(["zero", "same", "other", "text"]), min_size=1, max_size=40)


def _cells(kinds: list[str], seed: str, tail: int) -> bytes:
    made = {
        "zero": lambda _: bytes(BLOCK_SIZE),
        "same": lambda _: noise(BLOCK_SIZE, "same"),
        "other": lambda number: noise(BLOCK_SIZE, f"{seed}{number}"),
        "text": lambda number: (b"text %d " % number * 200)[:BLOCK_SIZE],
    }
    return b"".join(made[kind](number) for number, kind in enumerate(kinds)) + noise(tail, seed)


@settings(max_examples=120, deadline=None)
@given(_CELLS, _CELLS, st.integers(0, 511), st.integers(0, 3000), st.booleans())
def test_whatever_the_target_holds_it_ends_as_the_image(
    image_kinds: list[str], target_kinds: list[str], tail: int, spare: int, has_same_seed: bool
) -> None:
    vault = Vault()
    image = _cells(image_kinds, "image", tail)
    result = vault.write(image)
    before = _cells(target_kinds, "image" if has_same_seed else "target", 0)
    size = len(image) + spare
    target = ReadableTarget((before + noise(size))[:size])

    told = restore(vault, result.manifest, target, differential=True)

    assert target.data == image + bytes(spare)
    assert told.same_bytes + told.written_bytes + told.zeroed_bytes == size
    assert sum(length for _, length in merge_ranges(sorted(target.touched))) == told.written_bytes + told.zeroed_bytes
    again = restore(vault, result.manifest, target, differential=True)
    assert (again.same_bytes, again.fetched_bytes) == (size, 0)


def test_the_pack_of_a_block_is_what_the_helpers_say() -> None:
    """The helpers of these tests see every stored block of the image."""
    vault = Vault()
    result = vault.write(_IMAGE)

    names = {resolve(entry.object_name).hex() for _, entry in map_entries(vault, result.manifest)}

    assert names == {pack.sha256 for pack in packs_of(result)}
    assert len(blocks_in(vault, result.manifest, packs_of(result))) == 51
