"""Entries of a file tree: what they say, how they are encoded, and which names are acceptable.

A key is the path below the root as bytes, its components joined by NUL. No name can contain NUL, and it is the lowest
byte, so the bytewise order of keys is the order of a walk that visits each directory, then its children by name, then
what follows the directory. The root itself has the empty key. Names are bytes throughout; they need not be UTF-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, IntFlag

import msgspec

from engine.codec import ByteReader
from engine.errors import FormatError
from engine.stream_pages import KEY_SIZE_MAX, SIZE_MAX, Branch, ChunkRow, NameTables, RawPage

NAME_SIZE_MAX = 1024
# Chunks listed in the entry itself; a file with more has a map of its own.
INLINE_CHUNKS_MAX = 128
# Names and values of an entry's extended attributes together; beyond that they are left out and reported.
XATTR_BYTES_MAX = 256 * 1024
_ROW_SIZE_MAX = 1024 * 1024


class FileKind(IntEnum):
    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5
    CHARACTER_DEVICE = 6
    BLOCK_DEVICE = 7
    HARD_LINK = 8  # another name of the file whose key is in `target`


class Marks(IntFlag):
    CHANGED = 1  # differed before and after it was read: content of no single moment
    UNREADABLE = 2  # could not be read, or not to its end: only what comes before is there
    METADATA_LOST = 4  # extended attributes could not be read, or were too large
    LINKED = 8  # has more names than this one
    FRESH = 16  # changed so short before it was read that its times cannot tell later changes
    NOT_ENTERED = 32  # directory whose content is not all in the backup: unreadable, or of another file system


class TreeEntry(msgspec.Struct, kw_only=True, frozen=True):
    """One name. Times in nanoseconds since 1970; `size` in bytes, holes included."""

    key: bytes
    kind: FileKind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    user: bytes = b""
    group: bytes = b""
    mtime_ns: int = 0
    # By these three an unchanged file is recognised; they mean nothing elsewhere.
    ctime_ns: int = 0
    inode: int = 0
    device: int = 0
    size: int = 0
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    marks: int = 0
    chunks: tuple[ChunkRow, ...] = ()
    chunk_map: Branch | None = None

    @property
    def path(self) -> bytes:
        return path_of(self.key)

    @property
    def identity(self) -> bytes:
        return self.key

    @property
    def anchor(self) -> bytes:
        return self.key

    @property
    def total_bytes(self) -> int:
        return self.size if self.kind == FileKind.FILE else 0

    @property
    def leaf_count(self) -> int:
        return 1

    @property
    def weight(self) -> int:
        """About the bytes it takes in a page."""
        xattr_bytes = sum(len(name) + len(value) for name, value in self.xattrs)
        return 60 + len(self.key) + len(self.target) + xattr_bytes + 90 * len(self.chunks)

    def marked(self, mark: Marks) -> TreeEntry:
        return msgspec.structs.replace(self, marks=self.marks | int(mark))

    def with_content(self, *, chunks: Sequence[ChunkRow], chunk_map: Branch | None, size: int, marks: int) -> TreeEntry:
        return msgspec.structs.replace(self, chunks=tuple(chunks), chunk_map=chunk_map, size=size, marks=marks)

    def encode(self, names: NameTables, before: bytes) -> bytes:
        shared = _shared_length(before, self.key)
        chunk_map = None
        if self.chunk_map is not None:
            branch = self.chunk_map
            chunk_map = (branch.total_bytes, branch.leaf_count, *names.numbers(branch.ref), *branch.ref[3:])
        row = _encoder.encode(
            (
                shared,
                self.key[shared:],
                int(self.kind),
                self.mode,
                self.uid,
                self.gid,
                self.user,
                self.group,
                self.mtime_ns,
                self.ctime_ns,
                self.inode,
                self.device,
                self.size,
                self.target,
                self.rdev,
                self.xattrs,
                self.marks,
                [(chunk.hole, *names.numbers(chunk.entry), *chunk.entry[3:]) for chunk in self.chunks],
                chunk_map,
            )
        )
        return len(row).to_bytes(4, "big") + row


_ChunkTuple = tuple[int, int, int, int, int, int, int, bytes, bytes]
_MapTuple = tuple[int, int, int, int, int, int, int, int, bytes, bytes]


class _Row(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    shared: int
    suffix: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    user: bytes
    group: bytes
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    size: int
    target: bytes
    rdev: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]
    marks: int
    chunks: list[_ChunkTuple]
    chunk_map: _MapTuple | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Row)


def key_of(path: bytes) -> bytes:
    """The key of a path with slashes, relative to the root; FormatError when it could lead elsewhere."""
    stripped = path.strip(b"/")
    key = stripped.replace(b"/", b"\0")
    if b"\0" in path:
        raise FormatError("a path contains NUL", code="bad_path")
    check_key(key)
    return key


def path_of(key: bytes) -> bytes:
    return key.replace(b"\0", b"/")


def check_key(key: bytes) -> None:
    """Refuse what no walk produces, above all names that lead out of a directory."""
    if len(key) > KEY_SIZE_MAX:
        raise FormatError("a path is too long", code="bad_path")
    if not key:
        return
    for name in key.split(b"\0"):
        if name in (b"", b".", b"..") or b"/" in name or len(name) > NAME_SIZE_MAX:
            raise FormatError("a name is not acceptable", code="bad_path")


def parse_file_rows(page: RawPage) -> list[TreeEntry]:
    """Entries of a leaf, in ascending order of their keys."""
    reader = ByteReader(page.rows, what="page of files")
    entries: list[TreeEntry] = []
    before = b""
    for _ in range(page.row_count):
        size = reader.number(4)
        if size > _ROW_SIZE_MAX:
            raise FormatError("an entry is too large")
        entry = _parse_row(reader.take(size), before, page)
        if entries and entry.key <= before:
            raise FormatError("the entries of a page are not in order")
        entries.append(entry)
        before = entry.key
    reader.expect_end()
    return entries


def _parse_row(data: bytes, before: bytes, page: RawPage) -> TreeEntry:
    try:
        row = _decoder.decode(data)
        kind = FileKind(row.kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError("an entry cannot be decoded") from error
    if not 0 <= row.shared <= len(before):
        raise FormatError("an entry shares more than there is with the one before it")
    key = before[: row.shared] + row.suffix
    check_key(key)
    _check_numbers(row)
    chunks = tuple(ChunkRow(chunk[0], page.entry(chunk[1:])) for chunk in row.chunks)
    chunk_map = _parse_map(row.chunk_map, page)
    _check_content(row, kind, chunks, chunk_map)
    return TreeEntry(
        key=key,
        kind=kind,
        mode=row.mode,
        uid=row.uid,
        gid=row.gid,
        user=row.user,
        group=row.group,
        mtime_ns=row.mtime_ns,
        ctime_ns=row.ctime_ns,
        inode=row.inode,
        device=row.device,
        size=row.size,
        target=row.target,
        rdev=row.rdev,
        xattrs=row.xattrs,
        marks=row.marks,
        chunks=chunks,
        chunk_map=chunk_map,
    )


def _check_numbers(row: _Row) -> None:
    if not (0 <= row.mode <= 0o7777 and 0 <= row.uid < 1 << 32 and 0 <= row.gid < 1 << 32):
        raise FormatError("mode or owner of an entry is out of bounds")
    if not (0 <= row.size < SIZE_MAX and 0 <= row.marks < 1 << 16):
        raise FormatError("the size of an entry is out of bounds")
    if not all(0 <= number < 1 << 32 for number in row.rdev):
        raise FormatError("the device number of an entry is out of bounds")


def _check_content(row: _Row, kind: FileKind, chunks: Sequence[ChunkRow], chunk_map: Branch | None) -> None:
    if (chunks or chunk_map is not None) and kind != FileKind.FILE:
        raise FormatError("only files have content")
    if len(chunks) > INLINE_CHUNKS_MAX or (chunks and chunk_map is not None):
        raise FormatError("an entry lists too many chunks")
    if any(not 0 <= chunk.hole < SIZE_MAX for chunk in chunks):
        raise FormatError("a hole is out of bounds")
    held = sum(chunk.total_bytes for chunk in chunks) + (chunk_map.total_bytes if chunk_map is not None else 0)
    if held > row.size:
        raise FormatError("an entry holds more than its size")
    if (kind in (FileKind.SYMLINK, FileKind.HARD_LINK)) != bool(row.target) or b"\0" in row.target * (
        kind == FileKind.SYMLINK
    ):
        raise FormatError("the target of an entry is not acceptable")
    if kind == FileKind.HARD_LINK:
        check_key(row.target)


def _parse_map(row: _MapTuple | None, page: RawPage) -> Branch | None:
    if row is None:
        return None
    total_bytes, leaf_count = row[:2]
    if not 0 < total_bytes < SIZE_MAX or not 0 < leaf_count < SIZE_MAX:
        raise FormatError("the map of a file is out of bounds")
    return Branch(page.entry(row[2:]), total_bytes, leaf_count)


def _shared_length(left: bytes, right: bytes) -> int:
    limit = min(len(left), len(right))
    if left[:limit] == right[:limit]:
        return limit
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        if left[:middle] == right[:middle]:
            low = middle
        else:
            high = middle
    return low
