"""The signer: presigned, single-object rights. Runs only in the signer process.

A PUT grant binds key, length, MD5, SHA-256, `If-None-Match: *`, lock mode and lock date; its row is in the ledger
before it is signed. A GET grant binds the version.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from common.errors import ConflictError, InvalidInputError
from engine.store.base import ObjectKind, ObjectRef
from engine.store.http import Grant, PutSpec
from vaults.models import Domain, StoredObject, Vault
from vaults.presign import BoundPut, ObjectPlace, SigningKey, presign, presign_put
from vaults.storage import Credential, signing_key_for

GRANT_LIFETIME = timedelta(minutes=15)
LARGEST_OBJECT_BYTES = 65 * 1024 * 1024
LARGEST_BATCH = 64
# What a mover writes, and how many names follow in the key; descriptions are the service's own.
_PARTS_AFTER_KIND = {
    ObjectKind.PACK: 1,
    ObjectKind.INDEX: 1,
    ObjectKind.KEY: 1,
    ObjectKind.RELOCATION: 1,
    ObjectKind.MANIFEST: 2,
}
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_Status = StoredObject.Status
_REMOVED = {_Status.CONDEMNED, _Status.DELETING, _Status.DELETED}


@dataclass(frozen=True, slots=True)
class GrantContext:
    """Whose session asks, and until when what it writes is locked."""

    domain: Domain
    session_id: UUID
    now: datetime
    retain_until: datetime


def grant_puts(context: GrantContext, specs: Sequence[PutSpec]) -> list[Grant]:
    """Record and sign one PUT per spec. The same spec asked again gets a fresh grant for the same object.

    Raises InvalidInputError for a key outside the session's domain, a name that is not its hash, or a bad size;
    ConflictError for an object that is about to be removed or was: the writer makes it anew under another name.
    """
    if len(specs) > LARGEST_BATCH:
        raise InvalidInputError(f"At most {LARGEST_BATCH} grants are given at once.", code="batch_too_large")
    for spec in specs:
        _check_spec(context.domain, spec)
    vault = context.domain.vault
    signing_key = signing_key_for(vault.endpoint, Credential.SIGNER)
    rows = _record(context, specs)
    return [_sign_put(vault, rows[spec.key], signing_key=signing_key, now=context.now) for spec in specs]


def _check_spec(domain: Domain, spec: PutSpec) -> None:
    prefix = f"t/{domain.tenant_id}/d/{domain.id}/"
    kind, *names = spec.key.removeprefix(prefix).split("/")
    if not spec.key.startswith(prefix) or len(names) != _PARTS_AFTER_KIND.get(kind) or not all(names):
        raise InvalidInputError("The object's key lies outside of this session's domain.", code="foreign_key")
    if ".." in spec.key:
        raise InvalidInputError("The object's key lies outside of this session's domain.", code="foreign_key")
    # Exactly one key for each content: with a second name for one hash the ledger and a mark could not agree.
    digits, dash, name = names[-1].partition("-") if kind == ObjectKind.MANIFEST else ("", "-", names[-1])
    is_numbered = not digits or (len(digits) == 20 and digits.isascii() and digits.isdigit())
    if name != spec.sha256 or not _SHA256.fullmatch(name) or not dash or not is_numbered:
        raise InvalidInputError("An object is named by the SHA-256 of its bytes.", code="wrong_name")
    if not 0 < spec.size_bytes <= LARGEST_OBJECT_BYTES:
        raise InvalidInputError(f"An object has 1 to {LARGEST_OBJECT_BYTES} bytes.", code="wrong_size")
    if len(_bytes_of_base64(spec.md5_base64)) != 16:
        raise InvalidInputError("The MD5 of an object is 16 bytes in base64.", code="wrong_md5")


def _bytes_of_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _record(context: GrantContext, specs: Sequence[PutSpec]) -> dict[str, StoredObject]:
    """The ledger's row of each key, made where there was none: a few statements for the whole batch."""
    vault = context.domain.vault
    with transaction.atomic():
        StoredObject.objects.bulk_create([_new_row(context, spec) for spec in specs], ignore_conflicts=True)
        rows = {row.key: row for row in StoredObject.objects.filter(vault=vault, key__in=[s.key for s in specs])}
        for spec in specs:
            _check_row(context, spec, rows.get(spec.key))
    return rows


def _new_row(context: GrantContext, spec: PutSpec) -> StoredObject:
    return StoredObject(
        vault=context.domain.vault,
        domain=context.domain,
        session_id=context.session_id,
        kind=spec.key.split("/")[4],
        key=spec.key,
        size_bytes=spec.size_bytes,
        sha256=spec.sha256,
        md5_base64=spec.md5_base64,
        retain_until=context.retain_until,
        granted_at=context.now,
    )


def _check_row(context: GrantContext, spec: PutSpec, row: StoredObject | None) -> None:
    wanted = (context.domain.pk, spec.sha256, spec.size_bytes, spec.md5_base64)
    if row is None or (row.domain_id, row.sha256, row.size_bytes, row.md5_base64) != wanted:
        raise InvalidInputError("An object of this name was granted with another length or MD5.", code="grant_differs")
    if row.status in _REMOVED:
        raise ConflictError("The object of this name is being removed from the vault.", code="object_removed")


def _sign_put(vault: Vault, row: StoredObject, *, signing_key: SigningKey, now: datetime) -> Grant:
    put = BoundPut(
        size_bytes=row.size_bytes,
        md5_base64=row.md5_base64,
        sha256_base64=base64.b64encode(bytes.fromhex(row.sha256)).decode(),
        retain_until=row.retain_until,
    )
    place = ObjectPlace(vault.endpoint.url, vault.bucket, row.key)
    url = presign_put(signing_key=signing_key, now=now, place=place, put=put, lifetime=GRANT_LIFETIME)
    return Grant(method="PUT", url=url, headers=put.headers())


def grant_gets(
    vault: Vault, refs: Sequence[ObjectRef], *, uncommitted: Collection[str] = (), now: datetime | None = None
) -> list[Grant]:
    """Sign one GET per object, bound to its version; ranges stay free. The caller has checked the right to each.

    Raises InvalidInputError for an object whose version is not known: it would be readable in whatever version. Only of
    the keys in `uncommitted`, which the reader's own earlier attempt stored, nobody has seen the version yet.
    """
    signing_key = signing_key_for(vault.endpoint, Credential.SIGNER)
    grants = []
    for ref in refs:
        if not ref.version_id and ref.key not in uncommitted:
            raise InvalidInputError("Only a known version of an object may be read.", code="version_unknown")
        place = ObjectPlace(vault.endpoint.url, vault.bucket, ref.key, ref.version_id)
        url = presign(
            signing_key=signing_key,
            now=now or timezone.now(),
            method="GET",
            place=place,
            headers={},
            lifetime=GRANT_LIFETIME,
        )
        grants.append(Grant(method="GET", url=url, headers={}))
    return grants
