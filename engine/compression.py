"""Compression of one record: zstd, or stored as it is. The id is authenticated with each record.

Both directions keep one zstd context per thread: making one for every record costs more than opening the record.
"""

from __future__ import annotations

import threading
from enum import IntEnum

import zstandard

from engine.errors import IntegrityError

DEFAULT_LEVEL = 1
# Covers the largest block; a frame that asks for a larger window than its content can need is refused.
_WINDOW_BYTES_MAX = 1 << 24

_contexts = threading.local()


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
        packed = self._context(self._level).compress(data)
        if len(packed) * 20 > len(data) * 19:
            return Compression.NONE, data
        return Compression.ZSTD, packed

    def _context(self, level: int) -> zstandard.ZstdCompressor:
        context: zstandard.ZstdCompressor | None = getattr(self._contexts, "zstd", None)
        if context is None:
            context = self._contexts.zstd = zstandard.ZstdCompressor(level=level)
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
    try:
        _check_frame(zstandard.get_frame_parameters(data), plain_length)
        # The limit counts only for a frame that does not tell its own size; one that does was checked just now.
        plain = _decompressor().decompress(data, max_output_size=plain_length, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise IntegrityError("compressed data is damaged") from error
    if len(plain) != plain_length:
        raise IntegrityError("compressed data does not have the promised length")
    return plain


def _check_frame(told: zstandard.FrameParameters, plain_length: int) -> None:
    """Before anything is allocated: the sizes that the frame's own header tells."""
    if told.window_size > _WINDOW_BYTES_MAX:
        raise IntegrityError("compressed data asks for too much memory")
    # Nothing is saved by compressing nothing, and the library does not look into such a frame.
    if plain_length == 0 or told.content_size not in (zstandard.CONTENTSIZE_UNKNOWN, plain_length):
        raise IntegrityError("compressed data does not have the promised length")


def _decompressor() -> zstandard.ZstdDecompressor:
    context: zstandard.ZstdDecompressor | None = getattr(_contexts, "zstd", None)
    if context is None:
        context = _contexts.zstd = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)
    return context
