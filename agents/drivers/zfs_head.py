"""The first record of a ZFS stream: what it is, seen before a receiver is given a byte of it.

A stream that `zfs send` makes of one snapshot is plain: it brings content alone. One with properties, or with more than
one dataset, is a package around such streams; ours never are, so a package is refused, whoever made it.

    offset  bytes  field of `dmu_replay_record` (in the sender's byte order)
    8       8      magic 0x2F5bacbac
    16      8      version; its lowest two bits: 1 plain, 2 package
    32      4      kind of what was sent: 2 file system, 3 volume
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from agents.drivers.base import DriverError

HEAD_BYTES = 312
MAGIC = 0x2F5BACBAC
PLAIN, PACKAGE = 1, 2
FILESYSTEM, VOLUME = 2, 3
_FIELDS = "QQQI"
_FIELDS_AT = 8


class StreamRefusedError(DriverError):
    """The stream brings more than the content of one snapshot, or is none of ZFS. Nothing of it was received."""

    code = "stream_refused"


@dataclass(frozen=True, slots=True)
class Head:
    is_volume: bool


def split_head(steps: Iterator[bytes]) -> tuple[Head | None, bytes]:
    """What the stream is, and the bytes that were taken from `steps` to see it; None for one that ends before.

    Raises StreamRefusedError.
    """
    taken = b""
    while len(taken) < HEAD_BYTES:
        step = next(steps, b"")
        if not step:
            return None, taken
        taken += step
    return _parse(taken), taken


def _parse(data: bytes) -> Head:
    for order in "<>":
        magic, version, _, kind = struct.unpack_from(order + _FIELDS, data, _FIELDS_AT)
        if magic == MAGIC:
            break
    else:
        raise StreamRefusedError("This is no stream of ZFS. Nothing was received.")
    if version & 3 != PLAIN or kind not in {FILESYSTEM, VOLUME}:
        raise StreamRefusedError(
            "The stream brings properties or several datasets, not the content of one snapshot: it could mount, share "
            "or run things where it is received. Nothing was received."
        )
    return Head(is_volume=kind == VOLUME)
