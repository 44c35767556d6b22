"""From a recovery key to its domains, and from a few hexadecimal digits to one backup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from engine.alone.bucket import Bucket
from engine.alone.catalogue import Finding, FoundManifest, OpenDomain, open_domain, read_manifest
from engine.alone.layout import DomainPlace, ManifestPlace, find_domains, find_manifests
from engine.errors import EngineError, StoreError
from engine.recovery import RecoveryKey

_BACKUP_NAME = re.compile(r"[0-9a-f]{6,64}", re.ASCII)


class NothingFoundError(EngineError):
    """There is no backup, or none of this name."""

    default_code = "no_backups"


@dataclass(frozen=True, slots=True)
class Scope:
    """Which part of the bucket is looked at; None is all of it."""

    tenant: str | None = None
    domain: str | None = None

    def places(self, bucket: Bucket) -> Iterator[DomainPlace]:
        return find_domains(bucket, tenant=self.tenant, domain=self.domain)


@dataclass(frozen=True, slots=True)
class OpenedDomains:
    """The domains that the key opens. `findings` tells about the others that should have."""

    domains: tuple[OpenDomain, ...]
    findings: tuple[Finding, ...]
    foreign_count: int = 0
    empty_count: int = 0


def open_domains(bucket: Bucket, recovery_key: RecoveryKey, scope: Scope) -> OpenedDomains:
    """NothingFoundError for an empty bucket, KeyMismatchError when the key fits nothing that is there."""
    domains: list[OpenDomain] = []
    findings: list[Finding] = []
    foreign: list[EngineError] = []
    empty_count = 0
    for place in scope.places(bucket):
        try:
            domains.append(open_domain(bucket, place, recovery_key))
        except StoreError:
            raise
        except EngineError as error:
            if error.code == "wrong_recovery_key":
                foreign.append(error)
            elif error.code == "no_envelopes" and next(find_manifests(bucket, place), None) is None:
                empty_count += 1
            else:
                findings.append(Finding(error.code, error.message))
    if foreign and not domains and not findings:
        raise foreign[0]
    if not domains and not findings:
        raise NothingFoundError("there is no backup here: check the name of the bucket")
    return OpenedDomains(tuple(domains), tuple(findings), len(foreign), empty_count)


def find_backup(bucket: Bucket, recovery_key: RecoveryKey, scope: Scope, name: str) -> tuple[OpenDomain, FoundManifest]:
    """The one backup whose hash begins with `name`. NothingFoundError, KeyMismatchError, the manifest's problem."""
    place = _find_place(bucket, scope, name.lower())
    domain = open_domain(bucket, place.place, recovery_key)
    found = read_manifest(bucket, domain, place)
    if found.problem is not None:
        raise found.problem
    return domain, found


def _find_place(bucket: Bucket, scope: Scope, name: str) -> ManifestPlace:
    if not _BACKUP_NAME.fullmatch(name):
        raise NothingFoundError("a backup is named by at least 6 hexadecimal digits; see `list`", code="unknown_backup")
    found: list[ManifestPlace] = []
    seen_count = 0
    for domain in scope.places(bucket):
        for place in find_manifests(bucket, domain):
            seen_count += 1
            if place.sha256.startswith(name):
                found.append(place)
    if not seen_count:
        raise NothingFoundError("there is no backup here: check the name of the bucket")
    if not found:
        raise NothingFoundError(f"none of the {seen_count} backups here is named {name}", code="unknown_backup")
    if len(found) > 1:
        message = f"{len(found)} backups begin with {name}: give more digits"
        raise NothingFoundError(message, code="ambiguous_backup")
    return found[0]
