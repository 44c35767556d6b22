"""The S3 clients of the control plane, one per credential. The only place of the services that imports boto3.

Each process holds only the credentials of its role: the signer signs grants, the keeper looks at objects and lengthens
locks, the provisioner makes buckets, the reaper deletes what no lock holds, the copier writes what the service writes
itself. None of them may bypass a lock.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

import boto3
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings
from django.utils import timezone

from common.errors import ConfigurationError, UnavailableError
from vaults.models import Endpoint, Vault
from vaults.presign import SigningKey

GREATEST_SKEW = timedelta(minutes=5)
_PATIENT = {"connect_timeout": 5, "read_timeout": 30, "retries": {"mode": "standard", "max_attempts": 4}}
_IMPATIENT = {"connect_timeout": 3, "read_timeout": 5, "retries": {"mode": "standard", "total_max_attempts": 1}}


class Credential(StrEnum):
    SIGNER = "signer"
    KEEPER = "keeper"
    PROVISIONER = "provisioner"
    REAPER = "reaper"
    COPIER = "copier"


class StorageRefusedError(UnavailableError):
    """The store answered with an error; `extra` names the call and the store's code."""

    code = "store_refused"


class StorageUnreachableError(UnavailableError):
    """The store does not answer at all."""

    code = "store_unreachable"


class StorageContractError(UnavailableError):
    """The store answered in a way that breaks what the service relies on."""

    code = "store_contract"


@dataclass(frozen=True, slots=True)
class SeenObject:
    """What the store itself says about one version of an object."""

    version_id: str
    size_bytes: int
    etag: str
    sha256_base64: str | None
    lock_mode: str | None
    retain_until: datetime | None


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """One entry of a bucket's listing of versions."""

    key: str
    version_id: str
    size_bytes: int
    etag: str
    modified_at: datetime
    is_latest: bool
    is_delete_marker: bool


def client_for(endpoint: Endpoint, credential: Credential) -> Any:
    """A thread-safe S3 client. Raises ConfigurationError when this process does not hold the credential."""
    access_key, secret_key = _keys_of(credential)
    return _client(endpoint.url, endpoint.signing_region, access_key, secret_key)


def probing_client_for(endpoint: Endpoint, credential: Credential) -> Any:
    """As `client_for`, for calls that are not tried again and must be answered within seconds."""
    access_key, secret_key = _keys_of(credential)
    return _client(endpoint.url, endpoint.signing_region, access_key, secret_key, impatient=True)


def signing_key_for(endpoint: Endpoint, credential: Credential) -> SigningKey:
    """Signs requests that others send. Raises ConfigurationError when this process does not hold the credential."""
    access_key, secret_key = _keys_of(credential)
    return SigningKey(access_key, secret_key, endpoint.signing_region)


def holds(credential: Credential) -> bool:
    """Whether this process holds the credential."""
    return bool(getattr(settings.CONFIG, f"s3_{credential}_access_key"))


def _keys_of(credential: Credential) -> tuple[str, str]:
    access_key = getattr(settings.CONFIG, f"s3_{credential}_access_key")
    secret_key = getattr(settings.CONFIG, f"s3_{credential}_secret_key").get_secret_value()
    if not access_key or not secret_key:
        raise ConfigurationError(
            f"This process ({settings.ROLE}) does not hold the {credential} credential of the store."
        )
    return access_key, secret_key


@functools.lru_cache(maxsize=64)
def _client(url: str, region: str, access_key: str, secret_key: str, *, impatient: bool = False) -> Any:
    patience = _IMPATIENT if impatient else _PATIENT
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name=region,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=BotoConfig(
            # Without s3v4 a custom endpoint gets presigned URLs that bind none of the headers.
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            max_pool_connections=16,
            **patience,
        ),
    )


@contextmanager
def translated(vault: Vault, call: str) -> Iterator[None]:
    """Turn the library's errors into ours, with the call named and nothing secret inside."""
    try:
        yield
    except ClientError as error:
        code = error_code(error)
        raise StorageRefusedError(
            f"The vault {vault.name} refused {call}: {code}.", extra={"call": call, "store_code": code}
        ) from error
    except BotoCoreError as error:
        raise StorageUnreachableError(
            f"The vault {vault.name} does not answer ({call}). Is its storage service running?", extra={"call": call}
        ) from error


def error_code(error: ClientError) -> str:
    """The store's error code, defensively: some stores send none."""
    details = error.response.get("Error") or {}
    status = (error.response.get("ResponseMetadata") or {}).get("HTTPStatusCode")
    return str(details.get("Code") or status or "unknown")


