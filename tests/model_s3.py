"""The control plane's S3 client over the model store: versions, COMPLIANCE locks, a virtual clock, faults by number.

It answers like boto3 as far as `vaults/storage.py` asks. The model denies what a real store denies (tests/vaults runs
the same calls against a real server); it is never the proof that a lock holds.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable
from datetime import datetime
from email.utils import format_datetime
from typing import Any

from botocore.exceptions import ClientError, EndpointConnectionError

from engine.errors import StoreDeniedError, StoreError, StoreNotFoundError
from engine.store.memory import ModelStore, ObjectVersion, PreconditionError


class ModelClient:
    """One bucket for every vault: keys begin with the bucket's name, so vaults do not meet."""

    def __init__(self, store: ModelStore, *, now: Callable[[], datetime], page_size: int = 1000) -> None:
        self.store = store
        self._now = now
        self._page_size = page_size

    def head_bucket(self, *, Bucket: str) -> dict[str, Any]:
        return {"ResponseMetadata": self._metadata()}

    def put_object(
        self,
        *,
        Bucket: str,
        Key: str,
        Body: Any,
        ObjectLockRetainUntilDate: datetime | None = None,
        IfNoneMatch: str | None = None,
        ChecksumSHA256: str | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        data = Body if isinstance(Body, bytes | bytearray | memoryview) else Body.read()
        sha256 = base64.b64decode(ChecksumSHA256).hex() if ChecksumSHA256 else None
        version = self._call(
            "PutObject",
            lambda: self.store.put_object(
                key=f"{Bucket}/{Key}",
                data=data,
                sha256=sha256,
                retain_until=ObjectLockRetainUntilDate,
                if_none_match=IfNoneMatch == "*",
            ),
        )
        return {"VersionId": version.version_id, "ETag": _etag(version), "ResponseMetadata": self._metadata()}

    def head_object(self, *, Bucket: str, Key: str, VersionId: str | None = None, **_: Any) -> dict[str, Any]:
        version = self._call("HeadObject", lambda: self.store.head(key=f"{Bucket}/{Key}", version_id=VersionId))
        answer = {
            "VersionId": version.version_id,
            "ContentLength": len(version.data),
            "ETag": _etag(version),
            "ChecksumSHA256": base64.b64encode(bytes.fromhex(version.sha256)).decode(),
            "LastModified": version.modified_at,
            "ResponseMetadata": self._metadata(),
        }
        if version.retain_until is not None:
            answer |= {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": version.retain_until}
        return answer

    def get_object(
        self, *, Bucket: str, Key: str, VersionId: str | None = None, Range: str | None = None, **_: Any
    ) -> dict[str, Any]:
        version = self._call("GetObject", lambda: self.store.head(key=f"{Bucket}/{Key}", version_id=VersionId))
        data = version.data
        if Range is not None:
            first, last = Range.removeprefix("bytes=").split("-")
            data = data[int(first) : int(last) + 1]
        return {"Body": io.BytesIO(data), "ContentLength": len(data), "ResponseMetadata": self._metadata()}

    def list_object_versions(
        self,
        *,
        Bucket: str,
        Prefix: str = "",
        MaxKeys: int | None = None,
        KeyMarker: str = "",
        VersionIdMarker: str = "",
        **_: Any,
    ) -> dict[str, Any]:
        found = self._call("ListObjectVersions", lambda: self.store.list_versions(prefix=f"{Bucket}/{Prefix}"))
        entries = [(version.key.removeprefix(f"{Bucket}/"), version) for version in found]
        latest = {key: version.version_id for key, version in entries}
        entries = [
            (key, version) for key, version in entries if (key, version.version_id) > (KeyMarker, VersionIdMarker)
        ]
        size = min(MaxKeys or self._page_size, self._page_size)
        page, is_truncated = entries[:size], len(entries) > size
        answer: dict[str, Any] = {"Versions": [], "DeleteMarkers": [], "IsTruncated": is_truncated}
        for key, version in page:
            entry = {
                "Key": key,
                "VersionId": version.version_id,
                "Size": len(version.data),
                "ETag": _etag(version),
                "LastModified": version.modified_at,
                "IsLatest": latest[key] == version.version_id,
            }
            answer["DeleteMarkers" if version.is_delete_marker else "Versions"].append(entry)
        if is_truncated:
            answer |= {"NextKeyMarker": page[-1][0], "NextVersionIdMarker": page[-1][1].version_id}
        return answer | {"ResponseMetadata": self._metadata()}

    def put_object_retention(
        self, *, Bucket: str, Key: str, VersionId: str, Retention: dict[str, Any]
    ) -> dict[str, Any]:
        until = Retention["RetainUntilDate"]
        self._call(
            "PutObjectRetention",
            lambda: self.store.put_retention(key=f"{Bucket}/{Key}", version_id=VersionId, retain_until=until),
        )
        return {"ResponseMetadata": self._metadata()}

    def delete_object(self, *, Bucket: str, Key: str, VersionId: str | None = None) -> dict[str, Any]:
        key = f"{Bucket}/{Key}"
        try:
            if VersionId is None:
                self._call("DeleteObject", lambda: self.store.delete_object(key=key))
            else:
                self._call("DeleteObject", lambda: self.store.delete_version(key=key, version_id=VersionId))
        except ClientError as error:
            # Deleting what is not there is success for S3.
            if error.response["Error"]["Code"] != "NoSuchVersion":
                raise
        return {"ResponseMetadata": self._metadata()}

    def close(self) -> None:
        """As boto3: closes connections; the client can be used on."""

    def _metadata(self) -> dict[str, Any]:
        return {"HTTPStatusCode": 200, "HTTPHeaders": {"date": format_datetime(self._now(), usegmt=True)}}

    def _call(self, name: str, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except PreconditionError:
            raise _refusal(name, "PreconditionFailed", 412) from None
        except StoreNotFoundError:
            raise _refusal(name, "NoSuchVersion", 404) from None
        except StoreDeniedError:
            raise _refusal(name, "AccessDenied", 403) from None
        except StoreError as error:
            if error.transient:
                raise EndpointConnectionError(endpoint_url="the model store") from None
            raise _refusal(name, "InvalidRequest", 400) from None


def _refusal(call: str, code: str, status: int) -> ClientError:
    details: Any = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(details, call)


def _etag(version: ObjectVersion) -> str:
    return f'"{hashlib.md5(version.data).hexdigest()}"'
