"""The recovery key: shown once, tested once; and the customer's own key, which is in use only after its test.

Showing needs the master key and so runs in the signer process. The test and the registration need only public halves.
"""

from __future__ import annotations

import base64
import logging
import os
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from common.errors import ConflictError, InvalidInputError
from engine.codec import KEY_SIZE
from engine.crypto import key_fingerprint
from engine.recovery import ChallengeError, RecoveryKey, encode_challenge, is_answer, make_challenge
from tenants import approvals
from tenants.approval_states import ApprovalKind
from tenants.audit import record
from tenants.models import Person, Tenant
from vaults.custody import fingerprint, private_key_of
from vaults.models import CatalogueKey, Domain, TenantKey
from vaults.rotation import retire

logger = logging.getLogger(__name__)

MOST_WRONG_ANSWERS = 5
Mode, Status = TenantKey.Mode, TenantKey.Status


# The keys of which `hint` says nothing.
NOTHING_TO_DO = Q(status=Status.RETIRED) | Q(status=Status.ACTIVE, tested_at__isnull=False) & ~Q(
    mode=Mode.MANAGED, shown_at=None
)


def hint(key: TenantKey) -> str:
    """What a person still has to do about the key; empty when nothing."""
    if key.status == Status.RETIRED:
        return ""
    if key.status == Status.UNTESTED:
        return "This key is not in use yet. Answer its test with the stand-alone tool."
    if key.mode == Mode.MANAGED and key.shown_at is None:
        return "The recovery key was not shown yet. Show it, print it and keep it apart from this service."
    if key.tested_at is None:
        return "The recovery key was not tested. Test it once, so that you know that what you printed works."
    return ""


@transaction.atomic
def show_recovery_key(key: TenantKey, *, actor: Person, now: datetime) -> str:
    """The text to print, once. Only for a managed key in use. The caller has checked the person's right to it.

    Raises ConflictError for a key that was shown already, is the customer's, or is not in use, ApprovalNeededError when
    a second person has to agree.
    """
    check_showable(key)
    _ask(ApprovalKind.KEY_EXPORT, key, actor=actor, now=now)
    recovery_key = RecoveryKey(private_key_of(key), key_fingerprint(bytes(_catalogue_key(key.tenant).public_key)))
    # First of all it counts as shown: whoever is faster, it is given out once.
    if not TenantKey.objects.filter(pk=key.pk, status=Status.ACTIVE, shown_at=None).update(shown_at=now):
        raise _shown_already()
    record(action="key.show", subject=key, actor=actor)
    logger.info("recovery key shown", extra={"tenant": key.tenant.name, "actor": str(actor), "key": str(key.pk)})
    return recovery_key.encode()


def _ask(kind: ApprovalKind, key: TenantKey, *, actor: Person, now: datetime) -> None:
    approvals.require(kind=kind, subject=key, actor=actor, parameters={"key": fingerprint(key)}, now=now)


def check_showable(key: TenantKey) -> None:
    """Raise what `show_recovery_key` would: the portal asks before it calls the signer."""
    if key.mode == Mode.CUSTOMER:
        raise ConflictError("The service never had this key: the customer made it.", code="customer_key")
    if key.status != Status.ACTIVE:
        raise ConflictError("This key was replaced. Show the one in use.", code="key_replaced")
    if key.shown_at is not None:
        raise _shown_already()


def _shown_already() -> ConflictError:
    return ConflictError(
        "The recovery key was shown already, and is shown only once. If it was not kept or was seen by somebody else, "
        "replace the key: the new one can be shown once.",
        code="already_shown",
    )


def catalogue_fingerprint(tenant: Tenant) -> str:
    """SHA-256 of the tenant's catalogue key in hexadecimal; empty while its keys are still being made."""
    row = getattr(tenant, "catalogue_key", None)
    return key_fingerprint(bytes(row.public_key)).hex() if row is not None else ""


def _catalogue_key(tenant: Tenant) -> CatalogueKey:
    row = CatalogueKey.objects.filter(tenant=tenant).first()
    if row is None:
        raise ConflictError("The tenant's keys are still being made. Try again in a minute.", code="no_tenant_key")
    return row


# --- the test ---------------------------------------------------------------------------------------------------------


def start_test(key: TenantKey) -> str:
    """The challenge to give to the stand-alone tool. Starting again makes the one before worthless."""
    if key.status == Status.RETIRED:
        raise ConflictError("This key was replaced: there is nothing to test.", code="key_replaced")
    challenge, digest = _challenge(bytes(key.public_key))
    with transaction.atomic():
        TenantKey.objects.filter(pk=key.pk).update(test_digest=_pending(digest, wrong_answers=0))
        record(action="key.test_begin", subject=key)
    return encode_challenge(challenge)


