"""The names in a bucket (docs/format.md, section 2), read backwards: which domains, manifests and objects are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from engine.alone.bucket import Bucket, StoredVersion
from engine.codec import check_name
from engine.errors import FormatError
from engine.store.base import ObjectKind

_MANIFEST_NAME = re.compile(r"([0-9]{20})-([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class DomainPlace:
    tenant: str
    domain: str

    def __str__(self) -> str:
        return f"t/{self.tenant}/d/{self.domain}"

    def prefix(self, kind: ObjectKind) -> str:
        return f"{self}/{kind.value}/"


@dataclass(frozen=True, slots=True)
class ManifestPlace:
    """A manifest as its key tells; nothing of it is verified yet."""

    place: DomainPlace
    source_id: str
    sequence: int
    sha256: str
    versions: list[StoredVersion]


def find_domains(bucket: Bucket, *, tenant: str | None = None, domain: str | None = None) -> Iterator[DomainPlace]:
    """All domains of the bucket, or those asked for. What is named otherwise is not ours and is passed over."""
    for tenant_id in _names(bucket, "t/") if tenant is None else [tenant]:
        domains = _names(bucket, f"t/{tenant_id}/d/") if domain is None else [domain]
        yield from (DomainPlace(tenant_id, domain_id) for domain_id in domains)


def find_manifests(bucket: Bucket, place: DomainPlace) -> Iterator[ManifestPlace]:
    """All manifests of a domain by source and ascending sequence."""
    prefix = place.prefix(ObjectKind.MANIFEST)
    for versions in bucket.versions(prefix):
        source_id, _, name = versions[0].key.removeprefix(prefix).partition("/")
        match = _MANIFEST_NAME.fullmatch(name)
        if match is not None and _is_name(source_id) and int(match[1]) < 1 << 63:
            yield ManifestPlace(place, source_id, int(match[1]), match[2], versions)


def sha256_of_key(key: str) -> str:
    """The last part of a key, which is the hash when the key is one of ours."""
    return key.rpartition("/")[2]


def _names(bucket: Bucket, prefix: str) -> list[str]:
    return [name for name in bucket.folders(prefix) if _is_name(name)]


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except FormatError:
        return False
    return True
