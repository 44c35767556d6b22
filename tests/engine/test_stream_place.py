"""A stream is restored onto a file or device in place: what is right stays, what is damaged is left alone and told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import DamagedError, EngineError, TargetTooSmallError
from engine.restore import RestoreResult
from engine.stream_place import restore_stream_in_place
from tests.engine.chunk_support import write_stream
from tests.engine.support import ImageTarget, PatchedSource, Vault, noise

DATA = noise(40_000) + bytes(30_000) + noise(20_000, "more") + bytes(5000)


class ReadableImage(ImageTarget):
    """Holds what a test gives it, and counts which bytes were written."""

    def __init__(self, data: bytes) -> None:
        super().__init__(len(data))
        self.data[:] = data
        self.touched = 0

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        super().write(offset, data)
        self.touched += len(data)


def restore(vault: Vault, result: Any, target: Any, **options: Any) -> RestoreResult:
    return restore_stream_in_place(
        manifest_ref=result.manifest,
        object_source=options.pop("source", vault.store),
        keys=options.pop("keys", None) or vault.keys_for(result.manifest),
        trusted_writers=[vault.writer_key.public],
        target=target,
        **options,
    )


@pytest.fixture
def saved() -> tuple[Vault, Any]:
    vault = Vault()
    return vault, write_stream(vault, DATA)


@pytest.mark.parametrize("extra", [0, 1, 10_000])
def test_all_is_written_and_the_rest_of_the_target_zeroed(saved: Any, extra: int) -> None:
    target = ImageTarget(len(DATA) + extra)

    result = restore(*saved, target)

    assert target.data == DATA + bytes(extra)
    assert target.flushed
    assert result.written_bytes + result.zeroed_bytes == len(target.data)


def test_what_the_target_holds_is_not_touched(saved: Any) -> None:
    target = ReadableImage(DATA + bytes(999))

    result = restore(*saved, target, differential=True)

    assert (target.touched, result.fetched_bytes, result.same_bytes) == (0, 0, len(target.data))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(1, 4000)), max_size=5),
    st.integers(0, 3000),
    st.integers(1, 40),
)
def test_whatever_is_there_becomes_the_stream(spoilt: list[tuple[int, int]], extra: int, window_chunks: int) -> None:
    vault = Vault()
    result = write_stream(vault, DATA)
    data = bytearray(DATA + b"x" * extra)
    for offset, length in spoilt:
        data[offset : offset + length] = noise(length, "spoilt")[: len(data) - offset]
    target = ReadableImage(bytes(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.stream_place._WINDOW_CHUNKS", window_chunks)

        done = restore(vault, result, target, differential=True)

    assert target.data == DATA + bytes(extra)
    assert done.written_bytes + done.zeroed_bytes + done.same_bytes == len(target.data)
    assert target.touched == done.written_bytes + done.zeroed_bytes
    # Each spoilt stretch costs the chunks around it, and holes in steps.
    assert done.written_bytes <= sum(length + 2048 for _, length in spoilt)


@pytest.mark.parametrize("differential", [False, True])
def test_damage_is_left_as_it_is_and_all_else_restored(saved: Any, differential: bool) -> None:
    vault, result = saved
    keys = vault.keys_for(result.manifest)
    pack = [ref for ref in result.new_objects if "/p/" in ref.key][1]
    target = ReadableImage(b"\xa5" * len(DATA))

    with pytest.raises(DamagedError) as caught:
        source = PatchedSource(vault.store, {pack.key: None})
        restore(vault, result, target, source=source, keys=keys, differential=differential)

    expected = bytearray(DATA)
    for offset, length in caught.value.ranges:
        expected[offset : offset + length] = b"\xa5" * length
    assert target.data == expected
    assert 0 < sum(length for _, length in caught.value.ranges) < 20_000
    assert target.flushed


def test_a_lost_page_is_damage(saved: Any) -> None:
    vault, result = saved
    keys = vault.keys_for(result.manifest)
    segments = {ref.key: None for ref in result.new_objects if "/i/" in ref.key}
    target = ReadableImage(b"\xa5" * len(DATA))

    with pytest.raises(DamagedError) as caught:
        restore(vault, result, target, source=PatchedSource(vault.store, segments), keys=keys)

    assert list(caught.value.ranges) == [(0, len(DATA))]
    assert target.touched == 0


def test_what_the_vault_lost_may_be_on_the_target(saved: Any) -> None:
    vault, result = saved
    keys = vault.keys_for(result.manifest)
    packs = {ref.key: None for ref in result.new_objects if "/p/" in ref.key}

    done = restore(
        vault, result, ReadableImage(DATA), source=PatchedSource(vault.store, packs), keys=keys, differential=True
    )

    assert done.same_bytes == len(DATA)


def test_a_small_target_is_refused_before_anything_is_written(saved: Any) -> None:
    target = ImageTarget(len(DATA) - 1)

    with pytest.raises(TargetTooSmallError):
        restore(*saved, target)
    assert target.writes == 0


def test_a_target_that_cannot_be_read_cannot_be_compared(saved: Any) -> None:
    with pytest.raises(EngineError) as caught:
        restore(*saved, ImageTarget(len(DATA)), differential=True)

    assert caught.value.code == "bad_option"


def test_an_empty_stream() -> None:
    vault = Vault()
    target = ReadableImage(b"old")

    restore(vault, write_stream(vault, b""), target, differential=True)

    assert target.data == bytes(3)
