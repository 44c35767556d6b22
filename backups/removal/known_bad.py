"""Objects that can never be taken in, acknowledged by a person so that removal need not wait for them for ever.

Nothing is believed on the person's word alone: it is tried once more on the spot, and what can be taken in is. What is
acknowledged stays in the vault for 90 days and until its lock is over, whichever is later, and so does all that it
names as far as it can be decoded, whoever signed it. Each pass goes on trying to take it in.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import transaction

from backups.moves import open_relocations
from backups.removal.adoption import adopt_manifest, adopt_relocation, is_gone, told_in
from common.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError, UnavailableError
from engine.codec import OBJECT_SIZE_MAX
from engine.errors import EngineError
from engine.peeking import named_objects
from engine.store.base import ObjectKind
from tenants.audit import record
from tenants.models import Person
from vaults.inventory import DATA_PREFIX
from vaults.keeper import UnverifiedObjectError
from vaults.models import KnownBadObject, StoredObject, Vault
from vaults.storage import Credential, list_versions, read_object, store_time

logger = logging.getLogger(__name__)

KEPT_AT_LEAST = timedelta(days=90)
LONGEST_REASON = 500
_PRESENT = (StoredObject.Status.STORED, StoredObject.Status.CONDEMNED)


def acknowledge_bad_object(*, vault: Vault, key: str, reason: str, actor: Person) -> KnownBadObject:
    """Let removal go on without this object. Doing it twice keeps the first.

    Raises NotAllowedError for anybody but a SuperAdmin, InvalidInputError, NotFoundError when the vault has no such
    object, ConflictError when it was taken in after all or is nothing that removal waits for, UnavailableError.
    """
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin says that an object is known to be bad.")
    reason = reason.strip()
    if not reason or len(reason) > LONGEST_REASON:
        raise InvalidInputError(f"Say why, in at most {LONGEST_REASON} characters.", field="reason")
    present = KnownBadObject.objects.filter(vault=vault, key=key).first()
    if present is not None:
        return present
    now = store_time(vault, Credential.KEEPER)
    row = StoredObject.objects.filter(vault=vault, key=key).select_related("vault__endpoint", "domain").first()
    refusal = _refusal(vault, key, row, now=now)
    needs = list(_needs(row)) if row is not None else []
    with transaction.atomic():
        found = KnownBadObject.objects.create(
            vault=vault,
            key=key,
            refusal=refusal,
            reason=reason,
            actor=actor,
            actor_name=str(actor)[:150],
            kept_until=max(
                now + KEPT_AT_LEAST, *(held.retain_until for held in [row, *needs] if held is not None), now
            ),
        )
        found.needs.set(needs)
        # What was stopped for its sake alone goes on with the next pass.
        Vault.objects.filter(pk=vault.pk).update(reconciled_at=None)
        facts = {"key": key, "refusal": refusal, "reason": reason}
        record(action="vault.acknowledge_bad_object", subject=vault, actor=actor, after=facts)
    logger.warning("an object is known to be bad", extra={"key": key, "actor": str(actor), "reason": reason})
    return found


def acknowledged_keys(vault: Vault) -> frozenset[str]:
    return frozenset(KnownBadObject.objects.filter(vault=vault).values_list("key", flat=True))


def kept_as_known_bad(vault: Vault, *, now: datetime) -> frozenset[int]:
    """Ids of the known bad objects and of what they name, while they are kept."""
    kept = KnownBadObject.objects.filter(vault=vault, kept_until__gt=now)
    own = StoredObject.objects.filter(vault=vault, key__in=kept.values("key")).values_list("pk", flat=True)
    named = StoredObject.objects.filter(needed_by_known_bad__in=kept).values_list("pk", flat=True)
    return frozenset({*own, *named})


def _refusal(vault: Vault, key: str, row: StoredObject | None, *, now: datetime) -> str:
    """Why it cannot be taken in: tried now, for what was wrong yesterday may be right today."""
    if row is None:
        versions = list_versions(vault, prefix=key, credential=Credential.KEEPER) if key.startswith(DATA_PREFIX) else ()
        if not any(version.key == key and not version.is_delete_marker for version in versions):
            raise NotFoundError(f"The vault {vault.name} has no object {key}.")
        return "It belongs to no domain that is known."
    if row.status not in _PRESENT:
        message = f"The object {key} is {row.status}: removal does not wait for it."
        raise ConflictError(message, code="not_waited_for")
    problems: list[str] = []
    with told_in(problems, key):
        if row.kind == ObjectKind.MANIFEST and not hasattr(row, "backup"):
            adopt_manifest(vault, row, now=now)
        elif row.kind == ObjectKind.RELOCATION and not row.relocated_packs.exists():
            adopt_relocation(vault, row)
    if not problems:
        raise ConflictError(f"Nothing is wrong with {key} now, or it was taken in.", code="not_bad")
    return problems[0]


def _needs(row: StoredObject) -> Iterable[StoredObject]:
    """What it names, as far as it can be decoded and is in the vault."""
    names: set[tuple[str, str]] = set()
    try:
        names = {(str(kind), sha256.hex()) for kind, sha256 in _named(row)}
    except UnavailableError as error:
        if not is_gone(error):
            raise
    except (EngineError, UnverifiedObjectError) as error:
        logger.warning("what a bad object needs cannot be read", extra={"key": row.key, "code": error.code})
    ordered = sorted(names)
    for start in range(0, len(ordered), 500):
        part = ordered[start : start + 500]
        rows = StoredObject.objects.filter(domain_id=row.domain_id, sha256__in=[sha256 for _, sha256 in part])
        yield from (found for found in rows if (found.kind, found.sha256) in names and found.status in _PRESENT)


def _named(row: StoredObject) -> Iterable[tuple[ObjectKind, bytes]]:
    if row.size_bytes > OBJECT_SIZE_MAX:
        return []
    if row.kind == ObjectKind.RELOCATION:
        found = open_relocations(row.vault, row)
        packs = [(ObjectKind.PACK, name) for name in (*found.old_packs, *(entry.sha256 for entry in found.packs))]
        return packs + [(ObjectKind.KEY, session.envelope.sha256) for session in found.sessions]
    return named_objects(read_object(row.vault, key=row.key, version_id=row.version_id, credential=Credential.KEEPER))
