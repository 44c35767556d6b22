"""How the stream in the file of a copy is compressed: off, gzip, bzip2, zstd, as the programs of these names do it."""

from __future__ import annotations

import bz2
import gzip
import zlib
from typing import BinaryIO, Protocol

import zstandard

from agents.drivers.base import DriverError

# What each one ends a file's name with.
SUFFIXES = {"off": "", "gzip": ".gz", "bzip2": ".bz2", "zstd": ".zst"}
# What a damaged stream raises on reading.
STREAM_ERRORS = (EOFError, zlib.error, zstandard.ZstdError, gzip.BadGzipFile, ValueError)
_ZSTD_WINDOW_MAX = 1 << 27


class UnknownCompressionError(DriverError):
    code = "unknown_compression"


class Packer(Protocol):
    """Gives what is to be written; `flush` once, at the end."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class PlainReader(Protocol):
    """At most `size` bytes, none at the end: so a stream that grows without end costs no memory."""

    def read(self, size: int, /) -> bytes: ...


def packer(compression: str) -> Packer | None:
    """None for off."""
    match compression:
        case "off":
            return None
        case "gzip":
            return zlib.compressobj(level=1, wbits=31)
        case "bzip2":
            return bz2.BZ2Compressor(9)
        case "zstd":
            return zstandard.ZstdCompressor(level=3, write_checksum=True).compressobj()
    raise _unknown(compression)


def plain_reader(compression: str, file: BinaryIO) -> PlainReader:
    match compression:
        case "off":
            return file
        case "gzip":
            return gzip.GzipFile(fileobj=file, mode="rb")
        case "bzip2":
            return bz2.BZ2File(file, "rb")
        case "zstd":
            # One frame after the other, as the program reads them.
            return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX).stream_reader(
                file, read_across_frames=True, closefd=False
            )
    raise _unknown(compression)


def _unknown(compression: str) -> UnknownCompressionError:
    return UnknownCompressionError(f"{compression!r} is no compression; known: {', '.join(SUFFIXES)}.")
