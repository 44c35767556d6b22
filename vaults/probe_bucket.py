"""The probe's checks of the bucket: clock, versions, listing, ranges, and rules that delete by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from vaults.drift import LIFECYCLE_MISSING
from vaults.probe_subject import LASTING, RUNS, ProbeFailedError, Subject

GREATEST_SKEW = timedelta(seconds=60)
_LISTED_AT_ONCE = 5
_MOST_PAGES = 50
_CLEANED_AT_ONCE = 500


def check_clock(subject: Subject) -> None:
    """HeadBucket: the Date header says the store's time, by which it counts locks."""
    headers = subject.call("head_bucket")["ResponseMetadata"]["HTTPHeaders"]
    told = _date(headers.get("date", ""))
    if told is None:
        raise ProbeFailedError("HeadBucket", "the store's answer has no date; lock dates cannot be reckoned.")
    subject.skew = told - subject.clock.now().replace(microsecond=0)
    if abs(subject.skew) > GREATEST_SKEW:
        raise ProbeFailedError(
            "HeadBucket",
            f"the store's clock says {told:%Y-%m-%d %H:%M:%S} UTC, {abs(subject.skew).total_seconds():.0f} s from this "
            "server's; set both by NTP.",
        )


def _date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return None


def check_versioning_stays(subject: Subject) -> None:
    """PutBucketVersioning must not suspend a bucket with Object Lock."""
    code = subject.refusal("put_bucket_versioning", VersioningConfiguration={"Status": "Suspended"})
    status = subject.call("get_bucket_versioning").get("Status")
    if code and status == "Enabled":
        return
    subject.refusal("put_bucket_versioning", VersioningConfiguration={"Status": "Enabled"})
    raise ProbeFailedError(
        "PutBucketVersioning", "the store let versioning be suspended; locks protect versions only. It is on again."
    )


def check_listing(subject: Subject) -> None:
    """ListObjectVersions shows all that was just written, over several pages."""
    listed: set[tuple[str, str]] = set()
    place: dict[str, str] = {}
    for _page in range(_MOST_PAGES):
        page = subject.call("list_object_versions", Prefix=subject.folder, MaxKeys=_LISTED_AT_ONCE, **place)
        entries = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        listed |= {(entry["Key"], entry["VersionId"]) for entry in entries}
        if not page.get("IsTruncated"):
            break
        place = {"KeyMarker": page.get("NextKeyMarker", ""), "VersionIdMarker": page.get("NextVersionIdMarker", "")}
    lost = set(subject.written) - listed
    if lost:
        raise ProbeFailedError(
            "ListObjectVersions", f"{len(lost)} of {len(subject.written)} versions just written are not listed."
        )


def check_ranges(subject: Subject) -> None:
    """GetObject with a Range answers exactly these bytes."""
    version_id = subject.put("range", b"0123456789")
    found = subject.read("range", version_id, Range="bytes=3-6")
    if found != b"3456":
        raise ProbeFailedError("GetObject", f"a range of 4 bytes came back as {len(found)} others; restores need it.")


def check_lifecycle(subject: Subject) -> None:
    """GetBucketLifecycleConfiguration: no rule may expire objects or versions."""
    try:
        told = subject.call("get_bucket_lifecycle_configuration")
    except ProbeFailedError as error:
        if error.refusal in LIFECYCLE_MISSING:
            return
        raise
    expiring = [rule.get("ID", "without a name") for rule in told.get("Rules", []) if expires(rule)]
    if expiring:
        raise ProbeFailedError(
            "GetBucketLifecycleConfiguration",
            f"the rule {expiring[0]!r} deletes objects by itself; remove it: only the service knows what is needed.",
        )


def expires(rule: Mapping[str, Any]) -> bool:
    """Whether the lifecycle rule is on and deletes objects or versions by itself."""
    return rule.get("Status") == "Enabled" and bool(rule.get("Expiration") or rule.get("NoncurrentVersionExpiration"))


def remove_leftovers(subject: Subject) -> None:
    """Delete what earlier probes wrote and whose lock is over; the store refuses the rest, and that is right."""
    for prefix in (RUNS, LASTING):
        page = subject.call("list_object_versions", Prefix=prefix, MaxKeys=_CLEANED_AT_ONCE)
        entries = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        found = [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in entries]
        if found:
            subject.call("delete_objects", Delete={"Objects": found, "Quiet": True})
