"""The probe's checks of locks: what nobody may do to a locked version, and what the service itself must be able to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from vaults.probe_subject import LASTING, LOCK, ProbeFailedError, Subject, version_of
from vaults.storage import Credential

BODY = b"locked bytes of the probe"
LOCKED = "locked"
EXTENSION = timedelta(seconds=60)
SHORT_LOCK = timedelta(seconds=3)
_NOT_SAFE = "the store cannot keep backups safe."


class LockedObject:
    """One object with a lock, looked at again after each attack."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.until = subject.until()
        self.version_id = subject.put(LOCKED, BODY)
        told = self.lock()
        if told[0] != "COMPLIANCE" or told[1] is None or told[1] < self.until:
            raise ProbeFailedError("PutObject", f"the lock of the request was not kept ({told[0]}, {told[1]}).")
        self.until = told[1]

    @property
    def place(self) -> dict[str, str]:
        return {"Key": self._subject.key(LOCKED), "VersionId": self.version_id}

    def lock(self) -> tuple[str | None, datetime | None]:
        """Mode and date by HEAD, as the keeper sees them."""
        head = self._subject.call("head_object", by=Credential.KEEPER, **self.place)
        return head.get("ObjectLockMode"), head.get("ObjectLockRetainUntilDate")

    def check_untouched(self, call: str) -> None:
        """Raises ProbeFailedError when bytes or lock are not as before: a refusal alone proves nothing."""
        if self._subject.read(LOCKED, self.version_id) != BODY:
            raise ProbeFailedError(call, f"it was refused, and yet the locked bytes changed; {_NOT_SAFE}")
        mode, until = self.lock()
        if mode != "COMPLIANCE" or until is None or until < self.until:
            raise ProbeFailedError(call, f"it was refused, and yet the lock is now {mode}, {until}; {_NOT_SAFE}")


def check_lock_kept(subject: Subject) -> LockedObject:
    """PutObject with lock headers, HeadObject."""
    return LockedObject(subject)


def check_delete_refused(subject: Subject, locked: LockedObject) -> None:
    """DeleteObject of a locked version, also with the header that gets past GOVERNANCE."""
    finding = f"the store deleted a locked version; {_NOT_SAFE}"
    subject.must_refuse(finding, "delete_object", **locked.place)
    bypassed = f"the store deleted a locked version for a request with the bypass header; {_NOT_SAFE}"
    subject.must_refuse(bypassed, "delete_object", BypassGovernanceRetention=True, **locked.place)
    locked.check_untouched("DeleteObject")


def check_batch_delete_refused(subject: Subject, locked: LockedObject) -> None:
    """DeleteObjects answers 200 and one error per key: only those count."""
    for bypass in ({}, {"BypassGovernanceRetention": True}):
        answer = subject.call("delete_objects", Delete={"Objects": [locked.place]}, **bypass)
        if not _all_refused(answer):
            raise ProbeFailedError("DeleteObjects", f"the store deleted a locked version; {_NOT_SAFE}")
    locked.check_untouched("DeleteObjects")


def _all_refused(answer: Mapping[str, Any]) -> bool:
    return bool(answer.get("Errors")) and not answer.get("Deleted")


def check_shorten_refused(subject: Subject, locked: LockedObject) -> None:
    """PutObjectRetention with an earlier date, with none, and with one in the past."""
    for finding, until in (
        ("the store made a lock shorter", locked.until - timedelta(seconds=30)),
        ("the store accepted a lock date in the past", subject.until(timedelta(hours=-1))),
    ):
        retention = {"Mode": "COMPLIANCE", "RetainUntilDate": until}
        for bypass in ({}, {"BypassGovernanceRetention": True}):
            subject.must_refuse(
                f"{finding}; {_NOT_SAFE}", "put_object_retention", Retention=retention, **bypass, **locked.place
            )
    subject.must_refuse(
        f"the store took a lock away; {_NOT_SAFE}",
        "put_object_retention",
        Retention={},
        BypassGovernanceRetention=True,
        **locked.place,
    )
    locked.check_untouched("PutObjectRetention")


