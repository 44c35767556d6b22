"""What the tool needs from a bucket, and how it finds an object whatever was laid over it.

Objects are locked, so nobody can remove or alter one; but anybody with the right to write can lay a delete marker or a
newer version over it. So the tool never asks for "the latest": it reads the version that is noted, and else the oldest
one whose bytes have the hash that the name promises.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from engine.errors import IntegrityError, StoreError, StoreNotFoundError
from engine.hashing import sha256_hex
from engine.store.base import ObjectRef

# Whoever lays a million versions over one key must not fill our memory; the oldest ones are kept.
VERSIONS_KEPT = 64
_RESOLVED_KEPT = 100_000


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of a key that is no delete marker."""

    key: str
    version_id: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StoredBytes:
    data: bytes
    retain_until: datetime | None


class Bucket(Protocol):
    """Read-only. Thread-safe. Every trouble is a StoreError; StoreNotFoundError when the version is not there."""

    def folders(self, prefix: str) -> list[str]:
        """The next path components below `prefix` (which ends with a slash), hidden ones included."""
        ...

    def versions(self, prefix: str) -> Iterator[list[StoredVersion]]:
        """Per key, in ascending order of keys: its versions, oldest first, at most VERSIONS_KEPT of them."""
        ...

    def read(self, version: StoredVersion, *, offset: int, length: int) -> StoredBytes:
        """Exactly `length` bytes."""
        ...

    def size_of(self, *, key: str, version_id: str) -> int: ...


def read_fitting(bucket: Bucket, versions: list[StoredVersion], *, sha256: str, size_max: int) -> FittingObject | None:
    """The oldest version whose bytes have this hash; None when there is none. Wrong ones cost one read each."""
    for version in versions:
        if not 0 < version.size_bytes <= size_max:
            continue
        stored = bucket.read(version, offset=0, length=version.size_bytes)
        if sha256_hex(stored.data) == sha256:
            ref = ObjectRef(version.key, sha256, version.size_bytes, version.version_id)
            return FittingObject(ref, stored.data, stored.retain_until)
    return None


@dataclass(frozen=True, slots=True)
class FittingObject:
    ref: ObjectRef
    data: bytes
    retain_until: datetime | None


class BucketSource:
    """ObjectSource over a bucket. Thread-safe.

    A noted version that is not there (a bucket that was copied elsewhere has other version ids) or that was never noted
    is looked up by name, size and, when several have that size, hash.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._resolved: dict[str, str] = {}
        self._lock = threading.Lock()

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        wanted = ref.size_bytes - offset if length is None else length
        if offset < 0 or wanted <= 0 or offset + wanted > ref.size_bytes:
            raise StoreError(f"a range outside of {ref.key} was asked for", code="bad_range")
        version_id = self._resolved.get(ref.key, ref.version_id)
        if version_id is not None:
            try:
                return self._read(ref, version_id, offset=offset, length=wanted)
            except StoreNotFoundError:
                pass
        return self._read(ref, self._resolve(ref), offset=offset, length=wanted)

    def locate(self, ref: ObjectRef) -> ObjectRef:
        """The same object with the id of a version that is there. StoreNotFoundError, IntegrityError."""
        if ref.version_id is not None:
            try:
                if self._bucket.size_of(key=ref.key, version_id=ref.version_id) == ref.size_bytes:
                    return ref
            except StoreNotFoundError:
                pass
        return replace(ref, version_id=self._resolve(ref))

    def _read(self, ref: ObjectRef, version_id: str, *, offset: int, length: int) -> bytes:
        version = StoredVersion(ref.key, version_id, ref.size_bytes)
        return self._bucket.read(version, offset=offset, length=length).data

    def _resolve(self, ref: ObjectRef) -> str:
        versions = [version for group in self._bucket.versions(ref.key) for version in group if version.key == ref.key]
        fitting = [version for version in versions if version.size_bytes == ref.size_bytes]
        if not versions:
            raise StoreNotFoundError(f"{ref.key} is not in the bucket")
        if len(fitting) > 1:
            found = read_fitting(self._bucket, fitting, sha256=ref.sha256, size_max=ref.size_bytes)
            fitting = [version for version in fitting if found and version.version_id == found.ref.version_id]
        if not fitting:
            raise IntegrityError(f"no version of {ref.key} has the bytes that its name promises")
        with self._lock:
            if len(self._resolved) < _RESOLVED_KEPT:
                self._resolved[ref.key] = fitting[0].version_id
        return fitting[0].version_id
