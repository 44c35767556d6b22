"""What the tool shows: tables for people, JSON for programs, progress on standard error.

Labels were typed by people, so nothing of them reaches a terminal unless it is printable.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

from engine.alone.catalogue import Finding, OpenDomain
from engine.alone.checking import CheckResult
from engine.alone.facts import ServerFacts
from engine.alone.finding import OpenedDomains
from engine.alone.listing import BackupSummary, DomainListing, SourceListing
from engine.alone.restoring import RestoreOutcome
from engine.restore import RestoreProgress

_BACKUP_DIGITS = 12
_TELL_SECONDS_TERMINAL = 0.5
_TELL_SECONDS_LOG = 15.0


def printable(text: str) -> str:
    """Control characters and the like, which could drive a terminal, become `?`."""
    return "".join(character if character.isprintable() else "?" for character in text)


def write_json(stream: TextIO, value: Any) -> None:
    stream.write(json.dumps(value, indent=2) + "\n")


def size_text(size_bytes: int) -> str:
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def time_text(when: datetime | None) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M") if when is not None else "-"


# --- list -------------------------------------------------------------------------------------------------------------


def listing_json(opened: OpenedDomains, listings: list[DomainListing]) -> dict[str, Any]:
    return {
        "domains": [_domain_json(listing) for listing in listings],
        "findings": _findings_json(opened.findings),
        "foreign_domains": opened.foreign_count,
        "empty_domains": opened.empty_count,
    }


def _domain_json(listing: DomainListing) -> dict[str, Any]:
    domain = listing.domain
    labels = domain.description.labels
    names = {disk.source_id: disk for disk in labels.disks} if labels else {}
    return {
        "tenant": domain.place.tenant,
        "tenant_title": labels.tenant_title if labels else None,
        "domain": domain.place.domain,
        "server": labels.server_name if labels else None,
        "region": labels.vault.region if labels else None,
        "immutable_days": labels.vault.immutable_days if labels else None,
        "definitions": labels.definitions if labels else [],
        "description_sequence": domain.description.body.sequence,
        "findings": _findings_json(domain.findings),
        "disks": [
            {
                "source_id": source.source_id,
                "number": names[source.source_id].number if source.source_id in names else None,
                "name": names[source.source_id].name if source.source_id in names else None,
                "findings": _findings_json(source.findings),
                "backups": [_backup_json(backup) for backup in source.backups],
            }
            for source in listing.sources
        ],
    }


def _backup_json(backup: BackupSummary) -> dict[str, Any]:
    return {
        "backup": backup.backup,
        "sequence": backup.sequence,
        "created_at": backup.created_at.isoformat(),
        "content": backup.content,
        "size_bytes": backup.size_bytes,
        "stored_bytes": backup.stored_bytes,
        "complete": backup.is_complete,
        "missing_objects": backup.missing_count,
        "missing": list(backup.missing),
        "locked_until": backup.retain_until.isoformat() if backup.retain_until else None,
    }


def _findings_json(findings: tuple[Finding, ...]) -> list[dict[str, str]]:
    return [{"code": finding.code, "message": finding.message} for finding in findings]


def listing_lines(opened: OpenedDomains, listings: list[DomainListing]) -> Iterator[str]:
    for listing in listings:
        yield from _domain_lines(listing)
    for finding in opened.findings:
        yield f"WARNING: {printable(finding.message)}"
    if opened.empty_count:
        yield f"Servers without any backup: {opened.empty_count}."
    if opened.foreign_count:
        yield f"Servers in this bucket that belong to other recovery keys: {opened.foreign_count}."


def _domain_lines(listing: DomainListing) -> Iterator[str]:
    labels = listing.domain.description.labels
    place = listing.domain.place
    if labels is None:
        yield f"Server {place}"
    else:
        where = f"{printable(labels.vault.region)}, immutable for {labels.vault.immutable_days} days"
        yield f"{printable(labels.tenant_title)} / {printable(labels.server_name)}   ({where})   {place}"
    for finding in listing.domain.findings:
        yield f"  WARNING: {printable(finding.message)}"
    for source in listing.sources:
        yield f"  {_source_title(listing.domain, source.source_id)}"
        yield from _source_lines(source)
    yield ""


def _source_title(domain: OpenDomain, source_id: str) -> str:
    labels = domain.description.labels
    for disk in labels.disks if labels else []:
        if disk.source_id == source_id:
            return f"Disk {disk.number} {printable(disk.name)}   ({source_id})"
    return f"Source {source_id}"


def _source_lines(source: SourceListing) -> Iterator[str]:
    for finding in source.findings:
        yield f"    WARNING: {printable(finding.message)}"
    if not source.backups:
        yield "    no backup"
        return
    yield f"    {'BACKUP':<14}{'TIME (UTC)':<18}{'NUMBER':>8}{'SIZE':>12}  {'LOCKED UNTIL':<18}STATE"
    for backup in source.backups:
        state = "complete" if backup.is_complete else f"INCOMPLETE: {backup.missing_count} objects are missing"
        yield (
            f"    {backup.backup[:_BACKUP_DIGITS]:<14}{time_text(backup.created_at):<18}{backup.sequence:>8}"
            f"{size_text(backup.size_bytes):>12}  {time_text(backup.retain_until):<18}{state}"
        )


# --- check ------------------------------------------------------------------------------------------------------------


def check_json(results: list[tuple[OpenDomain, CheckResult]], opened: OpenedDomains) -> dict[str, Any]:
    return {
        "sound": all(result.is_sound for _, result in results) and not opened.findings,
        "backups": sum(result.backup_count for _, result in results),
        "objects": sum(result.object_count for _, result in results),
        "read_bytes": sum(result.read_bytes for _, result in results),
        "bad_objects": [
            {"key": bad.key, "problem": bad.problem, "backups": list(bad.backups)}
            for _, result in results
            for bad in result.bad_objects
        ],
        "bad_backups": [
            {"backup": found.place.sha256, "domain": str(found.place.place), "problem": str(found.problem)}
            for _, result in results
            for found in result.bad_manifests
        ],
        "findings": _findings_json(opened.findings),
    }


def check_lines(results: list[tuple[OpenDomain, CheckResult]], opened: OpenedDomains) -> Iterator[str]:
    for domain, result in results:
        for bad in result.bad_objects:
            names = ", ".join(name[:_BACKUP_DIGITS] for name in bad.backups)
            yield f"{bad.problem.upper()}: {bad.key}   needed by {names}"
        for found in result.bad_manifests:
            yield f"UNUSABLE: backup {found.place.sha256[:_BACKUP_DIGITS]} of {domain.place}: {found.problem}"
        read = f", {size_text(result.read_bytes)} read" if result.read_bytes else ""
        yield f"{domain.place}: {result.backup_count} backups, {result.object_count} objects{read}: " + (
            "all there" if result.is_sound else "NOT all right"
        )
    for finding in opened.findings:
        yield f"WARNING: {printable(finding.message)}"


# --- facts ------------------------------------------------------------------------------------------------------------


def facts_lines(facts: ServerFacts) -> Iterator[str]:
    for name, text in facts.parts.items():
        yield f"== {printable(name)}"
        yield from part_lines(text)
        yield ""


def part_lines(text: str) -> Iterator[str]:
    """Tabs stay, which files such as fstab have."""
    for line in text.splitlines():
        yield "\t".join(map(printable, line.split("\t")))


# --- restore ----------------------------------------------------------------------------------------------------------


def outcome_json(outcome: RestoreOutcome, target: str) -> dict[str, Any]:
    return {
        "backup": outcome.backup,
        "target": target,
        "complete": outcome.is_complete,
        "size_bytes": outcome.size_bytes,
        **outcome.counters,
        "damaged_ranges": [{"offset": offset, "length": length} for offset, length in outcome.damaged],
        "damaged_files": [
            {"path": path, "ranges": [{"offset": offset, "length": length} for offset, length in ranges]}
            for path, ranges in outcome.damaged_files
        ],
        "lost": list(outcome.lost),
        "remarks": list(outcome.remarks),
    }


def outcome_lines(outcome: RestoreOutcome, target: str) -> Iterator[str]:
    for remark in outcome.remarks:
        yield f"NOTE: {printable(remark)}"
    if outcome.is_complete:
        yield f"Restored {outcome.backup[:_BACKUP_DIGITS]} to {target}: complete, {size_text(outcome.size_bytes)}."
        return
    for lost in outcome.lost:
        yield f"LOST: {printable(lost)}"
    if outcome.damaged:
        lost_bytes = sum(length for _, length in outcome.damaged)
        yield f"{lost_bytes} bytes in {len(outcome.damaged)} ranges could not be restored:"
        yield f"{'OFFSET':>20}{'LENGTH':>20}"
    for offset, length in outcome.damaged:
        yield f"{offset:>20}{length:>20}"
    yield f"Restored {outcome.backup[:_BACKUP_DIGITS]} to {target}: NOT COMPLETE."


class ProgressLine:
    """One line that is overwritten on a terminal, a line now and then in a log. `clock` counts seconds."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._started = self._told = clock()
        self._is_terminal = stream.isatty()

    def restored(self, progress: RestoreProgress) -> None:
        percent = 100 * progress.done_bytes // progress.size_bytes if progress.size_bytes else 100
        done, size = size_text(progress.done_bytes), size_text(progress.size_bytes)
        self._tell(f"{done} of {size} ({percent} %), {size_text(progress.fetched_bytes)} fetched")

    def checked(self, result: CheckResult) -> None:
        self._tell(f"{result.object_count} objects looked at, {size_text(result.read_bytes)} read")

    def end(self) -> None:
        if self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _tell(self, text: str) -> None:
        now = self._clock()
        if now - self._told < (_TELL_SECONDS_TERMINAL if self._is_terminal else _TELL_SECONDS_LOG):
            return
        self._told = now
        line = f"{text}, {now - self._started:.0f} s"
        self._stream.write(f"\r\x1b[K{line}" if self._is_terminal else f"{line}\n")
        self._stream.flush()
