"""Content-defined chunking: where streams and files are cut, so that an insertion moves only its own neighbourhood.

FastCDC 2020 (package pyfastcdc) with a gear table seeded per domain. The public gear table would let anybody who
sees chunk sizes tell whether a well-known file is there; with a secret seed the boundaries differ from domain to
domain. The seed has 63 bits and follows from the id key; it hinders guessing, it is no encryption (treat it as
recoverable by someone who knows both a long plaintext and all its chunk sizes).

All sizes are bytes. A reader needs none of this: chunks carry their lengths.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pyfastcdc import FastCDC

from engine.codec import BLOCK_SIZE_MAX
from engine.errors import FormatError
from engine.hashing import derive_key

_SEED_SIZE = 8
# Looked at first: input that is one chunk anyway does not need the chunker's window (two largest chunks).
_HEAD_MAX = 4 * 1024 * 1024
_ZEROS = bytes(64 * 1024)


@dataclass(frozen=True, slots=True)
class ChunkSizes:
    """Bounds of one chunk. Real chunks have `minimum` to `maximum` bytes, about minimum + average in the mean.

    Why these: docs/decisions.md has the measurement.
    """

    minimum: int = 32 * 1024
    average: int = 128 * 1024
    maximum: int = 512 * 1024

    def __post_init__(self) -> None:
        # The upper bounds are those of the chunker; below 64 bytes a chunk costs more than it holds.
        if not 64 <= self.minimum <= self.average <= self.maximum <= BLOCK_SIZE_MAX:
            raise FormatError("chunk sizes must ascend from 64 bytes to 16 MiB")
        if self.minimum > 1 << 20 or not 256 <= self.average <= 4 << 20 or self.maximum < 1024:
            raise FormatError("chunk sizes are out of bounds")


class Piece(NamedTuple):
    """Bytes that follow `hole` zero bytes. `data` is empty only when nothing but a hole is left."""

    hole: int
    data: bytes


class Chunker:
    """Cuts bytes of one domain. Not thread-safe."""

    def __init__(self, *, id_key: bytes, sizes: ChunkSizes) -> None:
        # The library shifts the seed left by one: 64 bits would not fit its integers.
        seed = int.from_bytes(derive_key("chunk gear seed", id_key)[:_SEED_SIZE], "big") >> 1
        self.sizes = sizes
        self._cutter = FastCDC(sizes.average, min_size=sizes.minimum, max_size=sizes.maximum, seed=seed)

    def cut(self, read: Callable[[int], bytes]) -> Iterator[bytes]:
        """Chunks of what `read(length_max)` returns until it returns nothing.

        `read` may return less than it was asked for. Memory is bounded by three of the largest chunks.
        """
        head = _read_up_to(read, min(_HEAD_MAX, self.sizes.maximum))
        if len(head) <= self.sizes.minimum:
            if head:
                yield head
            return
        rest = _ReadInto(head, read)
        for chunk in self._cutter.cut_stream(rest):
            yield bytes(chunk.data)

    def pieces(self, chunks: Iterator[bytes]) -> Iterator[Piece]:
        """The same with chunks of zeros turned into holes."""
        hole = 0
        for data in chunks:
            if is_zero(data):
                hole += len(data)
                continue
            yield Piece(hole, data)
            hole = 0
        if hole:
            yield Piece(hole, b"")


class _ReadInto:
    """What the chunker reads from: the bytes looked at already, then the rest."""

    def __init__(self, head: bytes, read: Callable[[int], bytes]) -> None:
        self._head = memoryview(head)
        self._read = read

    def readinto(self, buffer: memoryview) -> int:
        data: bytes | memoryview
        if self._head:
            data = self._head[: len(buffer)]
            self._head = self._head[len(data) :]
        else:
            data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def is_zero(data: bytes) -> bool:
    """Compares piece by piece and stops at the first byte that is not zero."""
    for start in range(0, len(data), len(_ZEROS)):
        length = min(len(_ZEROS), len(data) - start)
        if not data.startswith(_ZEROS[:length] if length < len(_ZEROS) else _ZEROS, start):
            return False
    return True


def data_extents(descriptor: int, *, size_bytes: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of what is allocated in an open file, ascending; the holes between are never read.

    One extent over everything where the file system cannot tell.
    """
    offset = 0
    while offset < size_bytes:
        try:
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # no data behind `offset`
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            start, end = offset, size_bytes
        end = min(end, size_bytes)
        if end <= start:
            return
        yield start, end - start
        offset = end


def _read_up_to(read: Callable[[int], bytes], length: int) -> bytes:
    parts: list[bytes] = []
    while length > 0:
        part = read(length)
        if not part:
            break
        parts.append(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
