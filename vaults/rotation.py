"""Changing the tenant's key: the new one at once for new sessions, earlier sessions re-wrapped to it after that.

The state is the rows alone: what a manifest needs and has no envelope for the active key is still to do. So a round may
be killed anywhere, run twice, or find sessions that were open during the change. What is written goes through
`own_objects`. The retired key goes when nothing needs it any more. Runs in the control worker; the change itself in
the signer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from celery import current_app
from django.db import transaction
from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from kombu.exceptions import OperationalError

from common.errors import BackupsiteError, ConflictError, UnavailableError
from engine.envelope import seal_envelope
from engine.hashing import sha256_hex
from engine.store.base import ObjectKind, object_key
from tenants.audit import record
from tenants.models import Person, Tenant
from vaults.alarms import clear_alarm, raise_alarm
from vaults.catalogue_seam import catalogue
from vaults.custody import active_key, fingerprint, managed_private_keys, new_managed_key
from vaults.envelopes import READABLE, open_first, readable_envelopes, record_missing
from vaults.key_modes import NO_WAY_BACK
from vaults.locks import LONGEST_SESSION
from vaults.models import Alarm, Domain, Envelope, ObjectUse, StoredObject, TenantKey
from vaults.own_objects import lengthen_lock, store_own_object
from vaults.storage import Credential, store_time

logger = logging.getLogger(__name__)

# A session that was opened before the change may commit this long after it, sealed to the retired key.
RETIRED_KEPT = 2 * LONGEST_SESSION
REWRAP_ALARM = "keys_not_rewrapped"
_GONE = (StoredObject.Status.DELETING, StoredObject.Status.DELETED)
Mode, Status = TenantKey.Mode, TenantKey.Status


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did: sessions that have an envelope for the active key now, and those that could not get one."""

    rewrapped: int = 0
    failed: int = 0
    dropped_keys: int = 0


@dataclass(frozen=True, slots=True)
class Rewrapping:
    """Of the sessions that a tenant's backups need: how many there are, and how many the active key does not open.

    `left` are those that the service can seal to it, `closed` those that no key of the service opens: nothing changes
    about these. `has_failed`: some could not be sealed; an alarm says so, and each round tries again.
    """

    total: int
    left: int
    closed: int
    since: datetime
    has_failed: bool

    @property
    def done(self) -> int:
        return self.total - self.left - self.closed

    @property
    def percent(self) -> int | None:
        """Of what the service can seal; None where nothing gets on."""
        return self.done * 100 // (self.done + self.left) if self.left and not self.has_failed else None


@transaction.atomic
def rotate_managed_key(tenant: Tenant, *, replaced: UUID, actor: Person, now: datetime) -> TenantKey:
    """A fresh managed key in place of the active one, for every session that is opened from now on.

    `replaced` is the key that the person saw: asked twice, it is done once. Raises ConflictError when another key is
    active, or the customer's own.
    """
    current = TenantKey.objects.select_for_update().filter(tenant=tenant, status=Status.ACTIVE).first()
    if current is None or current.pk != replaced:
        raise ConflictError("Another key has been put into use meanwhile. Look at the page again.", code="key_replaced")
    if current.mode == Mode.CUSTOMER:
        raise ConflictError(f"The tenant keeps its key itself. {NO_WAY_BACK}", code="customer_key")
    retire(current, now=now)
    key = new_managed_key(tenant)
    record(action="key.rotate", subject=key, actor=actor, before={"key": current.pk}, after={"key": key.pk})
    logger.info("tenant key rotated", extra={"tenant": tenant.name, "actor": str(actor), "key": str(key.pk)})
    return key


def retire(key: TenantKey, *, now: datetime) -> None:
    """active -> retired, in the transaction that puts another one into use; `changed_at` says when.

    After the transaction the control worker is told; should that get lost, its next round finds the work.
    """
    transaction.on_commit(lambda: _hint_rewrap(key.tenant_id))
    TenantKey.objects.filter(pk=key.pk, status=Status.ACTIVE).update(
        status=Status.RETIRED, changed_at=now, test_digest=""
    )


def _hint_rewrap(tenant_id: UUID) -> None:
    try:
        current_app.send_task(
            "vaults.tasks.rewrap_keys", kwargs={"tenant_id": str(tenant_id)}, queue="system", retry=False
        )
    except (OperationalError, OSError):
        logger.warning("broker does not answer; keys are re-wrapped by the next round")


