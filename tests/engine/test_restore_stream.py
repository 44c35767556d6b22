"""A stream gets every byte in order, holes as zeros; it ends before the first byte it cannot vouch for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import DamagedError, EngineError
from engine.store.base import ObjectRef
from engine.targets import StreamTarget
from engine.writer import WriteResult
from tests.engine.restoring import KilledError, ReadableTarget, blocks_in, packs_of, restore
from tests.engine.support import BLOCK_SIZE, PatchedSource, Vault, noise

_IMAGE = noise(20 * BLOCK_SIZE) + bytes(40 * BLOCK_SIZE) + noise(30 * BLOCK_SIZE, "b") + noise(99, "end")


class Collected(StreamTarget):
    """A stream in memory."""

    def __init__(self, *, break_at: int | None = None) -> None:
        super().__init__(-1)
        self.data = bytearray()
        self.break_at = break_at
        self.flushed = False

    def append(self, data: bytes | memoryview) -> None:
        if self.break_at is not None and len(self.data) >= self.break_at:
            raise KilledError("killed")
        self.data += data

    def flush(self) -> None:
        self.flushed = True


def test_a_stream_gets_the_image() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    target = Collected()

    told = restore(vault, result.manifest, target)

    assert target.data == _IMAGE
    assert target.flushed
    assert told.written_bytes + told.zeroed_bytes == len(_IMAGE)


def test_blocks_that_lie_in_the_vault_in_another_order_come_out_in_order() -> None:
    """The second backup's changed blocks lie in a later pack than the blocks behind them."""
    vault = Vault()
    image = bytearray(_IMAGE)
    first = vault.write(image)
    for block in (1, 5, 63, 70):
        image[block * BLOCK_SIZE] ^= 1
    second = vault.write(image, base=first)
    target = Collected()

    restore(vault, second.manifest, target)

    assert target.data == image


def _lose(vault: Vault, result: WriteResult, pack: ObjectRef, target: StreamTarget, **options: object):
    with pytest.raises(DamagedError) as caught:
        restore(
            vault,
            result.manifest,
            target,
            keys=vault.keys_for(result.manifest),
            object_source=PatchedSource(vault.store, {pack.key: None}),
            **options,
        )
    return caught.value.ranges


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_stream_ends_right_before_the_first_damaged_range(number: int) -> None:
    vault = Vault()
    result = vault.write(_IMAGE, compression_level=None)
    pack = packs_of(result)[number]
    first = blocks_in(vault, result.manifest, [pack])[0]
    target = Collected()

    ranges = _lose(vault, result, pack, target)

    assert target.data == _IMAGE[:first]
    assert [offset for offset, _ in ranges] == [first]


def test_a_stream_that_is_filled_tells_all_damaged_ranges_at_its_end() -> None:
    vault = Vault()
    result = vault.write(_IMAGE, compression_level=None)
    pack = packs_of(result)[1]
    lost = blocks_in(vault, result.manifest, [pack])
    target = Collected()

    ranges = _lose(vault, result, pack, target, fill_damaged=True)

    expected = bytearray(_IMAGE)
    for offset in lost:
        expected[offset : offset + BLOCK_SIZE] = bytes(BLOCK_SIZE)
    assert target.data == expected
    assert sum(length for _, length in ranges) == len(lost) * BLOCK_SIZE
    assert {offset for start, length in ranges for offset in range(start, start + length, BLOCK_SIZE)} == set(lost)
    assert target.flushed


def test_a_lost_map_page_ends_a_stream_where_it_begins() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    segment = next(ref for ref in result.new_objects if "/i/" in ref.key)
    target = Collected()

    ranges = _lose(vault, result, segment, target)

    assert (bytes(target.data), ranges[0][0]) == (b"", 0)


def test_filling_is_for_streams_only() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    target = ReadableTarget(len(_IMAGE))

    with pytest.raises(EngineError) as caught:
        restore(vault, result.manifest, target, fill_damaged=True)

    assert (caught.value.code, target.writes) == ("bad_option", 0)


def test_a_stream_cannot_be_compared() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    target = Collected()

    with pytest.raises(EngineError) as caught:
        restore(vault, result.manifest, target, differential=True)

    assert (caught.value.code, bytes(target.data)) == ("bad_option", b"")


def test_a_reader_that_goes_away_ends_the_restore() -> None:
    vault = Vault()
    result = vault.write(_IMAGE)
    target = Collected(break_at=7 * BLOCK_SIZE)

    with pytest.raises(KilledError):
        restore(vault, result.manifest, target)

    assert target.data == _IMAGE[: len(target.data)]


def test_what_is_kept_back_to_be_put_into_order_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes fetched and not yet given out never exceed the window, however large a leaf is."""
    monkeypatch.setattr("engine.restore._WINDOW_BYTES", 16 * BLOCK_SIZE)
    vault = Vault()
    image = noise(400 * BLOCK_SIZE)
    result = vault.write(image, fan_out=1024, compression_level=None, pack_size=1 << 20)
    target = Collected()
    fetched = kept_peak = 0

    class Counted:
        def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
            nonlocal fetched, kept_peak
            data = vault.store.get(ref, offset=offset, length=length)
            if "/p/" in ref.key:
                fetched += len(data)
                kept_peak = max(kept_peak, fetched - len(target.data))
            return data

    restore(vault, result.manifest, target, keys=vault.keys_for(result.manifest), object_source=Counted())

    assert target.data == image
    assert kept_peak <= 16 * (BLOCK_SIZE + 16) + 400 * 16


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 2]), max_size=60),
    st.integers(0, 511),
    st.integers(1, 9),
    st.lists(st.integers(0, 59), max_size=6),
)
def test_any_image_comes_out_in_order_up_to_any_damage(
    kinds: list[int], tail: int, window_blocks: int, broken: list[int]
) -> None:
    vault = Vault()
    image = b"".join(
        bytes(BLOCK_SIZE) if not kind else noise(BLOCK_SIZE, f"{kind}/{n}") for n, kind in enumerate(kinds)
    )
    image += noise(tail, "tail")
    result = vault.write(image, compression_level=None)
    patches: dict[str, bytes | None] = {}
    for pack in packs_of(result):
        data = bytearray(vault.store.get(pack))
        for number in broken:
            position = 60 + number * (BLOCK_SIZE + 16) + 7
            if position < len(data) - 200:
                data[position] ^= 1
        patches[pack.key] = bytes(data)
    whole = ReadableTarget(len(image))
    stream, filled = Collected(), Collected()
    options = {"keys": vault.keys_for(result.manifest), "object_source": PatchedSource(vault.store, patches)}

    ranges = _ranges(vault, result, whole, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.restore._WINDOW_BYTES", window_blocks * BLOCK_SIZE)
        stream_ranges = _ranges(vault, result, stream, **options)
        filled_ranges = _ranges(vault, result, filled, fill_damaged=True, **options)

    assert stream.data == (image[: ranges[0][0]] if ranges else image)
    assert [offset for offset, _ in stream_ranges] == [offset for offset, _ in ranges[:1]]
    assert filled_ranges == ranges
    expected = bytearray(image)
    for offset, length in ranges:
        expected[offset : offset + length] = bytes(length)
    assert filled.data == expected


def _ranges(vault: Vault, result: WriteResult, target: object, **options: object) -> tuple[tuple[int, int], ...]:
    try:
        restore(vault, result.manifest, target, **options)
    except DamagedError as error:
        return error.ranges
    return ()
