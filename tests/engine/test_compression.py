"""The zstd frames that another writer could have made: what a reader takes, and what it refuses before it allocates."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard

from engine.compression import Compression, Compressor, decompress
from engine.errors import IntegrityError

PLAIN = b"a text of some length. " * 400


def _frame(plain: bytes = PLAIN, **parameters: int) -> bytes:
    """One frame; without its content size unless the parameters say otherwise."""
    chosen = zstandard.ZstdCompressionParameters(compression_level=3, write_content_size=False, **parameters)
    stream = zstandard.ZstdCompressor(compression_params=chosen).compressobj()
    return stream.compress(plain) + stream.flush()


def test_a_frame_that_does_not_tell_its_size_is_read() -> None:
    frame = _frame()

    assert zstandard.get_frame_parameters(frame).content_size == zstandard.CONTENTSIZE_UNKNOWN
    assert decompress(frame, compression=Compression.ZSTD, plain_length=len(PLAIN)) == PLAIN


@pytest.mark.parametrize("plain_length", [0, 1, len(PLAIN) - 1, len(PLAIN) + 1])
def test_a_frame_that_does_not_tell_its_size_is_held_to_the_promised_one(plain_length: int) -> None:
    with pytest.raises(IntegrityError):
        decompress(_frame(), compression=Compression.ZSTD, plain_length=plain_length)


def test_a_window_beyond_the_largest_block_is_refused() -> None:
    frame = _frame(window_log=25)

    with pytest.raises(IntegrityError, match="memory"):
        decompress(frame, compression=Compression.ZSTD, plain_length=len(PLAIN))


@pytest.mark.case("RS-08")
def test_a_bomb_that_does_not_tell_its_size_is_not_unpacked() -> None:
    bomb = _frame(bytes(50_000_000))
    tracemalloc.start()

    with pytest.raises(IntegrityError):
        decompress(bomb, compression=Compression.ZSTD, plain_length=65536)

    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("damage", ["skippable before", "byte behind", "second frame", "cut"])
def test_anything_but_exactly_one_frame_is_refused(damage: str) -> None:
    skippable = 0x184D2A50.to_bytes(4, "little") + (4).to_bytes(4, "little") + b"skip"
    damaged = {
        "skippable before": skippable + _frame(),
        "byte behind": _frame() + b"x",
        "second frame": _frame() + _frame(b"x"),
        "cut": _frame()[:-1],
    }[damage]

    with pytest.raises(IntegrityError):
        decompress(damaged, compression=Compression.ZSTD, plain_length=len(PLAIN))


def test_a_frame_of_nothing_is_refused_because_the_library_does_not_look_into_it() -> None:
    damaged = zstandard.ZstdCompressor().compress(b"")[:-1] + b"anything"

    with pytest.raises(IntegrityError):
        decompress(damaged, compression=Compression.ZSTD, plain_length=0)


def test_threads_do_not_disturb_each_other() -> None:
    compressor = Compressor(1)
    plains = [bytes([number]) * 3000 + PLAIN[number:] for number in range(200)]

    def there_and_back(plain: bytes) -> bytes:
        compression, packed = compressor.compress(plain)
        return decompress(bytes(packed), compression=compression, plain_length=len(plain))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(there_and_back, plains)) == plains