def rewrap_everywhere(*, now: datetime) -> None:
    """A round for every tenant that has replaced a key."""
    retired = TenantKey.objects.filter(status=Status.RETIRED).values_list("tenant_id", flat=True)
    for tenant_id in sorted(set(retired)):
        rewrap(tenant_id, now=now)


def rewrap(tenant_id: UUID, *, now: datetime) -> Round:
    """Seal what the tenant's backups need to its active key, then drop the managed keys that nothing needs any more.

    A vault that is away is passed over until the next round. `now` is this server's clock; locks go by the store's.
    """
    rewrapped = failed = 0
    for domain in Domain.objects.filter(tenant_id=tenant_id).select_related("vault__endpoint", "tenant"):
        try:
            for done in _rewrap_domain(domain):
                rewrapped, failed = rewrapped + done, failed + (not done)
        except UnavailableError as error:
            logger.warning(
                "re-wrapping waits for the vault", extra={"vault": domain.vault.name, "reason": error.message}
            )
            continue
        _tell(domain, failed=failed, now=now)
    return Round(rewrapped, failed, _drop_unneeded(tenant_id, now=now))


def _tell(domain: Domain, *, failed: int, now: datetime) -> None:
    if not failed:
        clear_alarm(domain.vault, code=REWRAP_ALARM, now=now)
        return
    message = f"{failed} sessions could not be sealed to the tenant's new key; the earlier key is kept for them."
    raise_alarm(domain.vault, code=REWRAP_ALARM, message=message, now=now)


def sessions_left(tenant_id: UUID) -> int:
    """How many sessions of the tenant's backups have no envelope for the active key."""
    pending = _pending_uses(tenant_id, fingerprint(active_key(tenant_id)))
    return pending.values("needed__envelope__writer_session").distinct().count()


def rewrapping_of(tenant_id: UUID) -> Rewrapping | None:
    """For people; None when the active key opens all, or when no other one is kept.

    One statement over the envelopes that are used: who needs each of them, as removal of keys goes by, is very much
    more to read. So a manifest that a round has still to tell of an envelope is not waited for here.
    """
    keys = TenantKey.objects.filter(tenant_id=tenant_id).order_by("-changed_at")
    retired = [key for key in keys if key.status == Status.RETIRED]
    if not retired:
        return None
    opens_it = Q(recipient=fingerprint(active_key(tenant_id)), stored_object__damaged_since=None)
    of_service = Q(recipient__in=[fingerprint(key) for key in keys if key.mode == Mode.MANAGED])
    is_there = Q(stored_object__status__in=READABLE)
    used = ObjectUse.objects.filter(needed=OuterRef("pk")).exclude(manifest__status__in=_GONE)
    sessions = (
        Envelope.objects.filter(Exists(used), stored_object__domain__tenant_id=tenant_id)
        .values("writer_session")
        .annotate(opening=Count("pk", filter=opens_it & is_there), serving=Count("pk", filter=of_service & is_there))
    )
    found = sessions.aggregate(
        total=Count("writer_session"),
        left=Count("writer_session", filter=Q(opening=0, serving__gt=0)),
        closed=Count("writer_session", filter=Q(opening=0, serving=0)),
    )
    if not found["left"] and not found["closed"]:
        return None
    alarms = Alarm.objects.standing().filter(vault__in=_vaults_of(tenant_id), code=REWRAP_ALARM)
    return Rewrapping(**found, since=retired[0].changed_at, has_failed=alarms.exists())


def _vaults_of(tenant_id: UUID) -> Any:
    """Their keys, also of vaults of others in which something of the tenant lies."""
    return Domain.objects.filter(tenant_id=tenant_id).values("vault_id")


def _pending_uses(tenant_id: UUID, recipient: str) -> QuerySet[ObjectUse]:
    """Needs of an envelope for another key by a manifest that does not need one of the same session for this key.

    One that is damaged or gone does not count: the earlier envelope, and the key that opens it, are still needed.
    """
    has_it = ObjectUse.objects.filter(
        manifest=OuterRef("manifest"),
        needed__envelope__writer_session=OuterRef("needed__envelope__writer_session"),
        needed__envelope__recipient=recipient,
        needed__status__in=READABLE,
        needed__damaged_since=None,
    )
    uses = ObjectUse.objects.filter(needed__domain__tenant_id=tenant_id, needed__envelope__isnull=False)
    others = uses.exclude(needed__envelope__recipient=recipient).exclude(manifest__status__in=_GONE)
    return others.exclude(Exists(has_it))


