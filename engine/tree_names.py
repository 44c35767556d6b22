"""The names in a directory in their order, however many there are: memory does not grow beyond a bound.

Anybody may fill a directory of theirs with millions of names. Those of a usual directory are sorted in memory; of a
larger one sorted runs go to a temporary file without a name, and are merged as they are asked for.
"""

from __future__ import annotations

import heapq
import os
import struct
import tempfile
from collections.abc import Iterator
from typing import IO

from engine.errors import SourceError

# Some 15 MB of memory.
_RUN_NAMES = 100_000
_READ_BYTES = 16 * 1024
_LENGTH = struct.Struct("<H")


def names_in_order(directory: int) -> Iterator[bytes]:
    """All names but `.` and `..`, ascending. Raises OSError when they cannot be listed, SourceError when they cannot be
    kept: that is no fault of the directory, which would only be missing from the backup then.
    """
    runs: list[tuple[int, int]] = []
    names: list[bytes] = []
    file: IO[bytes] | None = None
    with os.scandir(directory) as found:
        for entry in found:
            names.append(os.fsencode(entry.name))
            if len(names) == _RUN_NAMES:
                file = file or _temporary()
                runs.append(_put(file, names))
                names = []
    names.sort()
    return iter(names) if file is None else _merged(file, runs, names)


def _temporary() -> IO[bytes]:
    """Closed with the iterator that reads it."""
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        raise _not_kept(error) from error


def _put(file: IO[bytes], names: list[bytes]) -> tuple[int, int]:
    """Where the run begins and ends."""
    names.sort()
    data = memoryview(b"".join(_LENGTH.pack(len(name)) + name for name in names))
    try:
        begin = os.lseek(file.fileno(), 0, os.SEEK_END)
        end = begin + len(data)
        while data:
            data = data[os.write(file.fileno(), data) :]
    except OSError as error:
        raise _not_kept(error) from error
    return begin, end


def _not_kept(error: OSError) -> SourceError:
    # Without a folder for such files at all `gettempdir` would fail once more.
    folder = tempfile.tempdir or "the folder of temporary files"
    message = f"a directory has so many names that they are sorted on disk, in {folder}: {error.strerror}"
    return SourceError(message, code="no_room_for_names", transient=True)


def _merged(file: IO[bytes], runs: list[tuple[int, int]], rest: list[bytes]) -> Iterator[bytes]:
    with file:
        yield from heapq.merge(rest, *(_run(file.fileno(), *run) for run in runs))


def _run(descriptor: int, begin: int, end: int) -> Iterator[bytes]:
    held = b""
    while begin < end:
        more = os.pread(descriptor, min(_READ_BYTES, end - begin), begin)
        begin += len(more)
        held += more
        at = 0
        while at + _LENGTH.size <= len(held):
            length = _LENGTH.unpack_from(held, at)[0]
            if at + _LENGTH.size + length > len(held):
                break
            at += _LENGTH.size + length
            yield held[at - length : at]
        held = held[at:]
