"""The seam to the vault: object names, references, and the two Protocols that writer and restore use."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias, runtime_checkable

from engine.codec import check_name
from engine.errors import FormatError, IntegrityError
from engine.hashing import sha256_hex

Buffer: TypeAlias = bytes | bytearray | memoryview

_SHA256_PATTERN = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SEQUENCE_DIGITS = 20


class ObjectKind(StrEnum):
    PACK = "p"
    INDEX = "i"
    MANIFEST = "m"
    KEY = "k"
    CONFIG = "c"
    RELOCATION = "r"


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """One stored object. `version_id` is None when the store did not tell (the object was there before)."""

    key: str
    sha256: str
    size_bytes: int
    version_id: str | None = None


class ObjectSink(Protocol):
    """Thread-safe."""

    def put(self, *, key: str, data: Buffer, sha256: str) -> ObjectRef:
        """Block until stored. An object that is there already with the same hash is success."""
        ...


# Called with the number of bytes that go out next; may wait, and may raise to stop the sending.
Pace: TypeAlias = Callable[[int], None]


@runtime_checkable
class PacedSink(ObjectSink, Protocol):
    """A sink that asks before each piece it sends, so that a limit holds while an object is on its way."""

    def put_paced(self, *, key: str, data: Buffer, sha256: str, pace: Pace) -> ObjectRef:
        """As `put`; `pace` is asked again for what has to be sent again, and its errors pass through."""
        ...


class ObjectSource(Protocol):
    """Thread-safe."""

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        """Exactly the bytes asked for (`length` None: to the end). StoreNotFoundError if it is not there."""
        ...


def object_key(*, tenant: str, domain: str, kind: ObjectKind, sha256: str) -> str:
    """The key of a pack, index segment, envelope, configuration or relocation object."""
    return f"{_domain_prefix(tenant, domain)}/{kind.value}/{_check_sha256(sha256)}"


def manifest_key(*, tenant: str, domain: str, source_id: str, sequence: int, sha256: str) -> str:
    if not 0 <= sequence < 1 << 63:
        raise FormatError("the sequence number is out of bounds")
    name = f"{sequence:0{_SEQUENCE_DIGITS}d}-{_check_sha256(sha256)}"
    return f"{_domain_prefix(tenant, domain)}/{ObjectKind.MANIFEST.value}/{check_name(source_id)}/{name}"


def fetch_whole(source: ObjectSource, ref: ObjectRef, *, size_max: int) -> bytes:
    """The whole object, checked against the hash in its reference."""
    if not 0 < ref.size_bytes <= size_max:
        raise FormatError("the object's size is out of bounds")
    data = source.get(ref)
    if len(data) != ref.size_bytes or sha256_hex(data) != ref.sha256:
        raise IntegrityError("the object's bytes do not match its name")
    return data


def _domain_prefix(tenant: str, domain: str) -> str:
    return f"t/{check_name(tenant)}/d/{check_name(domain)}"


def _check_sha256(sha256: str) -> str:
    if not _SHA256_PATTERN.fullmatch(sha256):
        raise FormatError("not a SHA-256 in lower-case hexadecimal")
    return sha256
