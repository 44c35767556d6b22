"""Asking somebody to join a tenant: a link that works once, for a few days.

Whoever accepts gets the roles, if the inviter could still give them. An address that has an account already accepts by
signing in, another one by choosing a password; the inviter sees no difference before that.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.urls import reverse

from agents.models import Server
from agents.people import HeldRole, grant_role, refuse_stranger
from common.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from common.ids import hash_token, new_secret_token
from tenants.audit import record
from tenants.models import Invitation, Person, Tenant
from tenants.roles import Role
from tenants.services import require_active
from tenants.sign_in.single_sign_on import mark_proven

LINK_LIFETIME = timedelta(days=3)
_NO_SUCH = "This link is not valid, or no longer. Ask for a new one."


@transaction.atomic
def invite(
    *, email: str, tenant: Tenant, administers: bool, servers: Collection[Server], actor: Person, now: datetime
) -> tuple[Invitation, str]:
    """Ask the owner of the address to join, with these roles. Returns the token of the link; it is not kept.

    A new invitation takes the place of an open one to the same address. Raises InvalidInputError for a bad address, no
    role at all, or a server of another tenant.
    """
    refuse_stranger(actor=actor, tenant=tenant)
    require_active(tenant)
    address = _checked_address(email)
    if not administers and not servers:
        raise InvalidInputError("Name a role: administrator of the tenant, or owner of servers.", field="role")
    if any(server.tenant_id != tenant.pk for server in servers):
        raise InvalidInputError("The servers must be of the tenant.", field="servers")
    Invitation.objects.filter(tenant=tenant, email=address, used_at=None).delete()
    token = new_secret_token()
    made = Invitation.objects.create(
        tenant=tenant,
        email=address,
        administers=administers,
        server_ids=sorted(str(server.pk) for server in servers),
        token_hash=hash_token(token),
        expires_at=now + LINK_LIFETIME,
        invited_by=actor,
    )
    shown = {"email": address, "administers": administers, "servers": made.server_ids}
    record(action="person.invite", subject=made, actor=actor, after=shown)
    return made, token


def invitation_link(token: str) -> str:
    """What the invited person opens. It is a secret: it goes to him alone, and into no log."""
    return str(settings.CONFIG.portal_url).rstrip("/") + reverse("invitation", args=[token])


@transaction.atomic
def withdraw_invitation(*, invitation: Invitation, actor: Person) -> None:
    """The link works no longer. An accepted one stays as it is: ConflictError."""
    taken, _ = Invitation.objects.filter(pk=invitation.pk, used_at=None).delete()
    if not taken:
        raise ConflictError("The invitation was accepted already.", code="invitation_used")
    record(action="person.invite_withdraw", subject=invitation, actor=actor, before={"email": invitation.email})


def open_invitation(token: str, *, now: datetime) -> Invitation:
    """The invitation of the link. Unknown, used, expired, withdrawn: one answer, NotFoundError."""
    found = Invitation.objects.open(now).select_related("tenant", "invited_by").filter(token_hash=hash_token(token))
    invitation = found.first()
    if invitation is None or not _still_meant(invitation):
        raise NotFoundError(_NO_SUCH)
    return invitation


def account_of(invitation: Invitation) -> Person | None:
    """The person who has the address already; he accepts by signing in."""
    address = invitation.email
    return Person.objects.filter(Q(email__iexact=address) | Q(username__iexact=address)).order_by("date_joined").first()


@transaction.atomic
def accept_invitation(
    token: str, *, now: datetime, signed_in: Person | None = None, password: str = "", time_zone: str = "UTC"
) -> Person:
    """Give the roles to the person of the address, and make his account unless he has one. Works once.

    Raises NotFoundError for a link that is not valid, NotAllowedError when somebody else is signed in,
    InvalidInputError for a weak password.
    """
    invitation = open_invitation(token, now=now)
    taken = Invitation.objects.filter(pk=invitation.pk, used_at=None).update(used_at=now)
    if not taken or invitation.invited_by is None:
        raise NotFoundError(_NO_SUCH)
    person = account_of(invitation)
    if person is None:
        person = _new_account(invitation, password=password, time_zone=time_zone)
    elif signed_in is None or signed_in.pk != person.pk or not person.is_active:
        raise NotAllowedError("Sign in with the account of the address that was invited.")
    for held in _roles(invitation):
        grant_role(person=person, held=held, actor=invitation.invited_by)
    if person.email.lower() == invitation.email.lower():
        mark_proven(person)
    record(action="person.join", subject=person, actor=person, tenant=invitation.tenant)
    return person


def _still_meant(invitation: Invitation) -> bool:
    """Whether the inviter could still give what he promised."""
    inviter, tenant = invitation.invited_by, invitation.tenant
    if inviter is None or not inviter.is_active or tenant.status in {Tenant.Status.DELETING, Tenant.Status.DELETED}:
        return False
    return bool(inviter.is_superuser or inviter.administered_tenants().filter(pk=tenant.pk).exists())


def _roles(invitation: Invitation) -> list[HeldRole]:
    found = [HeldRole(Role.DC_ADMIN, invitation.tenant)] if invitation.administers else []
    servers = Server.objects.filter(pk__in=invitation.server_ids, tenant=invitation.tenant)
    return found + [HeldRole(Role.VM_OWNER, invitation.tenant, server) for server in servers.select_related("tenant")]


def _new_account(invitation: Invitation, *, password: str, time_zone: str) -> Person:
    person = Person(username=invitation.email, email=invitation.email, time_zone=time_zone)
    try:
        validate_password(password, person)
    except ValidationError as error:
        raise InvalidInputError(" ".join(error.messages), code="weak_password", field="password") from error
    person.set_password(password)
    try:
        with transaction.atomic():
            person.save(force_insert=True)
    except IntegrityError as error:
        raise NotFoundError(_NO_SUCH) from error
    record(action="person.create", subject=person, actor=person, tenant=invitation.tenant)
    return person


def _checked_address(email: str) -> str:
    address = email.strip().lower()
    try:
        validate_email(address)
    except ValidationError as error:
        raise InvalidInputError("This is no e-mail address.", field="email") from error
    if len(address) > 150:
        raise InvalidInputError("The address is too long.", field="email")
    return address
