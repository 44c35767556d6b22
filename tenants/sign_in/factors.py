"""Second factors: who has one, who must have one and from when on, and taking them from somebody who lost his."""

from __future__ import annotations

from datetime import datetime, timedelta

from allauth.mfa.models import Authenticator
from django.conf import settings
from django.db import transaction

from common.errors import ConflictError, NotAllowedError
from tenants import approvals
from tenants.approval_states import ApprovalKind
from tenants.audit import record
from tenants.models import ApiToken, FirstSignIn, Person, PortalSession
from tenants.sign_in import mails

REQUIRED, ADVISED = "required", "advised"
# What signs in; recovery codes come with them and are no factor by themselves.
FACTORS = (Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN)


def has_factor(person: Person) -> bool:
    return Authenticator.objects.filter(user=person, type__in=FACTORS).exists()


def needs_factor(person: Person) -> bool:
    """Whether the installation wants a second factor of the person: of every SuperAdmin and DCAdmin, or of nobody."""
    return settings.CONFIG.admin_mfa == REQUIRED and person.administers()


def note_first_sign_in(person: Person, *, now: datetime) -> None:
    FirstSignIn.objects.get_or_create(person=person, defaults={"at": now})


def grace_ends_at(person: Person, *, now: datetime) -> datetime:
    """Until when the person may do without."""
    first = FirstSignIn.objects.filter(person=person).first()
    return (first.at if first else now) + timedelta(days=settings.CONFIG.admin_mfa_grace_days)


def note_lost_factor(person: Person, *, now: datetime) -> None:
    """From now on the password alone sets up no other one."""
    FirstSignIn.objects.update_or_create(
        person=person, defaults={"factor_lost_at": now}, create_defaults={"at": now, "factor_lost_at": now}
    )


def is_past_password_alone(person: Person, *, now: datetime) -> bool:
    """Whether somebody without a factor needs more than his password to set one up: he had one, or is late with it."""
    if FirstSignIn.objects.filter(person=person, factor_lost_at__isnull=False).exists():
        return True
    return needs_factor(person) and now >= grace_ends_at(person, now=now)


def begin_anew(person: Person, *, now: datetime) -> None:
    """As if he signed in for the first time. Only for the command line: the password alone sets up a factor again."""
    FirstSignIn.objects.update_or_create(person=person, defaults={"at": now, "factor_lost_at": None})
    record(action="mfa.begin_anew", subject=person)


@transaction.atomic
def reset_factors(*, person: Person, actor: Person | None) -> int:
    """Take all second factors and recovery codes, and end the person's sessions. Returns how many factors there were.

    Only a SuperAdmin may, for others; None is the command line. Raises NotAllowedError, ConflictError for none, and
    ApprovalNeededError where a rule asks for a second person. He is told by mail, and sets up another one with a code.
    """
    if actor is not None and (not actor.is_superuser or not actor.is_active):
        raise NotAllowedError("Only a SuperAdmin takes second factors of others.")
    if actor is not None and actor.pk == person.pk:
        raise NotAllowedError("Change your own second factors on the page of your sign-in.")
    held = list(Authenticator.objects.select_for_update().filter(user=person))
    if not held:
        raise ConflictError(f"{person} has no second factor.", code="no_second_factor")
    approvals.require(kind=ApprovalKind.MFA_RESET, subject=person, actor=actor)
    kinds = sorted(str(factor.type) for factor in held)
    Authenticator.objects.filter(user=person).delete()
    end_sessions(person)
    record(action="mfa.reset", subject=person, actor=actor, before={"kinds": kinds})
    by = "by the operator" if actor is None else "by an administrator"
    transaction.on_commit(lambda: mails.tell(person, f"All your second factors were taken {by}, on your wish."))
    return sum(factor.type in FACTORS for factor in held)


def end_sessions(person: Person, *, but: str | None = None) -> int:
    """Sign the person out everywhere, but not where `but` (the key of a row) is. Returns how many sessions ended.

    A token that `es login` was given for a password is such a session; a key that the person made is not.
    """
    ended, _ = PortalSession.objects.filter(person=person).exclude(pk=but or "").delete()
    logins, _ = ApiToken.objects.filter(person=person, kind=ApiToken.Kind.LOGIN).delete()
    return ended + logins
