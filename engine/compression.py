"""Compression of one record: zstd, or stored as it is. The id is authenticated with each record."""

from __future__ import annotations

import sys
import threading
from enum import IntEnum

from engine.errors import IntegrityError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DEFAULT_LEVEL = 1
# 2^24 covers the largest block; a frame that asks for more memory than its content can need is refused.
_WINDOW_LOG_MAX = 24


class Compression(IntEnum):
    NONE = 0
    ZSTD = 1


class Compressor:
    """Compresses with one level. Thread-safe: each thread keeps its own zstd context."""

    def __init__(self, level: int | None) -> None:
        self._level = level
        self._contexts = threading.local()

    def compress(self, data: bytes | memoryview) -> tuple[Compression, bytes | memoryview]:
        """The smaller form of `data`; zstd only when it saves at least 5 %."""
        if self._level is None:
            return Compression.NONE, data
        packed = self._context().compress(data, zstd.ZstdCompressor.FLUSH_FRAME)
        if len(packed) * 20 > len(data) * 19:
            return Compression.NONE, data
        return Compression.ZSTD, packed

    def _context(self) -> zstd.ZstdCompressor:
        context: zstd.ZstdCompressor | None = getattr(self._contexts, "zstd", None)
        if context is None:
            context = self._contexts.zstd = zstd.ZstdCompressor(level=self._level)
        return context


def decompress(data: bytes, *, compression: int, plain_length: int) -> bytes:
    """Exactly `plain_length` bytes, never allocating much more; IntegrityError for anything else."""
    if compression == Compression.NONE:
        if len(data) != plain_length:
            raise IntegrityError("stored length differs from the plain length")
        return data
    if compression != Compression.ZSTD:
        raise IntegrityError(f"unknown compression {compression}")
    return _decompress_zstd(data, plain_length)


def _decompress_zstd(data: bytes, plain_length: int) -> bytes:
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
    decompressor = zstd.ZstdDecompressor(options=options)
    try:
        # One byte more than allowed is enough to notice a frame that holds too much.
        plain = decompressor.decompress(data, plain_length + 1)
    except (zstd.ZstdError, MemoryError) as error:
        raise IntegrityError("compressed data is damaged") from error
    if len(plain) != plain_length or not decompressor.eof or decompressor.unused_data:
        raise IntegrityError("compressed data does not have the promised length")
    return plain
