"""The list of backups: what is complete, what is missing, until when it is locked, and what looks hidden."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from engine.alone.bucket import Bucket
from engine.alone.catalogue import Finding, FoundManifest, OpenDomain, read_manifests
from engine.alone.layout import DomainPlace, sha256_of_key
from engine.alone.moves import Moves
from engine.manifest import ManifestBody, ObjectEntry
from engine.store.base import ObjectKind


@dataclass(frozen=True, slots=True)
class BackupSummary:
    """One verified manifest. `missing`: keys of needed objects that are absent, at most a few of missing_count."""

    backup: str
    source_id: str
    content: str
    sequence: int
    previous: str | None
    created_at: datetime
    size_bytes: int
    stored_bytes: int
    retain_until: datetime | None
    missing_count: int
    missing: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        return not self.missing_count


@dataclass(frozen=True, slots=True)
class SourceListing:
    source_id: str
    backups: tuple[BackupSummary, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class DomainListing:
    domain: OpenDomain
    sources: tuple[SourceListing, ...]


_MISSING_SHOWN = 10


class Inventory:
    """Which packs, segments and envelopes of a domain have a version of the right size. About 100 bytes an object."""

    def __init__(self, bucket: Bucket, place: DomainPlace) -> None:
        self._seen: set[bytes] = set()
        for kind in (ObjectKind.PACK, ObjectKind.INDEX, ObjectKind.KEY):
            for versions in bucket.versions(place.prefix(kind)):
                name = sha256_of_key(versions[0].key)
                self._seen.update(_mark(name.encode("utf-8"), version.size_bytes) for version in versions)

    def has(self, entry: ObjectEntry) -> bool:
        return _mark(entry.sha256.hex().encode("ascii"), entry.size_bytes) in self._seen


def _mark(name: bytes, size_bytes: int) -> bytes:
    return name + size_bytes.to_bytes(8, "big")


def list_domain(bucket: Bucket, domain: OpenDomain) -> DomainListing:
    """Reads every manifest of the domain; keeps a summary of each."""
    inventory = Inventory(bucket, domain.place)
    absences = _Absences(inventory, Moves(bucket, domain), domain)
    by_source: dict[str, list[BackupSummary]] = {}
    problems: dict[str, list[FoundManifest]] = {}
    for found in read_manifests(bucket, domain):
        if found.body is None:
            problems.setdefault(found.place.source_id, []).append(found)
        else:
            by_source.setdefault(found.place.source_id, []).append(_summary(found, found.body, absences))
    latest = latest_sequences(domain)
    sources = [
        SourceListing(
            source_id,
            tuple(by_source.get(source_id, [])),
            (
                *unreadable_findings(problems.get(source_id, [])),
                *chain_findings(by_source.get(source_id, []), latest_sequence=latest.get(source_id, 0)),
            ),
        )
        for source_id in sorted({*by_source, *problems, *latest})
    ]
    return DomainListing(domain, tuple(sources))


def latest_sequences(domain: OpenDomain) -> dict[str, int]:
    """Per source: the newest sequence that the description knows of, if it knows one."""
    labels = domain.description.labels
    return {disk.source_id: disk.latest_sequence for disk in labels.disks if disk.latest_sequence} if labels else {}


def _summary(found: FoundManifest, body: ManifestBody, absences: _Absences) -> BackupSummary:
    missing = absences.of(found, body)
    previous = body.previous_sha256
    return BackupSummary(
        backup=found.place.sha256,
        source_id=body.source_id,
        content=body.content,
        sequence=body.sequence,
        previous=previous.hex() if previous is not None else None,
        created_at=datetime.fromisoformat(body.created_at),
        size_bytes=body.size_bytes,
        stored_bytes=sum(entry.size_bytes for entry in [*body.packs, *body.segments]),
        retain_until=found.retain_until,
        missing_count=len(missing),
        missing=tuple(missing[:_MISSING_SHOWN]),
    )


class _Absences:
    """Which objects a backup needs and has not."""

    def __init__(self, inventory: Inventory, moves: Moves, domain: OpenDomain) -> None:
        self._inventory = inventory
        self._moves = moves
        self._keyring = domain.keyring

    def of(self, found: FoundManifest, body: ManifestBody) -> list[str]:
        """Their keys."""
        packs = [entry for entry in body.packs if not self._inventory.has(entry)]
        segments = [entry for entry in body.segments if not self._inventory.has(entry)]
        if packs and not segments and found.ref is not None and self._moves.is_whole(found.ref, packs):
            packs = []
        sessions = [session for session in body.sessions if not self._inventory.has(session.envelope)]
        # An envelope may have been replaced by one for a new key.
        envelopes = [session.envelope for session in sessions if self._keyring.other_data_key(session) is None]
        kinds = ((ObjectKind.PACK, packs), (ObjectKind.INDEX, segments), (ObjectKind.KEY, envelopes))
        return [body.object_ref(kind, entry).key for kind, entries in kinds for entry in entries]


def unreadable_findings(problems: Iterable[FoundManifest]) -> list[Finding]:
    return [
        Finding(
            "unreadable_backup",
            f"backup {found.place.sha256[:12]} (number {found.place.sequence}) cannot be used: {found.problem}",
        )
        for found in problems
    ]


def chain_findings(backups: Sequence[BackupSummary], *, latest_sequence: int) -> list[Finding]:
    """What the numbers of one source say about backups that are not shown. `backups` ascend by sequence."""
    findings: list[Finding] = []
    newest = backups[-1].sequence if backups else 0
    if newest < latest_sequence:
        message = f"the newest backup here is number {newest}, but there was a number {latest_sequence}"
        findings.append(Finding("hidden_backups", f"{message}: the newest backups may be hidden"))
    known = {backup.backup for backup in backups}
    gaps = [backup.sequence for backup in backups[1:] if backup.previous is not None and backup.previous not in known]
    if gaps:
        numbers = ", ".join(str(sequence) for sequence in gaps[:_MISSING_SHOWN])
        message = f"the backup before number {numbers} is not here: its retention ended, or it is hidden"
        findings.append(Finding("chain_gap", message))
    for earlier, later in pairwise(backups):
        if later.sequence == earlier.sequence:
            findings.append(Finding("sequence_twice", f"there are two backups with number {later.sequence}"))
        elif later.created_at < earlier.created_at:
            message = f"backup number {later.sequence} is older than number {earlier.sequence}"
            findings.append(Finding("sequence_regression", f"{message}: the newest backups may be hidden"))
    return findings
