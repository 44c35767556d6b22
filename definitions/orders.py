"""Ordering a server with an agent: tenant, company, vault, account, policy, and the mail that delivers it.

What is there already is used. The same order twice is one order.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction

from agents.enrolment import LONGEST_MINUTES, install_line, make_token
from agents.invitations import LINK_LIFETIME, invitation_link, invite
from agents.models import Agent, Server, ServerOrder
from agents.services import add_server
from common.errors import ConflictError, InvalidInputError, NotAllowedError
from definitions.models import Policy
from definitions.policies import assign, create_policy, policy_for
from tenants.audit import record
from tenants.models import Invitation, Person, Tenant
from tenants.services import create_tenant
from tenants.sign_in.mails import send
from vaults.models import Affinity, Region, Vault
from vaults.services import endpoint_for

logger = logging.getLogger(__name__)

# The product's own policy, for regions that have none: everything as a new policy has it, and at night.
USUAL_POLICIES = {"agent-america": "America/New_York", "agent-europe": "Europe/Paris"}
_AMERICA_AND_ASIA = frozenset({"BHS", "TOR", "SGP", "MUM", "SYD"})


@dataclass(frozen=True, slots=True)
class Ordered:
    """`is_new`: False for an order that was there already; then nothing was done. `vault`: where its backups go; None
    once affinity names a region where the tenant has none, and nothing was backed up before.
    """

    order: ServerOrder
    vault: Vault | None
    policy: Policy | None
    is_new: bool

    @property
    def server(self) -> Server:
        server: Server = self.order.server
        return server


def order_server(*, tenant: str, email: str, name: str, region: str, actor: Person, now: datetime) -> Ordered:
    """Make, or use, all that the server needs, and mail its owner. `tenant` is a tenant's name, or the title of one.

    Raises NotAllowedError unless the actor is a SuperAdmin; InvalidInputError for an address, name or region that
    cannot be, also where affinity names no other region; ConflictError for a title that several tenants have, or a
    server of this name that is another, or stands in another region (`other_region`); QuotaError,
    TenantSuspendedError. Then nothing is left behind.
    """
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin orders servers.")
    address, wanted = _checked_address(email), name.strip()
    _check_region(region)
    with transaction.atomic():
        # One order after the other: two for the same new tenant make one.
        list(Region.objects.select_for_update().order_by("code")[:1])
        ordered = _find_or_make(tenant, address, wanted, region, actor=actor, now=now)
    # The mail goes out when the transaction is done, and says then whether it did.
    ordered.order.refresh_from_db(fields=["mailed_at"])
    return ordered


def _find_or_make(tenant: str, address: str, wanted: str, region: str, *, actor: Person, now: datetime) -> Ordered:
    present = ServerOrder.objects.filter(key=_key(tenant, wanted, address)).first()
    if present is None:
        owner = _tenant(tenant.strip(), actor=actor)
        server = _server(owner, wanted, region, actor=actor)
        policy = _policy(server, actor=actor, now=now)
        # Named by the tenant's own name as well, whichever of both the order is given with again.
        keys = {_key(known, wanted, address) for known in (tenant, owner.name, owner.title)}
        present = ServerOrder.objects.filter(key__in=keys).first()
        if present is None:
            return _make(_key(tenant, wanted, address), server, address, policy, actor=actor, now=now)
    _refuse_elsewhere(present.server, region)
    return _described(present, is_new=False)


def send_delivery(*, order: ServerOrder, actor: Person, now: datetime) -> None:
    """Mail it again, with another token and another link; the former ones work no longer.

    Raises ConflictError for a server that has its agent.
    """
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin sends deliveries.")
    server = order.server
    if Agent.objects.filter(server=server).exclude(status=Agent.Status.REVOKED).exists():
        raise ConflictError("The server has its agent; nothing is left to be delivered.", code="has_agent")
    with transaction.atomic():
        server.enrolment_tokens.open(now).update(revoked_at=now)
        _deliver(order, policy_for(server), actor=actor, now=now)


def described(order: ServerOrder) -> Ordered:
    return _described(order, is_new=False)


def _make(key: str, server: Server, email: str, policy: Policy, *, actor: Person, now: datetime) -> Ordered:
    order = ServerOrder.objects.create(key=key, server=server, email=email, made_by=actor)
    told = {"server": server.name, "region": str(server.region_id), "email": email, "policy": policy.name}
    record(action="order.create", subject=order, actor=actor, tenant=server.tenant, after=told)
    _deliver(order, policy, actor=actor, now=now)
    return _described(order, is_new=True)


def _described(order: ServerOrder, *, is_new: bool) -> Ordered:
    order = ServerOrder.objects.select_related("server__tenant__company", "server__region").get(pk=order.pk)
    server = order.server
    return Ordered(order=order, vault=_vault_of(server), policy=policy_for(server), is_new=is_new)


def _vault_of(server: Server) -> Vault | None:
    if server.domain is not None:
        return server.domain.vault
    meant = Affinity.objects.filter(region=server.region_id).values("vault_region")
    return Vault.objects.select_related("endpoint").filter(tenant=server.tenant, endpoint__region__in=meant).first()


def _deliver(order: ServerOrder, policy: Policy | None, *, actor: Person, now: datetime) -> None:
    """Makes token and link, and mails both when the transaction is done: neither is kept."""
    server = order.server
    _, token = make_token(server=server, actor=actor, now=now, expected_host=server.name, minutes=LONGEST_MINUTES)
    link = invitation_link(_invite(server, order.email, actor=actor, now=now))
    text = delivery_text(server=server, policy=policy, link=link, line=install_line(token))
    subject = f"Backupsite: {server.name} can be backed up"
    transaction.on_commit(lambda: _mail(order, subject=subject, text=text, now=now))


def delivery_text(*, server: Server, policy: Policy | None, link: str, line: str) -> str:
    """What the owner of the server is told."""
    night = ""
    if policy is not None:
        night = (
            f"Backups are made every night between {policy.window_start:%H:%M} and {policy.window_end:%H:%M} "
            f"({policy.time_zone}) and kept for {policy.retention_days} days. Nobody can remove them earlier.\n\n"
        )
    return (
        f"The server {server.name} in {server.region_id} is set up for backups.\n\n"
        f"1. Choose a password for your account, within {LINK_LIFETIME.days} days. It shows you your backups:\n\n"
        f"   {link}\n\n"
        f"2. On the server, as root, within {LONGEST_MINUTES} minutes:\n\n   {line}\n\n"
        f"{night}"
        "Whoever has these two lines can use them in your place, so keep them to yourself. If one is too old, ask your "
        f"provider to send this again.\n\nTenant: {server.tenant.name}\nPortal: {settings.CONFIG.portal_url}\n"
    )


def _mail(order: ServerOrder, *, subject: str, text: str, now: datetime) -> None:
    """A mail server that is away undoes no order: that it was not sent is shown, and it can be sent again."""
    try:
        send(order.email, subject=subject, text=text)
    except Exception:  # whatever the mail backend raises
        logger.exception("a delivery could not be mailed", extra={"order": str(order.pk)})
        return
    ServerOrder.objects.filter(pk=order.pk).update(mailed_at=now)


def _invite(server: Server, email: str, *, actor: Person, now: datetime) -> str:
    """A new link takes the place of an open one, and gives what that gave."""
    former = Invitation.objects.filter(tenant=server.tenant, email=email, used_at=None).first()
    known = set(former.server_ids) if former is not None else set()
    servers = list(Server.objects.filter(pk__in=known, tenant=server.tenant).exclude(pk=server.pk))
    administers = former is not None and former.administers
    given = [server, *servers]
    return invite(email=email, tenant=server.tenant, administers=administers, servers=given, actor=actor, now=now)[1]


def _tenant(named: str, *, actor: Person) -> Tenant:
    if not named:
        raise InvalidInputError("Name the tenant.", field="tenant")
    alive = Tenant.objects.exclude(status__in=[Tenant.Status.DELETING, Tenant.Status.DELETED])
    found = list(alive.filter(name=named)) or list(alive.filter(title=named)[:2])
    if len(found) > 1:
        raise ConflictError("Several tenants have this title. Say the tenant's name.", code="ambiguous", field="tenant")
    if found:
        return found[0]
    try:
        return create_tenant(title=named, actor=actor)
    except ValidationError as error:
        raise InvalidInputError("A title has 1 to 100 characters.", field="tenant") from error


def _server(tenant: Tenant, name: str, region: str, *, actor: Person) -> Server:
    present = Server.objects.filter(tenant=tenant, name=name).first()
    if present is None:
        return add_server(tenant=tenant, name=name, region_code=region, node=None, actor=actor)
    if present.node is not None:
        raise ConflictError(f"{tenant.name} has a server {name} on {present.node}.", code="name_taken", field="name")
    _refuse_elsewhere(present, region)
    return present


def _refuse_elsewhere(server: Server, region: str) -> None:
    """Ordered again for another place, it is another server, or this one was moved: that is not for an order to say."""
    if server.region_id != region:
        raise ConflictError(
            f"{server.tenant.name} has the server {server.name}, and it stands in {server.region_id}, not in {region}. "
            "Was it moved? Say so on its page. Is it another server? Order it under another name.",
            code="other_region",
            field="region",
        )


def _policy(server: Server, *, actor: Person, now: datetime) -> Policy:
    """What counts for the server: of its region, as a rule. Where nothing does, the product's own, for it alone."""
    policy = policy_for(server)
    if policy is None:
        name = "agent-america" if server.region_id in _AMERICA_AND_ASIA else "agent-europe"
        policy = Policy.objects.filter(name=name).first() or create_policy(
            name=name, actor=actor, time_zone=USUAL_POLICIES[name], description="Whole servers, by their agents"
        )
        assign(policy=policy, server=server, actor=actor, now=now)
    return policy


def _check_region(code: str) -> None:
    """Raises InvalidInputError for one that is unknown, or where vaults would have no place."""
    if not Region.objects.filter(pk=code).exists():
        raise InvalidInputError(f"There is no region {code}.", code="unknown_region", field="region")
    if endpoint_for(code).region_id == code:
        raise InvalidInputError(
            "A vault in the server's own region is lost together with the server.", code="same_region", field="region"
        )


def _checked_address(email: str) -> str:
    address = email.strip().lower()
    try:
        validate_email(address)
    except ValidationError as error:
        raise InvalidInputError("This is no e-mail address.", field="email") from error
    return address


def _key(tenant: str, name: str, email: str) -> str:
    return hashlib.sha256("\0".join((tenant.strip(), name, email)).encode()).hexdigest()
