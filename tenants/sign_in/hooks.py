"""What must follow whichever way a sign-in or a second factor changed: audit, mail, a fresh look at the session."""

from __future__ import annotations

from typing import Any

from allauth.account.signals import authentication_step_completed
from allauth.mfa.models import Authenticator
from allauth.mfa.signals import authentication_failed, authenticator_reset, authenticator_used
from django.contrib.auth.signals import user_logged_in
from django.db.models.signals import post_delete, post_save
from django.utils import timezone

from tenants.audit import record
from tenants.models import Person
from tenants.origin import current_visit
from tenants.refusals import note_refusal
from tenants.sign_in import factors, guard, mails

_KINDS = {"totp": "an authenticator app", "webauthn": "a passkey", "recovery_codes": "recovery codes"}


def connect() -> None:
    """Called once when the app is ready."""
    user_logged_in.connect(_signed_in, dispatch_uid="sign_in.begin")
    post_save.connect(_factor_saved, sender=Authenticator, dispatch_uid="sign_in.factor_saved")
    post_delete.connect(_factor_deleted, sender=Authenticator, dispatch_uid="sign_in.factor_deleted")
    authenticator_used.connect(_factor_used, dispatch_uid="sign_in.factor_used")
    authenticator_reset.connect(_codes_made, dispatch_uid="sign_in.codes_made")
    authentication_failed.connect(_factor_failed, dispatch_uid="sign_in.factor_failed")
    authentication_step_completed.connect(_step_done, dispatch_uid="sign_in.step_done")


def _signed_in(sender: Any, request: Any, user: Person, **rest: Any) -> None:
    if request is not None and hasattr(request, "session"):
        guard.begin(request, user, now=timezone.now())


def _factor_saved(sender: Any, instance: Authenticator, created: bool, **rest: Any) -> None:
    """In the transaction of the change."""
    if created:
        record(action="mfa.add", subject=instance.user, actor=_self(instance), after={"kind": str(instance.type)})
        _changed(instance, "was added")


def _factor_deleted(sender: Any, instance: Authenticator, origin: Any = None, **rest: Any) -> None:
    if isinstance(origin, Person):
        return
    record(action="mfa.remove", subject=instance.user, before={"kind": str(instance.type)})
    if instance.type in factors.FACTORS:
        factors.note_lost_factor(instance.user, now=timezone.now())
    _changed(instance, "was removed")


def _changed(instance: Authenticator, what: str) -> None:
    visit = current_visit()
    if visit is not None:
        guard.look_again(visit.request)
    mails.tell(instance.user, f"{_KINDS.get(str(instance.type), 'A second factor').capitalize()}: {what}.")


def _self(instance: Authenticator) -> Person | None:
    visit = current_visit()
    person = getattr(visit.request, "user", None) if visit else None
    return instance.user if person is not None and person.pk == instance.user_id else None


def _factor_used(sender: Any, user: Person, authenticator: Authenticator, **rest: Any) -> None:
    if authenticator.type == Authenticator.Type.RECOVERY_CODES:
        record(action="mfa.recovery_code_used", subject=user, actor=user)
        mails.tell(user, "A recovery code was used in place of your second factor.")


def _codes_made(sender: Any, user: Person, **rest: Any) -> None:
    record(action="mfa.recovery_codes_made", subject=user, actor=user)


def _factor_failed(sender: Any, user: Person, authenticator: Authenticator, **rest: Any) -> None:
    facts = {"account": user.username, "route": f"mfa:{user.pk}", "kind": str(authenticator.type)}
    note_refusal(action="mfa.failed", facts=facts, subject=user, now=timezone.now())


def _step_done(sender: Any, user: Person, method: str, reauthenticated: bool = False, **rest: Any) -> None:
    if reauthenticated:
        record(action="sign_in.confirm", subject=user, actor=user, after={"method": method})
