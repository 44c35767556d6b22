"""The probe of a vault: does its store keep what is promised? Made when a vault is prepared, and every night.

It stops at the first call that the store does not answer as it must. Its own objects lie below `probe/`, locked for
seconds; the next probe removes them (one byte a night stays as long as the bucket's default retention).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from vaults import probe_bucket, probe_locks, probe_rights, probe_uploads
from vaults.models import Vault
from vaults.probe_subject import Clock, ProbeFailedError, ProbeUnansweredError, Subject, real_clock

Result = TypeVar("Result")


@dataclass(slots=True)
class ProbeReport:
    """What was found: one line per check, and what the store can do beyond the necessary."""

    checks: list[dict[str, str]] = field(default_factory=list)
    capabilities: dict[str, bool] = field(default_factory=dict)

    def run(self, name: str, check: Callable[[], Result]) -> Result:
        """Make one check and note how it went."""
        try:
            result = check()
        except (ProbeFailedError, ProbeUnansweredError) as error:
            self.checks.append({"check": name, "result": "failed", "note": error.message})
            raise
        self.checks.append({"check": name, "result": "ok", "note": ""})
        return result

    def find(self, capability: str, check: Callable[[], bool]) -> None:
        """Note something that a store may lack."""
        self.capabilities[capability] = self.run(capability.replace("_", " "), check)


def probe_vault(vault: Vault, report: ProbeReport, *, clock: Clock | None = None) -> None:
    """Try every call; fills the report as far as it comes. Takes some five seconds, 25 and one call's patience at most.

    Raises ProbeFailedError naming the call that the store did not answer as it must, ProbeUnansweredError when it did
    not answer at all: then nothing was learned, and the probe is to be made again.
    """
    subject = Subject(vault, clock or real_clock())
    report.run("clock", lambda: probe_bucket.check_clock(subject))
    report.run("leftovers of earlier probes", lambda: probe_bucket.remove_leftovers(subject))
    short = report.run("version id of an upload", lambda: probe_locks.ShortLock(subject))
    _check_locks(subject, report)
    _check_bucket(subject, report)
    _check_uploads(subject, report)
    report.run("rights of the credentials", lambda: probe_rights.check_rights(subject))
    report.run("deleting after the lock", short.check_delete_after_expiry)


def _check_locks(subject: Subject, report: ProbeReport) -> None:
    locked = report.run("lock kept", lambda: probe_locks.check_lock_kept(subject))
    for name, check in (
        ("deleting refused", probe_locks.check_delete_refused),
        ("deleting in a batch refused", probe_locks.check_batch_delete_refused),
        ("shortening refused", probe_locks.check_shorten_refused),
        ("GOVERNANCE refused", probe_locks.check_downgrade_refused),
        ("extending", probe_locks.check_extension),
        ("overwriting keeps", probe_locks.check_overwrite_keeps),
        ("a marker hides nothing", probe_locks.check_marker_hides_nothing),
    ):
        report.run(name, partial(check, subject, locked))
    report.run("past lock date refused", lambda: probe_locks.check_past_date_refused(subject))
    report.run("default retention", lambda: probe_locks.check_default_retention(subject))


def _check_bucket(subject: Subject, report: ProbeReport) -> None:
    report.run("versions stay on", lambda: probe_bucket.check_versioning_stays(subject))
    report.run("ranges", lambda: probe_bucket.check_ranges(subject))
    report.run("listing", lambda: probe_bucket.check_listing(subject))
    report.run("no rule deletes", lambda: probe_bucket.check_lifecycle(subject))


def _check_uploads(subject: Subject, report: ProbeReport) -> None:
    checksums = report.run("checksums", lambda: probe_uploads.check_checksums(subject))
    report.capabilities |= {"checks_md5": checksums.md5, "checks_sha256": checksums.sha256}
    report.run("presigned uploads", lambda: probe_uploads.check_tampering(subject))
    report.find("conditional_create", lambda: probe_uploads.conditional_create(subject))
    report.find("presigned_replay_refused", lambda: probe_uploads.replay_refused(subject))
    report.find("unsigned_headers_refused", lambda: probe_uploads.unsigned_extras_refused(subject))
    report.find("multipart_keeps_lock", lambda: probe_uploads.multipart_keeps_lock(subject))
