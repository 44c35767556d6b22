"""The bucket over boto3: the only place of the engine that imports it.

Credentials come from the environment, a profile or the options file, as boto3 finds them; errors that leave this
module name the call and the store's code, never a URL or a credential.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar

import boto3  # type: ignore[import-untyped]  # it has no type information
from botocore.config import Config  # type: ignore[import-untyped]  # the same
from botocore.exceptions import (  # type: ignore[import-untyped]  # the same
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
)

from engine.alone.bucket import VERSIONS_KEPT, StoredBytes, StoredVersion
from engine.errors import EngineError, StoreDeniedError, StoreError, StoreNotFoundError

_Result = TypeVar("_Result")

_READ_ATTEMPTS = 3
_NOT_FOUND = frozenset({"NoSuchKey", "NoSuchVersion", "404"})
_REFUSED = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403"})


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where the bucket is. What is None is left to boto3: environment, profile, configuration file."""

    bucket: str
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)


class StoreFailedError(StoreError):
    """The store answered with a failure of its own (500)."""

    default_code = "store_failed"


class S3Bucket:
    """Bucket (see the Protocol). Thread-safe."""

    def __init__(self, options: S3Options, *, page_size: int = 1000) -> None:
        self._name = options.bucket
        self._page_size = page_size
        self._client = _client(options)
        self._unreadable: set[tuple[str, str]] = set()

    def folders(self, prefix: str) -> list[str]:
        # By versions, because a listing of objects leaves out what lies under delete markers.
        pages = self._pages(prefix, {"Delimiter": "/"})
        found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
        return [path[len(prefix) :].rstrip("/") for path in found if path.startswith(prefix)]

    def versions(self, prefix: str) -> Iterator[list[StoredVersion]]:
        for _, group in groupby(self._flat_versions(prefix), key=lambda version: version.key):
            newest_first: list[StoredVersion] = []
            for version in group:
                newest_first = [*newest_first[1 - VERSIONS_KEPT :], version]
            yield newest_first[::-1]

    def read(self, version: StoredVersion, *, offset: int, length: int) -> StoredBytes:
        wanted = {"Key": version.key, "VersionId": version.version_id}
        if (offset, length) != (0, version.size_bytes):
            wanted["Range"] = f"bytes={offset}-{offset + length - 1}"
        if (version.key, version.version_id) in self._unreadable:
            raise _unreadable(version.key)
        try:
            return self._again(lambda: self._read_once(wanted, length))
        except StoreFailedError:
            # The store answers, but cannot give this object: damage of one object, not an outage.
            self._unreadable.add((version.key, version.version_id))
            raise _unreadable(version.key) from None

    def size_of(self, *, key: str, version_id: str) -> int:
        with _translated("HeadObject", key):
            answer = self._client.head_object(Bucket=self._name, Key=key, VersionId=version_id)
        return int(answer["ContentLength"])

    def _flat_versions(self, prefix: str) -> Iterator[StoredVersion]:
        for page in self._pages(prefix, {}):
            for entry in page.get("Versions", []):
                yield StoredVersion(entry["Key"], str(entry.get("VersionId", "null")), int(entry["Size"]))

    def _pages(self, prefix: str, options: dict[str, str]) -> Iterator[Any]:
        paginator = self._client.get_paginator("list_object_versions")
        paging = {"PageSize": self._page_size}
        pages = iter(paginator.paginate(Bucket=self._name, Prefix=prefix, PaginationConfig=paging, **options))
        while True:
            with _translated("ListObjectVersions", f"the bucket {self._name}"):
                page = next(pages, None)
            if page is None:
                return
            yield page

    def _read_once(self, wanted: dict[str, str], length: int) -> StoredBytes:
        with _translated("GetObject", wanted["Key"]):
            answer = self._client.get_object(Bucket=self._name, **wanted)
            # One byte more than asked for is enough to notice a reply that is too long.
            data: bytes = answer["Body"].read(length + 1)
            answer["Body"].close()
        if len(data) != length:
            raise StoreError(f"{wanted['Key']} came with another length than expected", code="bad_length")
        return StoredBytes(data, answer.get("ObjectLockRetainUntilDate"))

    def _again(self, call: Callable[[], _Result]) -> _Result:
        """boto3 repeats what fails before the answer begins; a body that breaks off is repeated here."""
        for _ in range(_READ_ATTEMPTS - 1):
            try:
                return call()
            except StoreError as error:
                if not error.transient or isinstance(error, StoreFailedError):
                    raise
        return call()


def _client(options: S3Options) -> Any:
    config = Config(
        # Without s3v4 a custom endpoint may be asked with an older kind of signature.
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "max_attempts": 5},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
    )
    try:
        session = boto3.session.Session(profile_name=options.profile, region_name=options.region)
        return session.client(
            "s3",
            endpoint_url=options.endpoint_url,
            # A custom endpoint needs some region to sign for, and most do not care which.
            region_name=session.region_name or "us-east-1",
            aws_access_key_id=options.access_key,
            aws_secret_access_key=options.secret_key,
            config=config,
        )
    except (BotoCoreError, ValueError) as error:
        raise EngineError(f"the S3 client cannot be set up: {error}", code="bad_options") from error


@contextmanager
def _translated(call: str, what: str) -> Iterator[None]:
    try:
        yield
    except NoCredentialsError:
        message = "no S3 credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a profile"
        raise StoreDeniedError(message, code="no_credentials") from None
    except ClientError as error:
        raise _store_error(error, call, what) from None
    except (BotoCoreError, HTTPClientError, OSError) as error:
        kind = type(error).__name__
        message = f"the store does not answer {call} for {what} ({kind}): check endpoint and network"
        raise StoreError(message, code="store_unreachable", transient=True) from None


def _store_error(error: ClientError, call: str, what: str) -> StoreError:
    details = error.response.get("Error") or {}
    status = (error.response.get("ResponseMetadata") or {}).get("HTTPStatusCode")
    code = str(details.get("Code") or status or "unknown")
    message = f"the store answered {call} for {what} with {code}"
    if code == "NoSuchBucket":
        return StoreError(f"{message}: there is no such bucket", code="no_such_bucket")
    if code in _NOT_FOUND or (code in {"400", "InvalidArgument"} and call != "ListObjectVersions"):
        # Some stores call a version id that they never gave an invalid argument.
        return StoreNotFoundError(message)
    if code in _REFUSED:
        return StoreDeniedError(f"{message}: check the credentials and what they may read")
    if status == 500:
        return StoreFailedError(message, transient=True)
    return StoreError(message, transient=status in {408, 429, 502, 503, 504})


def _unreadable(key: str) -> StoreError:
    return StoreError(f"the store cannot read {key}", code="object_unreadable")