def store_time(vault: Vault, credential: Credential) -> datetime:
    """The store's own clock, from its Date header. Raises UnavailableError when it and ours differ too much."""
    with translated(vault, "HeadBucket"):
        try:
            answer = client_for(vault.endpoint, credential).head_bucket(Bucket=vault.bucket)
        except ClientError as refusal:
            # Not every credential may ask; the refusal carries the time as well.
            answer = refusal.response
    told = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).astimezone(UTC)
    if abs(told - timezone.now()) > GREATEST_SKEW:
        raise UnavailableError(
            f"The clock of the vault {vault.name} ({told:%Y-%m-%d %H:%M} UTC) and this server's differ by more than "
            "5 minutes. Nothing is signed until both are right.",
            code="clock_skew",
        )
    return told


def see_object(vault: Vault, *, key: str, version_id: str) -> SeenObject:
    """HEAD one version with the keeper's credential."""
    with translated(vault, "HeadObject"):
        head = client_for(vault.endpoint, Credential.KEEPER).head_object(
            Bucket=vault.bucket, Key=key, VersionId=version_id, ChecksumMode="ENABLED"
        )
    return SeenObject(
        version_id=head.get("VersionId", ""),
        size_bytes=head["ContentLength"],
        etag=head.get("ETag", "").strip('"'),
        sha256_base64=head.get("ChecksumSHA256"),
        lock_mode=head.get("ObjectLockMode"),
        retain_until=head.get("ObjectLockRetainUntilDate"),
    )


def versions_of(vault: Vault, *, key: str) -> list[str]:
    """Version ids of the exact key, newest first; delete markers are left out (they hide nothing from us)."""
    with translated(vault, "ListObjectVersions"):
        answer = client_for(vault.endpoint, Credential.KEEPER).list_object_versions(
            Bucket=vault.bucket, Prefix=key, MaxKeys=20
        )
    return [version["VersionId"] for version in answer.get("Versions", []) if version["Key"] == key]


def list_versions(vault: Vault, *, prefix: str, credential: Credential) -> Iterator[ListedVersion]:
    """Every version and delete marker below the prefix, by key, page by page.

    Raises StorageContractError for a listing that does not ascend or repeats itself: it cannot be relied on.
    """
    client = client_for(vault.endpoint, credential)
    place: dict[str, str] = {}
    reached = ""
    while True:
        with translated(vault, "ListObjectVersions"):
            page = client.list_object_versions(Bucket=vault.bucket, Prefix=prefix, **place)
        entries = [_listed(entry, is_delete_marker=False) for entry in page.get("Versions", [])]
        entries += [_listed(entry, is_delete_marker=True) for entry in page.get("DeleteMarkers", [])]
        for entry in sorted(entries, key=lambda entry: entry.key):
            if entry.key < reached:
                raise StorageContractError(f"The vault {vault.name} lists its objects out of order.")
            reached = entry.key
            yield entry
        if not page.get("IsTruncated"):
            return
        following = {"KeyMarker": page.get("NextKeyMarker", ""), "VersionIdMarker": page.get("NextVersionIdMarker", "")}
        following = {name: value for name, value in following.items() if value}
        if not following or following == place:
            raise StorageContractError(f"The vault {vault.name} does not come to the end of its listing.")
        place = following


def _listed(entry: dict[str, Any], *, is_delete_marker: bool) -> ListedVersion:
    return ListedVersion(
        key=entry["Key"],
        version_id=entry.get("VersionId", ""),
        size_bytes=entry.get("Size", 0),
        etag=entry.get("ETag", "").strip('"'),
        modified_at=entry["LastModified"],
        is_latest=bool(entry.get("IsLatest")),
        is_delete_marker=is_delete_marker,
    )


def delete_version(vault: Vault, *, key: str, version_id: str) -> None:
    """Delete one version for good, with the reaper's credential. One that is gone already is success."""
    with translated(vault, "DeleteObject"):
        client_for(vault.endpoint, Credential.REAPER).delete_object(Bucket=vault.bucket, Key=key, VersionId=version_id)


def extend_lock(vault: Vault, *, key: str, version_id: str, until: datetime) -> None:
    """Lengthen the COMPLIANCE lock of one version. Idempotent; a store never lets it become shorter."""
    with translated(vault, "PutObjectRetention"):
        client_for(vault.endpoint, Credential.KEEPER).put_object_retention(
            Bucket=vault.bucket,
            Key=key,
            VersionId=version_id,
            Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until},
        )


def read_object(vault: Vault, *, key: str, version_id: str, credential: Credential) -> bytes:
    """The whole of a small object (manifest, key envelope)."""
    with translated(vault, "GetObject"):
        answer = client_for(vault.endpoint, credential).get_object(Bucket=vault.bucket, Key=key, VersionId=version_id)
        return answer["Body"].read()
