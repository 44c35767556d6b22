"""Who holds which key of a tenant, and the envelopes that are made for them.

A tenant has one active key: managed (its private half is here, wrapped by the master key) or the customer's own (it is
not here at all). Envelopes are looked at before they become part of a good backup, and opened for a restore of just
the sessions that it needs. Private halves are unwrapped only in the signer and the control worker.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction

from common.errors import ConfigurationError, ConflictError
from engine.crypto import (
    DomainKeys,
    WriterKey,
    generate_tenant_key,
    generate_writer_key,
    key_fingerprint,
    tenant_key_from_private,
    writer_key_from_private,
)
from engine.envelope import EnvelopeInfo, parse_envelope
from engine.errors import EngineError
from tenants.models import Tenant
from vaults.envelopes import open_envelope, open_first, readable_envelopes, record_missing
from vaults.keeper import UnverifiedObjectError
from vaults.keys import (
    CATALOGUE_KEY_PURPOSE,
    ID_KEY_PURPOSE,
    MAP_KEY_PURPOSE,
    TENANT_KEY_PURPOSE,
    unwrap_key,
    wrap_key,
)
from vaults.models import CatalogueKey, Domain, Envelope, StoredObject, TenantKey
from vaults.storage import Credential

logger = logging.getLogger(__name__)

_PARALLEL_READS = 8
Mode, Status = TenantKey.Mode, TenantKey.Status


class EnvelopeRefusedError(UnverifiedObjectError):
    """A key envelope would not open the backup that it belongs to, or could stand in the way of another."""

    code = "envelope_refused"


class CustomerKeyNeededError(ConflictError):
    """Only the customer's own key opens the backup."""

    code = "customer_key_needed"


# --- keys of a tenant -------------------------------------------------------------------------------------------------


def active_key(tenant_id: UUID) -> TenantKey:
    """The key that new sessions are sealed to. Raises ConflictError while the tenant has none."""
    key = TenantKey.objects.filter(tenant_id=tenant_id, status=Status.ACTIVE).first()
    if key is None:
        raise ConflictError("The tenant has no key yet: its vault is still being made.", code="no_tenant_key")
    return key


def fingerprint(key: TenantKey) -> str:
    """SHA-256 of the public half in hexadecimal, as envelopes name their recipient."""
    return key_fingerprint(bytes(key.public_key)).hex()


def ensure_keys(tenant: Tenant) -> None:
    """The tenant's managed key and its catalogue key, unless it has them. Any number of workers may do it at once."""
    if not TenantKey.objects.filter(tenant=tenant, status=Status.ACTIVE).exists():
        _make_once(new_managed_key, tenant)
    if not CatalogueKey.objects.filter(tenant=tenant).exists():
        _make_once(_new_catalogue_key, tenant)


def _make_once(make: Callable[[Tenant], object], tenant: Tenant) -> None:
    try:
        with transaction.atomic():
            make(tenant)
    except IntegrityError:
        logger.info("a key was made by another worker", extra={"tenant": tenant.name})


def new_managed_key(tenant: Tenant) -> TenantKey:
    """A fresh active key, its private half wrapped. IntegrityError while another one is active."""
    pair = generate_tenant_key()
    wrapped = _wrap(pair.private, purpose=TENANT_KEY_PURPOSE, owner=tenant.pk)
    return TenantKey.objects.create(tenant=tenant, public_key=pair.public, wrapped_private_key=wrapped)


def _new_catalogue_key(tenant: Tenant) -> CatalogueKey:
    key = generate_writer_key()
    wrapped = _wrap(key.private, purpose=CATALOGUE_KEY_PURPOSE, owner=tenant.pk)
    return CatalogueKey.objects.create(tenant=tenant, public_key=key.public, wrapped_private_key=wrapped)


def private_key_of(key: TenantKey) -> bytes:
    """The private half of a managed key.

    Raises CustomerKeyNeededError for a customer's key, ConfigurationError when the row was altered.
    """
    if key.wrapped_private_key is None:
        raise CustomerKeyNeededError("The private half of this key is with the customer alone.")
    private = _unwrap(key.wrapped_private_key, purpose=TENANT_KEY_PURPOSE, owner=key.tenant_id)
    if tenant_key_from_private(private).public != bytes(key.public_key):
        raise ConfigurationError(f"The two halves of the tenant key {key.pk} do not belong together.")
    return private


def catalogue_key_of(tenant_id: UUID) -> WriterKey:
    """The tenant's signing key for descriptions. Raises ConfigurationError when the row was altered."""
    row = CatalogueKey.objects.get(tenant_id=tenant_id)
    key = writer_key_from_private(_unwrap(row.wrapped_private_key, purpose=CATALOGUE_KEY_PURPOSE, owner=tenant_id))
    if key.public != bytes(row.public_key):
        raise ConfigurationError(f"The two halves of the catalogue key of {tenant_id} do not belong together.")
    return key


