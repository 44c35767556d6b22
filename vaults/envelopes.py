"""Key envelopes in the ledger and in the vault: finding a session's, reading and opening them.

Opening runs only in the signer and the control worker; each reads with its own credential.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

from common.errors import BackupsiteError, ConflictError
from engine.envelope import UnwrappedKeys, parse_envelope, unwrap_envelope
from engine.errors import EngineError
from engine.store.base import ObjectKind
from vaults.models import Domain, Envelope, StoredObject
from vaults.storage import Credential, read_object

logger = logging.getLogger(__name__)

# A condemned object is still whole, and comes back when it is needed.
READABLE = (StoredObject.Status.STORED, StoredObject.Status.CONDEMNED)
_SESSIONS_PER_STATEMENT = 500


def readable_envelopes(
    domain: Domain, writer_sessions: Iterable[str], *, recipients: Collection[str]
) -> dict[str, list[Envelope]]:
    """Session -> its envelopes for one of the recipients that are in the vault, in the order of the recipients."""
    rank = {recipient: place for place, recipient in enumerate(recipients)}
    wanted = sorted(set(writer_sessions))
    found: dict[str, list[Envelope]] = {}
    for start in range(0, len(wanted), _SESSIONS_PER_STATEMENT):
        rows = Envelope.objects.filter(
            stored_object__domain=domain,
            stored_object__status__in=READABLE,
            writer_session__in=wanted[start : start + _SESSIONS_PER_STATEMENT],
            recipient__in=list(rank),
        )
        for envelope in rows.select_related("stored_object__vault__endpoint"):
            found.setdefault(envelope.writer_session, []).append(envelope)
    for envelopes in found.values():
        envelopes.sort(key=lambda envelope: (rank[envelope.recipient], envelope.pk))
    return found


def open_first(
    domain: Domain, envelopes: Collection[Envelope], private_keys: Mapping[str, bytes], credential: Credential
) -> UnwrappedKeys:
    """The keys in the first of a session's envelopes that is whole. Asks no database, so threads may call it.

    `private_keys` go by the recipient's fingerprint. Raises what was wrong with the last one: ConflictError,
    or UnavailableError for store trouble.
    """
    error: BackupsiteError = ConflictError("The session has no key envelope.", code="envelope_missing")
    for envelope in envelopes:
        try:
            return _opened(domain, envelope, private_keys[envelope.recipient], credential)
        except BackupsiteError as refused:
            error = refused
    raise error


def _opened(domain: Domain, envelope: Envelope, private_key: bytes, credential: Credential) -> UnwrappedKeys:
    row = envelope.stored_object
    data = read_object(row.vault, key=row.key, version_id=row.version_id, credential=credential)
    try:
        opened = open_envelope(data, domain, private_key)
    except EngineError as error:
        raise ConflictError(
            f"The key envelope {row.key} does not open: {error.message}.", code="envelope_bad"
        ) from error
    if opened.session.session_id.hex() != envelope.writer_session:
        raise ConflictError(f"The key envelope {row.key} is of another session.", code="envelope_bad")
    return opened


def open_envelope(data: bytes, domain: Domain, private_key: bytes) -> UnwrappedKeys:
    """Raises EngineError unless it is this domain's, made for this key, and whole."""
    tenant, name = str(domain.tenant_id), str(domain.pk)
    return unwrap_envelope(data, tenant_private_key=private_key, tenant=tenant, domain=name)


def record_missing(domain: Domain, *, credential: Credential) -> None:
    """Read and write down envelopes of good backups that the ledger has no entry for, as it is with old data."""
    unknown = StoredObject.objects.filter(
        domain=domain, kind=ObjectKind.KEY, status__in=READABLE, envelope=None, used_by__isnull=False
    )
    for row in unknown.select_related("vault__endpoint").distinct():
        data = read_object(row.vault, key=row.key, version_id=row.version_id, credential=credential)
        try:
            info = parse_envelope(data)
        except EngineError as error:
            logger.error("a key envelope cannot be read", extra={"key": row.key, "reason": error.message})
            continue
        if (info.tenant, info.domain) == (str(domain.tenant_id), str(domain.pk)):
            values = {"writer_session": info.session_id.hex(), "recipient": info.recipient.hex()}
            Envelope.objects.get_or_create(stored_object=row, defaults=values)
