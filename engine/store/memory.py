"""ModelStore: a model of a versioned bucket with COMPLIANCE locks, a virtual clock and injected faults.

The reference for how a store should behave, used by tests as sink and source. Every operation has a number; a
fault plan can make operation k fail before it took effect, after it (the reply is lost), or with an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from engine.errors import StoreDeniedError, StoreError, StoreNotFoundError
from engine.hashing import sha256_hex
from engine.store.base import Buffer, ObjectRef


class Fault(StrEnum):
    BEFORE = "before"  # lost on the way: nothing happened
    AFTER = "after"  # it happened, but the reply is lost
    REFUSE = "refuse"  # the store says no, for good


class PreconditionError(StoreError):
    default_code = "exists"


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    key: str
    version_id: str
    data: bytes
    sha256: str
    modified_at: datetime
    retain_until: datetime | None = None
    is_delete_marker: bool = False


class ModelStore:
    """Thread-safe. As sink it puts with If-None-Match and `default_retain_until`; `now` is its clock."""

    def __init__(
        self,
        *,
        now: Callable[[], datetime],
        faults: Mapping[int, Fault] | None = None,
        default_retain_until: Callable[[], datetime] | None = None,
    ) -> None:
        self._now = now
        self.faults = dict(faults or {})
        self._default_retain_until = default_retain_until
        self._lock = threading.RLock()
        self._versions: dict[str, list[ObjectVersion]] = {}
        self._version_count = 0
        self.operation_count = 0
        self.operations: list[tuple[str, str]] = []

    # --- as sink and source -------------------------------------------------------------------------------

    def put(self, *, key: str, data: Buffer, sha256: str) -> ObjectRef:
        retain_until = self._default_retain_until() if self._default_retain_until is not None else None
        try:
            version = self.put_object(key=key, data=data, sha256=sha256, retain_until=retain_until, if_none_match=True)
        except PreconditionError:
            found = self.head(key=key)
            if found.sha256 != sha256:
                raise
            return ObjectRef(key, sha256, len(data), None)
        return ObjectRef(key, sha256, len(data), version.version_id)

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        with self._operation("get", ref.key):
            data = self._find(ref.key, ref.version_id).data
            end = len(data) if length is None else offset + length
            return data[offset:end]

    # --- as a bucket --------------------------------------------------------------------------------------

    def put_object(
        self,
        *,
        key: str,
        data: Buffer,
        sha256: str | None = None,
        retain_until: datetime | None = None,
        if_none_match: bool = False,
    ) -> ObjectVersion:
        stored = bytes(data)
        with self._operation("put", key):
            if sha256 is not None and sha256_hex(stored) != sha256:
                raise StoreError(f"wrong checksum for {key}", code="bad_digest")
            if if_none_match and self._latest(key) is not None:
                raise PreconditionError(f"{key} exists")
            if retain_until is not None and retain_until <= self._now():
                raise StoreError("the lock date is in the past", code="bad_request")
            return self._append(key, stored, retain_until=retain_until)

    def head(self, *, key: str, version_id: str | None = None) -> ObjectVersion:
        with self._operation("head", key):
            return self._find(key, version_id)

    def delete_object(self, *, key: str) -> ObjectVersion:
        """Lay a delete marker: the versions stay, but the key looks empty."""
        with self._operation("delete", key):
            return self._append(key, b"", is_delete_marker=True)

    def delete_version(self, *, key: str, version_id: str) -> None:
        with self._operation("delete-version", key):
            version = self._find(key, version_id, markers=True)
            if version.retain_until is not None and version.retain_until > self._now():
                raise StoreDeniedError(f"{key} is locked")
            self._versions[key].remove(version)

    def put_retention(self, *, key: str, version_id: str, retain_until: datetime) -> None:
        """Extend a lock; shortening it is denied."""
        with self._operation("put-retention", key):
            version = self._find(key, version_id)
            if version.retain_until is not None and retain_until < version.retain_until:
                raise StoreDeniedError(f"the lock of {key} cannot be shortened")
            versions = self._versions[key]
            versions[versions.index(version)] = replace(version, retain_until=retain_until)

    def list_versions(self, *, prefix: str = "") -> list[ObjectVersion]:
        """All versions and markers, by key, oldest first."""
        with self._operation("list", prefix):
            keys = sorted(key for key in self._versions if key.startswith(prefix))
            return [version for key in keys for version in self._versions[key]]

    # --- inside -------------------------------------------------------------------------------------------

    def _operation(self, name: str, key: str) -> _Operation:
        return _Operation(self, name, key)

    def begin(self, name: str, key: str) -> Fault | None:
        self._lock.acquire()
        number = self.operation_count
        self.operation_count += 1
        self.operations.append((name, key))
        return self.faults.get(number)

    def end(self) -> None:
        self._lock.release()

    def _append(
        self, key: str, data: bytes, *, retain_until: datetime | None = None, is_delete_marker: bool = False
    ) -> ObjectVersion:
        self._version_count += 1
        version = ObjectVersion(
            key=key,
            version_id=f"v{self._version_count:08d}",
            data=data,
            sha256=sha256_hex(data),
            modified_at=self._now(),
            retain_until=retain_until,
            is_delete_marker=is_delete_marker,
        )
        self._versions.setdefault(key, []).append(version)
        return version

    def _latest(self, key: str) -> ObjectVersion | None:
        versions = self._versions.get(key)
        return versions[-1] if versions and not versions[-1].is_delete_marker else None

    def _find(self, key: str, version_id: str | None, *, markers: bool = False) -> ObjectVersion:
        found = self._latest(key)
        if version_id is not None:
            matches = [version for version in self._versions.get(key, ()) if version.version_id == version_id]
            found = matches[0] if matches else None
        if found is None or (found.is_delete_marker and not markers):
            raise StoreNotFoundError(f"{key} is not there")
        return found


class _Operation:
    """Runs one operation under the store's lock and lets the fault plan spoil it."""

    def __init__(self, store: ModelStore, name: str, key: str) -> None:
        self._store = store
        self._key = key
        self._name = name
        self._fault: Fault | None = None

    def __enter__(self) -> None:
        self._fault = self._store.begin(self._name, self._key)
        if self._fault in (Fault.BEFORE, Fault.REFUSE):
            self._store.end()
            transient = self._fault is Fault.BEFORE
            raise StoreError(f"injected fault at {self._name} {self._key}", transient=transient)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._store.end()
        if kind is None and self._fault is Fault.AFTER:
            raise StoreError(f"injected fault after {self._name} {self._key}", transient=True)