def check_downgrade_refused(subject: Subject, locked: LockedObject) -> None:
    """PutObjectRetention from COMPLIANCE to GOVERNANCE, which a right can get past."""
    retention = {"Mode": "GOVERNANCE", "RetainUntilDate": locked.until + EXTENSION}
    finding = f"the store weakened a COMPLIANCE lock to GOVERNANCE; {_NOT_SAFE}"
    subject.must_refuse(finding, "put_object_retention", Retention=retention, **locked.place)
    locked.check_untouched("PutObjectRetention")


def check_past_date_refused(subject: Subject) -> None:
    """PutObject with a lock date that is over."""
    subject.must_refuse(
        "the store accepted an object whose lock is over already; it does not check lock dates.",
        "put_object",
        Key=subject.key("past"),
        Body=b"x",
        ObjectLockMode="COMPLIANCE",
        ObjectLockRetainUntilDate=subject.until(timedelta(hours=-1)),
    )


def check_extension(subject: Subject, locked: LockedObject) -> None:
    """PutObjectRetention with a later date, by the keeper, and the date read back."""
    until = subject.until(LOCK + EXTENSION)
    retention = {"Mode": "COMPLIANCE", "RetainUntilDate": until}
    subject.call("put_object_retention", by=Credential.KEEPER, Retention=retention, **locked.place)
    told = subject.call("get_object_retention", by=Credential.KEEPER, **locked.place).get("Retention", {})
    if told.get("Mode") != "COMPLIANCE" or told.get("RetainUntilDate") is None or told["RetainUntilDate"] < until:
        raise ProbeFailedError("PutObjectRetention", "the store did not lengthen a lock; backups could outlive it.")
    locked.until = until


def check_overwrite_keeps(subject: Subject, locked: LockedObject) -> None:
    """PutObject under the same key makes a new version; the old one stays as it was."""
    newer = subject.put(LOCKED, b"another body")
    if newer == locked.version_id:
        raise ProbeFailedError("PutObject", f"the store overwrote a locked version; {_NOT_SAFE}")
    locked.check_untouched("PutObject")


def check_marker_hides_nothing(subject: Subject, locked: LockedObject) -> None:
    """DeleteObject without a version lays a marker; every version stays readable by its id."""
    answer = subject.call("delete_object", Key=locked.place["Key"])
    if not answer.get("DeleteMarker") or not answer.get("VersionId"):
        raise ProbeFailedError("DeleteObject", "deleting without a version made no delete marker.")
    subject.written.append((locked.place["Key"], answer["VersionId"]))
    locked.check_untouched("DeleteObject")


def check_default_retention(subject: Subject) -> None:
    """PutObject without lock headers is locked by the bucket's default. Stays for that long: hence one byte."""
    least = subject.until(timedelta(days=subject.vault.immutable_days, hours=-1))
    key = LASTING + subject.run
    version_id = version_of(subject.call("put_object", Key=key, Body=b"x"))
    head = subject.call("head_object", by=Credential.KEEPER, Key=key, VersionId=version_id)
    mode, until = head.get("ObjectLockMode"), head.get("ObjectLockRetainUntilDate")
    if mode != "COMPLIANCE" or until is None or until < least:
        raise ProbeFailedError(
            "PutObject", f"the bucket's default retention was not applied ({mode}, {until}); set it to COMPLIANCE."
        )


class ShortLock:
    """An object whose lock ends while the other checks run."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.version_id = subject.put("short", b"x", lock=SHORT_LOCK)
        self._begun_seconds = subject.clock.monotonic_seconds()

    def check_delete_after_expiry(self) -> None:
        """DeleteObject works once the lock is over: what nobody needs can be removed."""
        subject = self._subject
        passed = subject.clock.monotonic_seconds() - self._begun_seconds
        # One second for the store's clock: it counts whole ones.
        subject.clock.wait_seconds(max(0.0, SHORT_LOCK.total_seconds() + 1.0 - passed))
        subject.call("delete_object", Key=subject.key("short"), VersionId=self.version_id)
        subject.written.remove((subject.key("short"), self.version_id))
        still = subject.refusal(
            "head_object", by=Credential.KEEPER, Key=subject.key("short"), VersionId=self.version_id
        )
        if not still:
            raise ProbeFailedError("DeleteObject", "a version is still there after it was deleted; space is not freed.")
