"""Stores that the bench gives to the engine: a plain directory, and presigned requests signed on the spot.

The directory syncs every object and its folder before it answers, as restic's and borg's local stores do. The signer
binds what the real one binds (`vaults/grants.py`), without its ledger: the bench measures the engine and the store.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, urlsplit

from engine.errors import StoreNotFoundError
from engine.store.base import Buffer, ObjectRef
from engine.store.http import Grant, PutSpec

_LIFETIME_SECONDS = 900
_LOCKED_FOR = timedelta(days=1)


class DirectoryStore:
    """ObjectSink and ObjectSource over a folder. Thread-safe: every object has a name of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, *, key: str, data: Buffer, sha256: str) -> ObjectRef:
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".new")
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
        _sync_folder(path.parent)
        return ObjectRef(key, sha256, len(data))

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        try:
            descriptor = os.open(self._root / ref.key, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise StoreNotFoundError(f"{ref.key} is not there") from error
        try:
            return os.pread(descriptor, ref.size_bytes - offset if length is None else length, offset)
        finally:
            os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Signer:
    """GrantSource for one bucket with COMPLIANCE locks. Thread-safe."""

    url: str
    bucket: str
    access_key: str
    secret_key: str = field(repr=False)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    region: str = "us-east-1"

    def grant_puts(self, specs: Sequence[PutSpec]) -> list[Grant]:
        until = (self.now() + _LOCKED_FOR).strftime("%Y-%m-%dT%H:%M:%SZ")
        return [self._grant("PUT", spec.key, _put_headers(spec, until), {}) for spec in specs]

    def grant_gets(self, refs: Sequence[ObjectRef]) -> list[Grant]:
        return [self._grant("GET", ref.key, {}, {"versionId": ref.version_id or ""}) for ref in refs]

    def _grant(self, method: str, key: str, headers: Mapping[str, str], query: Mapping[str, str]) -> Grant:
        """AWS Signature Version 4 in the query; every header of the grant is signed."""
        now = self.now()
        scope = f"{now:%Y%m%d}/{self.region}/s3/aws4_request"
        signed = {name.lower(): value for name, value in headers.items()} | {"host": urlsplit(self.url).netloc}
        names = ";".join(sorted(signed))
        asked = dict(query) | {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{self.access_key}/{scope}",
            "X-Amz-Date": f"{now:%Y%m%dT%H%M%SZ}",
            "X-Amz-Expires": str(_LIFETIME_SECONDS),
            "X-Amz-SignedHeaders": names,
        }
        path = quote(f"/{self.bucket}/{key}")
        text = "&".join(f"{quote(name, safe='')}={quote(asked[name], safe='')}" for name in sorted(asked))
        lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
        request = f"{method}\n{path}\n{text}\n{lines}\n{names}\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(request.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{now:%Y%m%dT%H%M%SZ}\n{scope}\n{digest}"
        signature = hmac.new(self._signing_key(scope), to_sign.encode(), hashlib.sha256).hexdigest()
        return Grant(method, f"{self.url}{path}?{text}&X-Amz-Signature={signature}", dict(headers))

    def _signing_key(self, scope: str) -> bytes:
        key = f"AWS4{self.secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return key


def _put_headers(spec: PutSpec, until: str) -> dict[str, str]:
    return {
        "Content-Length": str(spec.size_bytes),
        "Content-MD5": spec.md5_base64,
        "If-None-Match": "*",
        "x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(spec.sha256)).decode(),
        "x-amz-object-lock-mode": "COMPLIANCE",
        "x-amz-object-lock-retain-until-date": until,
    }
