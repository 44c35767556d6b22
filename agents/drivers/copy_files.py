"""A copy: a full stream in one file of a storage, with a manifest beside it. Written, read back, listed and removed.

Order of writing: the stream beside its place, synced; then the manifest; then the stream gets its name. So a manifest
without its stream is what is left of an attempt that was cut, and a stream that has its name is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, cast

import msgspec

from agents.drivers.base import DiskFullError, DriverError
from agents.drivers.copy_folder import (
    PARTIAL,
    CopyMissingError,
    failed,
    folder_below,
    naming,
    parts_of,
    read_small,
    remove_file,
    remove_leftovers,
    top_folder,
    write_small,
)
from agents.drivers.copy_streams import STREAM_ERRORS, packer, plain_reader
from engine.scan import Extent
from engine.throttle import Throttle
from engine.waiting import Cancel, check_cancel, never_cancel

FORMAT = "backupsite-copy-1"
DISK = "disk"
MANIFEST = ".json"
STEP_BYTES = 1024 * 1024
_MANIFEST_MAX = 64 * 1024
_LONGEST_PLACE = 400
_ZEROS = bytes(STEP_BYTES)


class CopyDamagedError(DriverError):
    """The file is not what was written."""

    code = "copy_damaged"


@dataclass(frozen=True, slots=True)
class CopyPlace:
    """`place` is relative to the storage: `backups/<tenant>/<server>/<file>`."""

    storage_path: str
    storage_id: str
    place: str


@dataclass(frozen=True, slots=True)
class CopySpec:
    """What is to be written. `content` is DISK or the name of a stream whose size is not known before.

    `facts` go into the manifest as they are. With `is_first` an unmarked storage becomes ours.
    """

    compression: str
    content: str
    size_bytes: int
    facts: dict[str, str] = field(default_factory=dict)
    bandwidth_bytes_per_second: int = 0
    is_first: bool = False


class CopyManifest(msgspec.Struct, frozen=True):
    """What lies next to a copy, for people and for a catalogue that lost it. SHA-256 and bytes are the file's own."""

    format: str
    content: str
    compression: str
    size_bytes: int
    file_bytes: int
    sha256: str
    facts: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class FoundCopy:
    """A copy on a storage. None: the file, or a manifest of ours, is not there."""

    place: str
    file_bytes: int | None
    manifest: CopyManifest | None


Chunk = bytes | int
# Bytes of the stream that were taken, and bytes of the file that came of them.
Tell = Callable[[int, int], None]


def _tell_nobody(taken_bytes: int, file_bytes: int) -> None: ...


