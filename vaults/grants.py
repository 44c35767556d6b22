"""The signer: presigned, single-object rights. Runs only in the signer process.

A PUT grant binds key, length, MD5, SHA-256, `If-None-Match: *`, lock mode and lock date; its row is in the ledger
before it is signed. A GET grant binds the version.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from django.db import transaction

from common.errors import InvalidInputError
from engine.store.base import ObjectKind, ObjectRef
from engine.store.http import Grant, PutSpec
from vaults.models import Domain, StoredObject, Vault
from vaults.storage import Credential, client_for

GRANT_LIFETIME = timedelta(minutes=15)
LARGEST_OBJECT_BYTES = 65 * 1024 * 1024
LARGEST_BATCH = 64
MUST_BE_SIGNED = {
    "host",
    "content-length",
    "content-md5",
    "if-none-match",
    "x-amz-checksum-sha256",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
}


@dataclass(frozen=True, slots=True)
class GrantContext:
    """Whose session asks, and until when what it writes is locked."""

    domain: Domain
    session_id: UUID
    now: datetime
    retain_until: datetime


def grant_puts(context: GrantContext, specs: Sequence[PutSpec]) -> list[Grant]:
    """Record and sign one PUT per spec. The same spec asked again gets a fresh grant for the same object.

    Raises InvalidInputError for a key outside the session's domain, a name that is not its hash, or a bad size.
    """
    if len(specs) > LARGEST_BATCH:
        raise InvalidInputError(f"At most {LARGEST_BATCH} grants are given at once.", code="batch_too_large")
    for spec in specs:
        _check_spec(context.domain, spec)
    with transaction.atomic():
        rows = [_record(context, spec) for spec in specs]
    return [_sign_put(row) for row in rows]


def _check_spec(domain: Domain, spec: PutSpec) -> None:
    prefix = f"t/{domain.tenant_id}/d/{domain.id}/"
    kind, _, rest = spec.key.removeprefix(prefix).partition("/")
    name_of_object = rest.rpartition("/")[2].rpartition("-")[2]
    if not spec.key.startswith(prefix) or kind not in {str(known) for known in ObjectKind} or ".." in spec.key:
        raise InvalidInputError("The object's key lies outside of this session's domain.", code="foreign_key")
    if name_of_object != spec.sha256 or len(_bytes_of_hex(spec.sha256)) != 32:
        raise InvalidInputError("An object is named by the SHA-256 of its bytes.", code="wrong_name")
    if not 0 < spec.size_bytes <= LARGEST_OBJECT_BYTES:
        raise InvalidInputError(f"An object has 1 to {LARGEST_OBJECT_BYTES} bytes.", code="wrong_size")
    if len(_bytes_of_base64(spec.md5_base64)) != 16:
        raise InvalidInputError("The MD5 of an object is 16 bytes in base64.", code="wrong_md5")


def _bytes_of_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _bytes_of_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _record(context: GrantContext, spec: PutSpec) -> StoredObject:
    row, made = StoredObject.objects.get_or_create(
        vault=context.domain.vault,
        key=spec.key,
        defaults={
            "domain": context.domain,
            "session_id": context.session_id,
            "kind": spec.key.split("/")[4],
            "size_bytes": spec.size_bytes,
            "sha256": spec.sha256,
            "md5_base64": spec.md5_base64,
            "retain_until": context.retain_until,
            "granted_at": context.now,
        },
    )
    same = (row.domain_id, row.size_bytes, row.md5_base64) == (context.domain.id, spec.size_bytes, spec.md5_base64)
    if not made and not same:
        raise InvalidInputError("An object of this name was granted with another length or MD5.", code="grant_differs")
    return row


def _sign_put(row: StoredObject) -> Grant:
    checksum = base64.b64encode(bytes.fromhex(row.sha256)).decode()
    until = row.retain_until.strftime("%Y-%m-%dT%H:%M:%SZ")
    url = client_for(row.vault.endpoint, Credential.SIGNER).generate_presigned_url(
        "put_object",
        Params={
            "Bucket": row.vault.bucket,
            "Key": row.key,
            "ContentLength": row.size_bytes,
            "ContentMD5": row.md5_base64,
            "ChecksumSHA256": checksum,
            "IfNoneMatch": "*",
            "ObjectLockMode": "COMPLIANCE",
            "ObjectLockRetainUntilDate": row.retain_until,
        },
        ExpiresIn=int(GRANT_LIFETIME.total_seconds()),
    )
    _assert_bound(url)
    headers = {
        "Content-Length": str(row.size_bytes),
        "Content-MD5": row.md5_base64,
        "If-None-Match": "*",
        "x-amz-checksum-sha256": checksum,
        "x-amz-object-lock-mode": "COMPLIANCE",
        "x-amz-object-lock-retain-until-date": until,
    }
    return Grant(method="PUT", url=url, headers=headers)


def _assert_bound(url: str) -> None:
    """A grant that leaves one of these headers free would let its holder choose the lock: never hand it out."""
    signed = set(parse_qs(urlsplit(url).query).get("X-Amz-SignedHeaders", [""])[0].split(";"))
    if not signed >= MUST_BE_SIGNED:
        raise RuntimeError("the signing library left headers unsigned: " + ", ".join(sorted(MUST_BE_SIGNED - signed)))


def grant_gets(vault: Vault, refs: Sequence[ObjectRef]) -> list[Grant]:
    """Sign one GET per object, bound to its version; ranges stay free. The caller has checked the right to each."""
    client = client_for(vault.endpoint, Credential.SIGNER)
    lifetime_seconds = int(GRANT_LIFETIME.total_seconds())
    grants = []
    for ref in refs:
        params = {"Bucket": vault.bucket, "Key": ref.key, "VersionId": ref.version_id}
        url = client.generate_presigned_url("get_object", Params=params, ExpiresIn=lifetime_seconds)
        grants.append(Grant(method="GET", url=url, headers={}))
    return grants
