"""Every way to turn a presigned upload into another one, as requests that a store must refuse. Pure.

Used by the probe against a vault's store, and by the tests against what the gate really grants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, urlsplit

_DATE = "x-amz-object-lock-retain-until-date"
_MODE = "x-amz-object-lock-mode"
# Left out, each of them would let the holder choose; the length is tried with other bodies.
_DROPPED = ("Content-MD5", "If-None-Match", "x-amz-checksum-sha256", _MODE, _DATE)
_SUB_RESOURCES = ("acl", "retention", "legal-hold", "versionId", "uploads")
# Not signed, so a store may take them: then it lets the holder add them, and the vault's capabilities say so.
UNSIGNED_EXTRAS = {
    "x-amz-object-lock-legal-hold": "ON",
    "x-amz-meta-probe": "1",
    "x-amz-tagging": "probe=1",
    "x-amz-acl": "public-read",
}


@dataclass(frozen=True, slots=True)
class Upload:
    """One request of a holder: what it was granted, or what it made of it."""

    name: str
    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def tampered(granted: Upload) -> Iterator[Upload]:
    """Every variant of the granted upload; none of them may leave an object behind, under whatever name."""
    yield from _other_places(granted)
    yield from _other_queries(granted)
    yield from _other_bodies(granted)
    yield from _other_headers(granted)


def _other_places(granted: Upload) -> Iterator[Upload]:
    parts = urlsplit(granted.url)
    bucket, _, key = parts.path.lstrip("/").partition("/")
    for name, path in (("other key", f"/{bucket}/{key}x"), ("other bucket", f"/{bucket}x/{key}")):
        yield _changed(granted, name, url=parts._replace(path=path).geturl())
    yield _changed(granted, "method DELETE", method="DELETE", body=b"")
    yield _changed(granted, "method GET", method="GET", body=b"")
    yield _changed(granted, "method POST", method="POST")


def _other_queries(granted: Upload) -> Iterator[Upload]:
    for name in _SUB_RESOURCES:
        yield _changed(granted, f"sub-resource {name}", url=f"{granted.url}&{name}=null")
    yield _with_query(granted, "longer life", "X-Amz-Expires", "604800")
    signed = dict(parse_qsl(urlsplit(granted.url).query)).get("X-Amz-SignedHeaders", "")
    left = [name for name in signed.split(";") if name not in {_MODE, _DATE}]
    bare = {name: value for name, value in granted.headers.items() if name.lower() not in {_MODE, _DATE}}
    fewer = _with_query(granted, "lock taken from the signed headers", "X-Amz-SignedHeaders", ";".join(left))
    yield _changed(fewer, fewer.name, headers=bare)


def _other_bodies(granted: Upload) -> Iterator[Upload]:
    body = granted.body
    for name, data in (("longer body", body + b"x"), ("shorter body", body[:-1])):
        yield _changed(granted, name, body=data, headers={**granted.headers, "Content-Length": str(len(data))})
    yield _changed(granted, "other body", body=bytes(byte ^ 1 for byte in body))


def _other_headers(granted: Upload) -> Iterator[Upload]:
    for dropped in _DROPPED:
        left = {name: value for name, value in granted.headers.items() if name != dropped}
        yield _changed(granted, f"without {dropped}", headers=left)
    until = datetime.strptime(granted.headers[_DATE], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    for name, header, value in (
        ("lock a day longer", _DATE, _stamp(until + timedelta(days=1))),
        ("lock a hundred years longer", _DATE, _stamp(until + timedelta(days=36500))),
        ("lock a second shorter", _DATE, _stamp(until - timedelta(seconds=1))),
        ("GOVERNANCE", _MODE, "GOVERNANCE"),
        ("other SHA-256", "x-amz-checksum-sha256", "A" * 43 + "="),
        ("other MD5", "Content-MD5", "A" * 22 + "=="),
        ("other condition", "If-None-Match", '"0"'),
    ):
        yield _changed(granted, name, headers={**granted.headers, header: value})


def _with_query(granted: Upload, name: str, parameter: str, value: str) -> Upload:
    parts = urlsplit(granted.url)
    pairs = [pair.partition("=") for pair in parts.query.split("&")]
    changed = [f"{key}={quote(value, safe='') if key == parameter else old}" for key, _, old in pairs]
    return _changed(granted, name, url=parts._replace(query="&".join(changed)).geturl())


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _changed(
    granted: Upload,
    name: str,
    *,
    method: str | None = None,
    url: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Upload:
    data = granted.body if body is None else body
    told = granted.headers if headers is None else headers
    if not data:
        told = {**told, "Content-Length": "0"}
    return Upload(name, method or granted.method, url or granted.url, told, data)