def write_copy(
    at: CopyPlace,
    spec: CopySpec,
    chunks: Iterable[Chunk],
    *,
    needed_bytes: int = 0,
    check: Callable[[], None] = lambda: None,
    tell: Tell = _tell_nobody,
    cancel: Cancel = never_cancel,
) -> CopyManifest:
    """Write the chunks (bytes, or how many zeros) and give the manifest once all of it is on the medium.

    `check` runs after the last chunk and before anything has its name: it raises when what was read does not count.
    Raises DiskFullError, before writing when `needed_bytes` are not free. On every error nothing is left.
    """
    parts, name = parts_of(at.place)
    with (
        top_folder(at.storage_path, storage_id=at.storage_id, is_new=spec.is_first) as top,
        folder_below(top, parts, create=True) as folder,
    ):
        remove_leftovers(top, folder)
        _refuse_full(folder, needed_bytes)
        try:
            with _partial(top, folder, name) as file:
                manifest = _fill(file, spec, chunks, tell=tell, cancel=cancel)
                check()
                with naming(top):
                    write_small(folder, name + MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
                check_cancel(cancel)
                os.rename(name + PARTIAL, name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
        except OSError as error:
            _undo(folder, name)
            raise failed(error, name) from error
        except BaseException:
            _undo(folder, name)
            raise
        return manifest


def disk_chunks(size_bytes: int, extents: Iterable[Extent], read: Callable[[int, int], bytes]) -> Iterator[Chunk]:
    """The disk from its first byte to its last; what lies outside of the extents is zeros."""
    position = 0
    for extent in extents:
        offset, length = extent.offset, extent.length
        if offset > position:
            yield offset - position
        for start in range(offset, offset + length, STEP_BYTES):
            yield read(start, min(STEP_BYTES, offset + length - start))
        position = offset + length
    if position < size_bytes:
        yield size_bytes - position


def check_copy(
    at: CopyPlace, *, sha256: str, file_bytes: int, tell: Tell = _tell_nobody, cancel: Cancel = never_cancel
) -> None:
    """Read all of the file again. Raises CopyMissingError, CopyDamagedError."""
    with _opened(at, file_bytes=file_bytes) as file:
        reader = _HashingReader(file, tell=tell, cancel=cancel)
        while reader.read(STEP_BYTES):
            pass
        reader.compare(sha256, at.place)


@contextmanager
def read_copy(
    at: CopyPlace, *, compression: str, sha256: str, file_bytes: int, cancel: Cancel = never_cancel
) -> Iterator[Iterator[bytes]]:
    """The stream in steps, unpacked; the last step has been given only when the whole file was what it should be."""
    with _opened(at, file_bytes=file_bytes) as file:
        reader = _HashingReader(file, tell=_tell_nobody, cancel=cancel)

        def steps() -> Iterator[bytes]:
            plain = plain_reader(compression, cast(BinaryIO, io.BufferedReader(reader, STEP_BYTES)))
            try:
                while step := plain.read(STEP_BYTES):
                    yield step
            except STREAM_ERRORS as error:
                raise CopyDamagedError(f"{at.place} cannot be unpacked: {error}.") from error
            while reader.read(STEP_BYTES):
                pass
            reader.compare(sha256, at.place)

        yield steps()


def remove_copy(at: CopyPlace) -> bool:
    """Remove the file, its manifest, and the folders that are empty then. Whether the file was there. May run twice."""
    parts, name = parts_of(at.place)
    with top_folder(at.storage_path, storage_id=at.storage_id) as top:
        try:
            with folder_below(top, parts) as folder:
                was_there = remove_file(folder, name)
                remove_file(folder, name + MANIFEST)
                os.fsync(folder)
        except CopyMissingError:
            return False
        _remove_empty(top, parts)
    return was_there


def list_copies(storage_path: str, *, storage_id: str) -> list[FoundCopy]:
    """All copies of the storage; on the way, what programs that are gone left half written is removed."""
    found: list[FoundCopy] = []
    with top_folder(storage_path, storage_id=storage_id) as top:
        for tenant in _folders(top):
            with folder_below(top, [tenant]) as above:
                for server in _folders(above):
                    with folder_below(above, [server]) as folder:
                        remove_leftovers(top, folder)
                        found += _copies_in(folder, f"backups/{tenant}/{server}")
    return found


def _copies_in(folder: int, path: str) -> Iterator[FoundCopy]:
    names = set(os.listdir(folder))
    files = {name for name in names if not name.endswith((MANIFEST, PARTIAL))}
    # A manifest whose file does not follow any more is told of, too.
    all_names = files | {name.removesuffix(MANIFEST) for name in names if name.endswith(MANIFEST)}
    for name in sorted(name for name in all_names if _is_plain(name) and len(path) + len(name) < _LONGEST_PLACE):
        manifest = _parse(read_small(folder, name + MANIFEST, _MANIFEST_MAX))
        yield FoundCopy(f"{path}/{name}", _file_bytes(folder, name), manifest)


def _is_plain(name: str) -> bool:
    """Ours are; what others put there may be called anything, also what no database takes."""
    return name.isascii() and name.isprintable()


# Made here: msgspec crashes when two threads read the first one of a type at once.
_MANIFESTS = msgspec.json.Decoder(CopyManifest)


def _parse(data: bytes) -> CopyManifest | None:
    try:
        manifest = _MANIFESTS.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    sane = manifest.format == FORMAT and min(manifest.size_bytes, manifest.file_bytes) >= 0 and b"\\u0000" not in data
    return manifest if sane else None


def _file_bytes(folder: int, name: str) -> int | None:
    try:
        told = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    return told.st_size if stat.S_ISREG(told.st_mode) else None


def _folders(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def _remove_empty(top: int, parts: list[str]) -> None:
    for depth in range(len(parts), 0, -1):
        try:
            with folder_below(top, parts[: depth - 1]) as above:
                os.rmdir(parts[depth - 1], dir_fd=above)
        except OSError:
            # Others lie there.
            return


def _refuse_full(folder: int, needed_bytes: int) -> None:
    told = os.fstatvfs(folder)
    free_bytes = told.f_bavail * told.f_frsize
    if needed_bytes > free_bytes:
        raise DiskFullError(
            f"The storage has {free_bytes} bytes free; the backup may need {needed_bytes}. "
            "Free some, or remove backups."
        )


@contextmanager
def _partial(top: int, folder: int, name: str) -> Iterator[BinaryIO]:
    """Locked for as long as it is written: so a leftover is known from one that is being written."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with naming(top):
        descriptor = os.open(name + PARTIAL, flags, 0o600, dir_fd=folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(descriptor, "r+b", buffering=0) as file:
        yield cast(BinaryIO, file)


def _fill(file: BinaryIO, spec: CopySpec, chunks: Iterable[Chunk], *, tell: Tell, cancel: Cancel) -> CopyManifest:
    pack, out, taken_bytes = packer(spec.compression), _Out(file, spec, cancel), 0
    for chunk in chunks:
        for step in _steps(chunk):
            check_cancel(cancel)
            if pack is not None:
                out.write(pack.compress(step))
            elif isinstance(chunk, int):
                out.skip(step)
            else:
                out.write(step)
            taken_bytes += len(step)
            tell(taken_bytes, out.length)
    if pack is not None:
        out.write(pack.flush())
    file.truncate(out.length)
    os.fsync(file.fileno())
    if spec.content == DISK and taken_bytes != spec.size_bytes:
        raise CopyDamagedError(f"{taken_bytes} bytes came from a disk of {spec.size_bytes}.")
    return CopyManifest(
        format=FORMAT,
        content=spec.content,
        compression=spec.compression,
        size_bytes=taken_bytes,
        file_bytes=out.length,
        sha256=out.hash.hexdigest(),
        facts=spec.facts,
    )


def _steps(chunk: Chunk) -> Iterator[bytes]:
    if isinstance(chunk, bytes):
        yield chunk
        return
    for start in range(0, chunk, STEP_BYTES):
        yield _ZEROS if chunk - start >= STEP_BYTES else _ZEROS[: chunk - start]


class _Out:
    """The file while it is written, at most so fast."""

    def __init__(self, file: BinaryIO, spec: CopySpec, cancel: Cancel) -> None:
        self.length = 0
        self.hash = hashlib.sha256()
        self._file = file
        limit = spec.bandwidth_bytes_per_second
        self._throttle = (
            Throttle(bytes_per_second=limit, clock=time.monotonic, sleep=time.sleep, cancel=cancel) if limit else None
        )

    def write(self, data: bytes) -> None:
        self.hash.update(data)
        view = memoryview(data)
        while view:
            if self._throttle is not None:
                self._throttle.take(min(len(view), STEP_BYTES))
            written = os.pwrite(self._file.fileno(), view[:STEP_BYTES], self.length)
            self.length += written
            view = view[written:]

    def skip(self, zeros: bytes) -> None:
        """A hole."""
        self.hash.update(zeros)
        self.length += len(zeros)


def _undo(folder: int, name: str) -> None:
    for left in (name, name + PARTIAL, name + MANIFEST):
        try:
            remove_file(folder, left)
        except DriverError:
            # What cannot be removed now is a leftover for the sweep.
            continue


@contextmanager
def _opened(at: CopyPlace, *, file_bytes: int) -> Iterator[BinaryIO]:
    parts, name = parts_of(at.place)
    with top_folder(at.storage_path, storage_id=at.storage_id) as top, folder_below(top, parts) as folder:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
        except FileNotFoundError as error:
            raise CopyMissingError(f"{at.place} is not on the storage any more.") from error
        except OSError as error:
            raise failed(error, name) from error
    with open(descriptor, "rb", buffering=0) as file:
        found_bytes = os.fstat(descriptor).st_size
        if found_bytes != file_bytes:
            raise CopyDamagedError(f"{at.place} has {found_bytes} bytes; it was written with {file_bytes}.")
        yield cast(BinaryIO, file)


class _HashingReader(io.RawIOBase):
    """Hashes what passes."""

    def __init__(self, file: BinaryIO, *, tell: Tell, cancel: Cancel) -> None:
        self._file = file
        self._tell = tell
        self._cancel = cancel
        self._hash = hashlib.sha256()
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        check_cancel(self._cancel)
        view = memoryview(cast(bytearray, buffer))
        try:
            count = self._file.readinto(view)  # type: ignore[attr-defined]  # an unbuffered file has it
        except OSError as error:
            raise failed(error, "The copy") from error
        self._hash.update(view[:count])
        self._count += count
        self._tell(self._count, self._count)
        return int(count)

    def compare(self, sha256: str, place: str) -> None:
        if self._hash.hexdigest() != sha256:
            raise CopyDamagedError(f"{place} is not what was written: its SHA-256 is {self._hash.hexdigest()}.")