def _rewrap_domain(domain: Domain) -> Iterator[bool]:
    """One by one whether a session has its envelope now. Raises UnavailableError."""
    record_missing(domain, credential=Credential.KEEPER)
    key = active_key(domain.tenant_id)
    pending = _pending_uses(domain.tenant_id, fingerprint(key)).filter(needed__domain=domain)
    sessions = sorted(set(pending.values_list("needed__envelope__writer_session", flat=True)))
    if not sessions:
        return
    private_keys = managed_private_keys(domain.tenant_id)
    store_now = store_time(domain.vault, Credential.KEEPER)
    openable = readable_envelopes(domain, sessions, recipients=private_keys)
    present = _undamaged(readable_envelopes(domain, sessions, recipients=[fingerprint(key)]))
    for session in sessions:
        if session not in openable and session not in present:
            continue  # sealed to an earlier key of the customer: only he can open it
        try:
            rows = present.get(session)
            row = rows[0].stored_object if rows else _seal(domain, key, openable[session], private_keys, store_now)
            _use_like_the_others(row, session)
            yield True
        except UnavailableError:
            raise
        except BackupsiteError as error:
            logger.error("a session was not re-wrapped", extra={"session": session, "reason": error.message})
            yield False


def _undamaged(found: dict[str, list[Envelope]]) -> dict[str, list[Envelope]]:
    """A damaged envelope gets another one beside it, as long as an earlier one opens."""
    whole = {
        session: [envelope for envelope in envelopes if envelope.stored_object.damaged_since is None]
        for session, envelopes in found.items()
    }
    return {session: envelopes for session, envelopes in whole.items() if envelopes}


def _seal(
    domain: Domain, key: TenantKey, envelopes: list[Envelope], private_keys: dict[str, bytes], now: datetime
) -> StoredObject:
    """A new envelope object for the active key, locked at least as long as what it stands beside."""
    opened = open_first(domain, envelopes, private_keys, Credential.KEEPER)
    tenant, name = str(domain.tenant_id), str(domain.pk)
    data = seal_envelope(
        session=opened.session,
        domain_keys=opened.domain,
        tenant=tenant,
        domain=name,
        tenant_public_key=bytes(key.public_key),
    )
    place = object_key(tenant=tenant, domain=name, kind=ObjectKind.KEY, sha256=sha256_hex(data))
    longest = max(envelope.stored_object.retain_until for envelope in envelopes)
    until = max(longest, domain.vault.lock_rule.lock_until(now))
    row = store_own_object(domain, kind=ObjectKind.KEY, key=place, data=data, retain_until=until, now=now)
    values = {"writer_session": opened.session.session_id.hex(), "recipient": fingerprint(key)}
    Envelope.objects.get_or_create(stored_object=row, defaults=values)
    return row


def _use_like_the_others(row: StoredObject, writer_session: str) -> None:
    """Every manifest that needs an envelope of the session needs this one too; its lock is as long as theirs."""
    others = StoredObject.objects.filter(
        domain_id=row.domain_id, envelope__writer_session=writer_session, used_by__isnull=False
    )
    longest = max(others.values_list("retain_until", flat=True), default=row.retain_until)
    lengthen_lock(row, longest)
    with transaction.atomic():
        uses = ObjectUse.objects.filter(
            needed__domain_id=row.domain_id, needed__envelope__writer_session=writer_session
        ).exclude(manifest__status__in=_GONE)
        catalogue().add_uses(row.pk, set(uses.values_list("manifest_id", flat=True)))


def _drop_unneeded(tenant_id: UUID, *, now: datetime) -> int:
    """Delete retired managed keys that no backup needs and no open session can still be sealed to."""
    pending = _pending_uses(tenant_id, fingerprint(active_key(tenant_id)))
    needed = set(pending.values_list("needed__envelope__recipient", flat=True))
    dropped = 0
    retired = TenantKey.objects.filter(tenant_id=tenant_id, mode=Mode.MANAGED, status=Status.RETIRED)
    for key in retired.filter(changed_at__lte=now - RETIRED_KEPT):
        if fingerprint(key) in needed:
            continue
        with transaction.atomic():
            record(action="key.drop", subject=key)
            key.delete()
        dropped += 1
        logger.info("retired tenant key dropped", extra={"key": str(key.pk)})
    return dropped