def _challenge(public_key: bytes) -> tuple[bytes, bytes]:
    try:
        return make_challenge(public_key, os.urandom)
    except ChallengeError as error:
        raise InvalidInputError("This is not a public key of the stand-alone tool.", field="public_key") from error


def finish_test(key: TenantKey, *, answer: str, actor: Person, now: datetime) -> TenantKey:
    """Compare the answer; a right one marks the key as tested and puts a customer's key into use.

    Raises InvalidInputError for a wrong answer, ConflictError when no test is pending: after five wrong ones there is
    none, and a new challenge is needed.
    """
    with transaction.atomic():
        current = TenantKey.objects.select_for_update().get(pk=key.pk)
        digest, wrong_answers = _unpacked(current.test_digest)
        if current.status == Status.RETIRED or digest is None:
            raise ConflictError("No test is under way. Start it and answer the new challenge.", code="no_test")
        if is_answer(answer, digest):
            _pass(current, actor=actor, now=now)
            return current
        wrong_answers += 1
        over = wrong_answers >= MOST_WRONG_ANSWERS
        current.test_digest = "" if over else _pending(digest, wrong_answers=wrong_answers)
        current.save(update_fields=["test_digest", "changed_at"])
        record(action="key.test", subject=current, actor=actor, outcome="failed", after={"wrong": wrong_answers})
    logger.warning("recovery key test answered wrongly", extra={"key": str(key.pk), "actor": str(actor)})
    if over:
        raise ConflictError("That was the last try with this challenge. Start the test again.", code="no_test")
    raise InvalidInputError("That is not the answer to this challenge.", code="wrong_answer", field="answer")


def _pass(key: TenantKey, *, actor: Person, now: datetime) -> None:
    replaces = key.status == Status.UNTESTED
    if replaces:
        _ask(ApprovalKind.KEY_REPLACE, key, actor=actor, now=now)
        refuse_while_lent(key.tenant_id)
        for active in TenantKey.objects.select_for_update().filter(tenant_id=key.tenant_id, status=Status.ACTIVE):
            retire(active, now=now)
        key.status = Status.ACTIVE
    key.tested_at, key.test_digest = now, ""
    key.save(update_fields=["status", "tested_at", "test_digest", "changed_at"])
    record(action="key.put_into_use" if replaces else "key.test", subject=key, actor=actor, after={"mode": key.mode})
    logger.info("recovery key tested", extra={"key": str(key.pk), "actor": str(actor), "mode": key.mode})


def _pending(digest: bytes, *, wrong_answers: int) -> str:
    """Digest and number of wrong answers in one column; 46 characters."""
    return f"{wrong_answers}:{base64.b64encode(digest).decode()}"


def _unpacked(text: str) -> tuple[bytes | None, int]:
    wrong_answers, _, digest = text.partition(":")
    return (base64.b64decode(digest), int(wrong_answers)) if digest else (None, 0)


# --- the customer's own key -------------------------------------------------------------------------------------------


@transaction.atomic
def register_customer_key(tenant: Tenant, *, public_key: str, actor: Person) -> TenantKey:
    """Note the public half (hexadecimal) of a key that the customer made. It is used once its test is passed.

    One that waits for its test is replaced. Raises InvalidInputError for what is no key, ConflictError for a known one.
    """
    Tenant.objects.select_for_update().get(pk=tenant.pk)
    refuse_while_lent(tenant.pk)
    raw = _public_key(public_key)
    TenantKey.objects.filter(tenant=tenant, status=Status.UNTESTED).delete()
    if any(bytes(known.public_key) == raw for known in TenantKey.objects.filter(tenant=tenant)):
        raise ConflictError("The tenant has or had this key already. Make a new one.", code="key_known")
    key = TenantKey.objects.create(tenant=tenant, mode=Mode.CUSTOMER, status=Status.UNTESTED, public_key=raw)
    record(action="key.register", subject=key, actor=actor, after={"public_key": public_key.lower()})
    logger.info("customer key registered", extra={"tenant": tenant.name, "actor": str(actor), "key": str(key.pk)})
    return key


def refuse_while_lent(tenant_id: UUID) -> None:
    """A server that was moved away left its backups here, sealed to this tenant's key: the service still opens them.

    Raises ConflictError while there is such a domain.
    """
    if Domain.objects.filter(tenant_id=tenant_id).exclude(held_for=None).exists():
        raise ConflictError(
            "This vault still holds backups of a server that was moved to another tenant; only while the service keeps "
            "the key can they be restored. Wait until they are gone.",
            code="key_lent",
        )


def _public_key(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != KEY_SIZE:
        raise InvalidInputError(
            "A public key is 64 hexadecimal digits, as the stand-alone tool prints it.",
            code="bad_public_key",
            field="public_key",
        )
    _challenge(raw)
    return raw