def domain_keys_of(domain: Domain) -> DomainKeys:
    """What a writing host of the domain knows as well."""
    return DomainKeys(
        id_key=_unwrap(domain.wrapped_id_key, purpose=ID_KEY_PURPOSE, owner=domain.pk),
        map_key=_unwrap(domain.wrapped_map_key, purpose=MAP_KEY_PURPOSE, owner=domain.pk),
    )


def managed_private_keys(tenant_id: UUID) -> dict[str, bytes]:
    """Fingerprint -> private half of every managed key of the tenant that is still kept, the active one first."""
    keys = TenantKey.objects.filter(tenant_id=tenant_id, mode=Mode.MANAGED)
    ordered = sorted(keys, key=lambda key: (key.status != Status.ACTIVE, key.created_at))
    return {fingerprint(key): private_key_of(key) for key in ordered}


def _wrap(key: bytes, *, purpose: str, owner: UUID) -> bytes:
    return wrap_key(master_key=settings.CONFIG.master_key_bytes, key=key, purpose=purpose, owner=owner)


def _unwrap(wrapped: bytes, *, purpose: str, owner: UUID) -> bytes:
    return unwrap_key(master_key=settings.CONFIG.master_key_bytes, wrapped=wrapped, purpose=purpose, owner=owner)


# --- envelopes of a commit --------------------------------------------------------------------------------------------


def check_envelope(
    data: bytes, *, tenant: str, domain: str, session: bytes, commitment: bytes, opened_at: datetime | None = None
) -> bytes:
    """The recipient's fingerprint [32], if this envelope really opens what the session wrote.

    `session` and `commitment` are the manifest's. The recipient is the active key, or a managed one that was retired
    and is still kept; a customer's earlier key counts only when it was replaced after `opened_at`, the time when the
    writer's session was opened. A managed key's envelope is opened; of a customer's only the clear part can be seen.
    Raises EnvelopeRefusedError.
    """
    info = _parsed(data)
    if (info.tenant, info.domain) != (tenant, domain):
        raise EnvelopeRefusedError("A key envelope is of another tenant or server.")
    if (info.session_id, info.commitment) != (session, commitment):
        raise EnvelopeRefusedError("A key envelope is not of the session that the manifest names.")
    row = Domain.objects.get(pk=domain, tenant_id=tenant)
    _refuse_second(row, info.session_id, sha256=hashlib.sha256(data).hexdigest())
    key = _recipient_key(row.tenant_id, info.recipient.hex(), opened_at=opened_at)
    if key.mode == Mode.MANAGED:
        _check_opens(data, row, key)
    return info.recipient


def _parsed(data: bytes) -> EnvelopeInfo:
    try:
        return parse_envelope(data)
    except EngineError as error:
        raise EnvelopeRefusedError(f"A key envelope cannot be read: {error.message}.") from error


def _recipient_key(tenant_id: UUID, recipient: str, *, opened_at: datetime | None) -> TenantKey:
    for key in TenantKey.objects.filter(tenant_id=tenant_id).exclude(status=Status.UNTESTED):
        if fingerprint(key) != recipient:
            continue
        if key.status == Status.ACTIVE or key.mode == Mode.MANAGED:
            return key
        if opened_at is not None and key.changed_at >= opened_at:
            return key
    raise EnvelopeRefusedError("A key envelope was made for a key that the tenant does not use.")


def _check_opens(data: bytes, domain: Domain, key: TenantKey) -> None:
    try:
        opened = open_envelope(data, domain, private_key_of(key))
    except EngineError as error:
        raise EnvelopeRefusedError(f"A key envelope does not open: {error.message}.") from error
    if opened.domain != domain_keys_of(domain):
        raise EnvelopeRefusedError("A key envelope holds other keys than the server's.")


def _refuse_second(domain: Domain, writer_session: bytes, *, sha256: str) -> None:
    """A second envelope for a session, from whoever learned its number, could take the place of the first."""
    same = Envelope.objects.filter(stored_object__domain=domain, writer_session=writer_session.hex())
    if same.exclude(stored_object__sha256=sha256).exists():
        raise EnvelopeRefusedError("A key envelope names a session that is there already.")


def record_envelope(stored_object: StoredObject, *, writer_session: bytes, recipient: bytes) -> None:
    """Write down whose key the object holds, in the transaction of its commit. May run twice.

    Raises EnvelopeRefusedError when the session was recorded meanwhile; then the transaction must not go on.
    """
    domain = Domain.objects.select_for_update().get(pk=stored_object.domain_id)
    _refuse_second(domain, writer_session, sha256=stored_object.sha256)
    values = {"writer_session": writer_session.hex(), "recipient": recipient.hex()}
    Envelope.objects.get_or_create(stored_object=stored_object, defaults=values)


