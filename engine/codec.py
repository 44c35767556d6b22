"""Field sizes and bounded parsing shared by all object formats; the tables are in docs/format.md.

All integers are big-endian. Every parser goes through ByteReader, so a length in the data is compared with
what is really there before anything is sliced or allocated.
"""

from __future__ import annotations

import re
import struct

from engine.errors import FormatError, UnsupportedError

FORMAT_VERSION = 1
MAGIC = b"\x89BKS\r\n"
OBJECT_HEADER = struct.Struct(">6scB")  # magic, object kind, format version

SHA256_SIZE = 32
KEY_SIZE = 32
CONTENT_ID_SIZE = 32
SESSION_ID_SIZE = 16
NONCE_SIZE = 12
TAG_SIZE = 16
SALT_SIZE = 16

OBJECT_SIZE_MAX = 64 * 1024 * 1024
BLOCK_SIZE_MAX = 16 * 1024 * 1024
FAN_OUT_MAX = 4096

_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)


class ByteReader:
    """Reads fields from the front of a buffer; asking for more than is left is a FormatError."""

    def __init__(self, data: bytes | memoryview, *, what: str) -> None:
        self._view = memoryview(data)
        self._offset = 0
        self._what = what

    @property
    def left(self) -> int:
        return len(self._view) - self._offset

    def take(self, length: int) -> bytes:
        if length > self.left:
            raise FormatError(f"{self._what} is truncated")
        start = self._offset
        self._offset += length
        return bytes(self._view[start : self._offset])

    def unpack(self, layout: struct.Struct) -> tuple[int | bytes, ...]:
        return layout.unpack(self.take(layout.size))

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def text(self) -> str:
        """One length byte and that many bytes of a name."""
        return check_name(self.take(self.number(1)).decode("utf-8", "replace"))

    def expect_end(self) -> None:
        if self.left:
            raise FormatError(f"{self._what} has bytes after its end")


def pack_header(kind: str) -> bytes:
    return OBJECT_HEADER.pack(MAGIC, kind.encode("ascii"), FORMAT_VERSION)


def check_header(data: bytes | memoryview, kind: str) -> None:
    """Raise unless the object starts with our magic, is of this kind and of a version we can read."""
    if len(data) < OBJECT_HEADER.size:
        raise FormatError("object is shorter than its header")
    magic, found_kind, version = OBJECT_HEADER.unpack_from(data)
    if magic != MAGIC or found_kind != kind.encode("ascii"):
        raise FormatError(f"object is not of kind {kind}")
    if version != FORMAT_VERSION:
        raise UnsupportedError(f"format version {version} is not supported")


def check_name(name: str) -> str:
    """Return `name` if it may be part of an object key (no separator, no leading dot), else raise."""
    if not _NAME_PATTERN.fullmatch(name):
        raise FormatError("a name has characters that are not allowed in keys")
    return name


def pack_text(name: str) -> bytes:
    raw = check_name(name).encode("ascii")
    return bytes([len(raw)]) + raw
