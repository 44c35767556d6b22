"""What is in a bucket for the holder of a recovery key: domains, their descriptions, and their backups.

Nothing that was found is believed before it was checked: a description by the catalogue key's fingerprint in the
recovery key, a manifest by the writers that the newest description trusts. What fails is told, not hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from engine.alone.bucket import Bucket, BucketSource, FittingObject, StoredVersion, read_fitting
from engine.alone.keyring import Keyring
from engine.alone.layout import DomainPlace, ManifestPlace, find_manifests, sha256_of_key
from engine.alone.parallel import ordered_results
from engine.codec import OBJECT_SIZE_MAX
from engine.crypto import DomainKeys
from engine.description import (
    DESCRIPTION_SIZE_MAX,
    DomainDescription,
    description_key,
    newest_description,
    open_description,
    parse_description,
)
from engine.errors import EngineError, FormatError, IntegrityError, KeyMismatchError, StoreError, UnsupportedError
from engine.manifest import ManifestBody, manifest_ref, parse_manifest
from engine.recovery import RecoveryKey
from engine.store.base import ObjectKind, ObjectRef

_Found: TypeAlias = tuple[DomainDescription, ObjectRef]
# Manifests may be large, so few are on their way at once.
_MANIFESTS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the person should know, with a stable code."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class OpenDomain:
    place: DomainPlace
    description: DomainDescription
    domain_keys: DomainKeys
    keyring: Keyring
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundManifest:
    """A manifest that was verified (`body`), or why it could not be (`problem`)."""

    place: ManifestPlace
    body: ManifestBody | None
    ref: ObjectRef | None = None
    retain_until: datetime | None = None
    problem: EngineError | None = None


def open_domain(bucket: Bucket, place: DomainPlace, recovery_key: RecoveryKey) -> OpenDomain:
    """Find description and keys. KeyMismatchError when the domain is another tenant's, IntegrityError (no_description)
    when it is ours but nothing says whom to trust."""
    keyring = Keyring(bucket=bucket, place=place, tenant_private_key=recovery_key.tenant_private_key)
    descriptions, findings = _descriptions(bucket, place, recovery_key.catalogue_fingerprint)
    newest = newest_description(description for description, _ in descriptions)
    if newest is None:
        next(keyring.domain_keys())
        message = f"{place} has no description signed with your catalogue key, so no writer can be trusted"
        raise IntegrityError(message, code="no_description")
    ref = next(ref for description, ref in descriptions if description is newest)
    for domain_keys in keyring.domain_keys():
        labelled = _with_labels(bucket, ref, recovery_key, domain_keys)
        if labelled is not None:
            return OpenDomain(place, labelled, domain_keys, keyring, findings)
    raise KeyMismatchError(f"no key envelope of {place} holds the keys of its description", code="missing_key")


def read_manifests(bucket: Bucket, domain: OpenDomain) -> Iterator[FoundManifest]:
    """All manifests of the domain by source and sequence, each verified or with its problem. Bounded memory."""
    places = find_manifests(bucket, domain.place)
    yield from ordered_results(lambda place: read_manifest(bucket, domain, place), places, at_once=_MANIFESTS_AT_ONCE)


def read_manifest(bucket: Bucket, domain: OpenDomain, place: ManifestPlace) -> FoundManifest:
    """Raises only StoreError; everything else is the manifest's problem."""
    try:
        found = read_fitting(bucket, place.versions, sha256=place.sha256, size_max=OBJECT_SIZE_MAX)
        if found is None:
            raise IntegrityError("no version of it has the bytes that its name promises")
        body = parse_manifest(found.data, trusted_writers=domain.description.body.writers).body
        _check_place(body, place, found)
    except StoreError:
        raise
    except EngineError as error:
        return FoundManifest(place, None, problem=error)
    return FoundManifest(place, body, found.ref, found.retain_until)


def _check_place(body: ManifestBody, place: ManifestPlace, found: FittingObject) -> None:
    own = manifest_ref(body, sha256=place.sha256, size_bytes=found.ref.size_bytes, version_id=None)
    if own.key != found.ref.key:
        raise IntegrityError("the manifest is stored under a key that is not its own")
    try:
        has_zone = datetime.fromisoformat(body.created_at).tzinfo is not None
    except ValueError:
        has_zone = False
    if not has_zone:
        raise FormatError("the manifest's time cannot be read")


def _descriptions(bucket: Bucket, place: DomainPlace, fingerprint: bytes) -> tuple[list[_Found], tuple[Finding, ...]]:
    groups = bucket.versions(place.prefix(ObjectKind.CONFIG))
    found: list[_Found] = []
    findings: list[Finding] = []
    for result in ordered_results(lambda versions: _description(bucket, place, versions, fingerprint), groups):
        if isinstance(result, UnsupportedError):
            findings.append(Finding("newer_description", f"a description of {place} needs a newer program"))
        elif not isinstance(result, EngineError):
            found.append(result)
    return found, tuple(findings)


def _description(
    bucket: Bucket, place: DomainPlace, versions: list[StoredVersion], fingerprint: bytes
) -> _Found | EngineError:
    key = versions[0].key
    try:
        found = read_fitting(bucket, versions, sha256=sha256_of_key(key), size_max=DESCRIPTION_SIZE_MAX)
        if found is None:
            raise IntegrityError("no version of it has the bytes that its name promises")
        description = parse_description(found.data, catalogue_fingerprint=fingerprint)
        if description_key(description.body, sha256=description.sha256) != key:
            raise IntegrityError(f"a description of {place} is stored under a key that is not its own")
    except StoreError:
        raise
    except EngineError as error:
        return error
    return description, found.ref


def _with_labels(
    bucket: Bucket, ref: ObjectRef, recovery_key: RecoveryKey, domain_keys: DomainKeys
) -> DomainDescription | None:
    """The description with its labels; None when these domain keys are not those that it was sealed with."""
    try:
        return open_description(
            description_ref=ref,
            object_source=BucketSource(bucket),
            catalogue_fingerprint=recovery_key.catalogue_fingerprint,
            map_key=domain_keys.map_key,
        )
    except IntegrityError:
        return None
