"""Publishing what a stranger with the recovery key needs beyond manifests: the domain's description (`c/`).

Facts come in as arguments; a new description is written only when they differ from the newest one in the vault. Writers
are never dropped. Runs in the control worker.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from datetime import datetime

import msgspec

from common.errors import UnavailableError
from engine.compression import DEFAULT_LEVEL, Compressor
from engine.crypto import WriterKey
from engine.description import DomainDescription, Labels, build_description, parse_description
from engine.errors import EngineError
from engine.hashing import sha256_hex
from engine.store.base import ObjectKind, object_key
from vaults.custody import catalogue_key_of, domain_keys_of, ensure_keys
from vaults.envelopes import READABLE
from vaults.ledger import revive
from vaults.locks import GENERATION
from vaults.models import Domain, StoredObject, Vault
from vaults.own_objects import lengthen_lock, store_own_object
from vaults.storage import Credential, read_object

logger = logging.getLogger(__name__)

_SALT_BYTES = 16


@dataclass(frozen=True, slots=True)
class DomainFacts:
    """What the description says. `promised_until`: the latest immutable-until date of the domain's backups."""

    writers: frozenset[bytes]
    labels: Labels
    promised_until: datetime | None = None


def publish_description(
    domain: Domain, facts: DomainFacts, *, now: datetime, counts_sequences: bool = True
) -> StoredObject:
    """The object of the newest description, which says `facts` and is locked as long as any backup of the domain.

    Without `counts_sequences` newer backups alone make no new one: one object a night is enough for that. May run any
    number of times; `now` is the store's time. Raises UnavailableError for store trouble, EngineError for facts that no
    description can hold.
    """
    ensure_keys(domain.tenant)
    catalogue_key = catalogue_key_of(domain.tenant_id)
    map_key = domain_keys_of(domain).map_key
    found = _newest(domain, catalogue_key, map_key)
    if found is not None and _says(found[1], facts, counts_sequences=counts_sequences):
        return _kept(found[0], facts, now=now)
    previous = found[1] if found is not None else None
    data = _built(domain, facts, previous, catalogue_key=catalogue_key, map_key=map_key, now=now)
    key = object_key(
        tenant=str(domain.tenant_id), domain=str(domain.pk), kind=ObjectKind.CONFIG, sha256=sha256_hex(data)
    )
    until = _lock_until(domain.vault, facts, now=now)
    row = store_own_object(domain, kind=ObjectKind.CONFIG, key=key, data=data, retain_until=until, now=now)
    logger.info("domain described", extra={"domain": str(domain.pk), "key": key})
    return row


def published_labels(domain: Domain) -> Labels | None:
    """What the newest description that is whole says to people; None when there is none. Raises UnavailableError."""
    found = _newest(domain, catalogue_key_of(domain.tenant_id), domain_keys_of(domain).map_key)
    return found[1].labels if found is not None else None


def _kept(row: StoredObject, facts: DomainFacts, *, now: datetime) -> StoredObject:
    """The newest one stays: never condemned, its lock never shorter than a backup's."""
    revive([row.pk])
    least = row.vault.lock_rule.needed_until(now)
    if row.retain_until < max(least, facts.promised_until or least):
        lengthen_lock(row, _lock_until(row.vault, facts, now=now))
    row.refresh_from_db()
    return row


def _lock_until(vault: Vault, facts: DomainFacts, *, now: datetime) -> datetime:
    """A generation beyond the longest promise, so that the lock is not lengthened every day."""
    until = vault.lock_rule.lock_until(now)
    return max(until, facts.promised_until + GENERATION) if facts.promised_until else until


def _built(
    domain: Domain,
    facts: DomainFacts,
    previous: DomainDescription | None,
    *,
    catalogue_key: WriterKey,
    map_key: bytes,
    now: datetime,
) -> bytes:
    trusted = facts.writers | frozenset(previous.body.writers if previous else ())
    # Rows are made before objects and are never deleted, so their number is at least the highest sequence given out.
    given_out = StoredObject.objects.filter(domain=domain, kind=ObjectKind.CONFIG).count()
    return build_description(
        tenant=str(domain.tenant_id),
        domain=str(domain.pk),
        sequence=max(given_out, previous.body.sequence if previous else 0) + 1,
        created_at=now,
        writers=trusted,
        labels=facts.labels,
        map_key=map_key,
        catalogue_key=catalogue_key,
        salt=os.urandom(_SALT_BYTES),
        compressor=Compressor(DEFAULT_LEVEL),
        previous=previous,
    )


def _says(description: DomainDescription, facts: DomainFacts, *, counts_sequences: bool) -> bool:
    if description.labels is None or not facts.writers <= set(description.body.writers):
        return False
    if counts_sequences:
        return description.labels == facts.labels
    return _without_sequences(description.labels) == _without_sequences(facts.labels)


def _without_sequences(labels: Labels) -> Labels:
    disks = [msgspec.structs.replace(disk, latest_sequence=0) for disk in labels.disks]
    return msgspec.structs.replace(labels, disks=disks)


def _newest(domain: Domain, catalogue_key: WriterKey, map_key: bytes) -> tuple[StoredObject, DomainDescription] | None:
    """The newest description that is whole."""
    rows = StoredObject.objects.filter(domain=domain, kind=ObjectKind.CONFIG, status__in=READABLE)
    for row in rows.select_related("vault__endpoint").order_by("-granted_at", "-pk").iterator(chunk_size=50):
        description = _read(row, catalogue_key, map_key)
        if description is not None:
            return row, description
    return None


def _read(row: StoredObject, catalogue_key: WriterKey, map_key: bytes) -> DomainDescription | None:
    """None for one that is missing or damaged: then a new one is written. UnavailableError when the store is away."""
    try:
        data = read_object(row.vault, key=row.key, version_id=row.version_id, credential=Credential.KEEPER)
        if sha256_hex(data) != row.sha256:
            return None
        return parse_description(data, catalogue_fingerprint=catalogue_key.fingerprint, map_key=map_key)
    except EngineError as error:
        logger.error("a description cannot be read", extra={"key": row.key, "reason": error.message})
        return None
    except UnavailableError as error:
        if "store_code" not in error.extra:
            raise
        logger.error("a description is not in the vault", extra={"key": row.key, "reason": error.message})
        return None


def newest_descriptions(vault: Vault) -> set[int]:
    """Ids of the newest description of each domain of the vault: what removal must leave, as no manifest names it."""
    rows = StoredObject.objects.filter(vault=vault, kind=ObjectKind.CONFIG, status__in=READABLE)
    in_order = rows.order_by("granted_at", "pk").values_list("domain_id", "pk")
    return set(dict(in_order).values())