def companion_envelopes(rows: Iterable[StoredObject]) -> list[StoredObject]:
    """The envelopes that a rotation made of the key objects among `rows`, for the key in use.

    A manifest that needs the one needs the other too, so that locks and removal treat them alike.
    """
    known = [row.pk for row in rows]
    given = Envelope.objects.filter(stored_object__in=known).select_related("stored_object__domain")
    by_domain: dict[Domain, set[str]] = {}
    for envelope in given:
        by_domain.setdefault(envelope.stored_object.domain, set()).add(envelope.writer_session)
    found: list[StoredObject] = []
    for domain, sessions in by_domain.items():
        recipient = fingerprint(active_key(domain.tenant_id))
        for envelopes in readable_envelopes(domain, sessions, recipients=[recipient]).values():
            found += [envelope.stored_object for envelope in envelopes if envelope.pk not in known]
    return found


# --- keys of a restore ------------------------------------------------------------------------------------------------


def session_data_keys(
    domain: Domain, writer_sessions: Collection[str], *, credential: Credential = Credential.SIGNER
) -> dict[str, bytes]:
    """Session id (hexadecimal) -> data key, read from the vault with the calling process's credential.

    Raises CustomerKeyNeededError when a session is sealed to the customer's key alone, ConflictError when its envelope
    is missing or does not open, UnavailableError for store trouble.
    """
    private_keys = managed_private_keys(domain.tenant_id)
    candidates = readable_envelopes(domain, writer_sessions, recipients=private_keys)
    if set(writer_sessions) - set(candidates):
        record_missing(domain, credential=credential)
        candidates = readable_envelopes(domain, writer_sessions, recipients=private_keys)
    missing = set(writer_sessions) - set(candidates)
    if missing:
        raise _refusal(domain, missing)
    with ThreadPoolExecutor(_PARALLEL_READS, thread_name_prefix="keys") as pool:
        opened = pool.map(lambda found: open_first(domain, found, private_keys, credential), candidates.values())
        return {session: keys.session.data_key for session, keys in zip(candidates, opened, strict=True)}


def sessions_of(manifest: StoredObject) -> set[str]:
    """The writer sessions whose data keys the backup of this manifest needs."""
    needed = Envelope.objects.filter(stored_object__used_by__manifest=manifest)
    return set(needed.values_list("writer_session", flat=True))


def restore_needs_customer_key(manifest: StoredObject) -> bool:
    """Whether the service cannot open the backup of this manifest: a session of it is sealed to the customer alone."""
    tenant_id = manifest.domain.tenant_id
    if not TenantKey.objects.filter(tenant_id=tenant_id, mode=Mode.CUSTOMER).exists():
        return False
    managed = TenantKey.objects.filter(tenant_id=tenant_id, mode=Mode.MANAGED)
    needed = sessions_of(manifest)
    opened = readable_envelopes(manifest.domain, needed, recipients=[fingerprint(key) for key in managed])
    return bool(needed - set(opened))


def opens_with_key_in_use(manifest: StoredObject) -> bool:
    """Whether one recovery key, that of the key in use, is enough for the backup of this manifest.

    A session that is sealed to a managed key that is still kept counts: a rotation makes an envelope of it for the key
    in use. One that is sealed to an earlier key of the customer's does not: nobody here could.
    """
    domain = manifest.domain
    kept = TenantKey.objects.filter(tenant_id=domain.tenant_id, mode=Mode.MANAGED)
    recipients = {fingerprint(active_key(domain.tenant_id)), *(fingerprint(key) for key in kept)}
    needed = sessions_of(manifest)
    return not needed - set(readable_envelopes(domain, needed, recipients=sorted(recipients)))


def customer_key_since(tenant_id: UUID) -> datetime | None:
    """When the key in use was last changed, if it is or replaced a customer's own. What was sealed before may need
    another key. None: every key there was is kept here."""
    if not TenantKey.objects.filter(tenant_id=tenant_id, mode=Mode.CUSTOMER).exclude(status=Status.UNTESTED).exists():
        return None
    return active_key(tenant_id).changed_at


def _refusal(domain: Domain, sessions: Collection[str]) -> ConflictError:
    customer = TenantKey.objects.filter(tenant_id=domain.tenant_id, mode=Mode.CUSTOMER)
    theirs = readable_envelopes(domain, sessions, recipients=[fingerprint(key) for key in customer])
    if set(sessions) <= set(theirs):
        return CustomerKeyNeededError(
            "This backup opens with the customer's own key only. Restore it with the stand-alone tool "
            "(backupsite-restore) and the recovery key."
        )
    return ConflictError(
        f"The key envelopes of {len(set(sessions) - set(theirs))} sessions are not in the vault, or were sealed to a "
        "key that is not kept any more. Restore with the stand-alone tool and an earlier recovery key.",
        code="envelope_missing",
    )
