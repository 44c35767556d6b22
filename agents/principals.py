"""Verbs over agents: register, revoke, another key, what they report."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.db import transaction
from django.db.models.functions import Coalesce
from django.utils import timezone

from agents.host_disks import ensure_host_disk
from agents.models import Agent, Server
from agents.models.principals import PUBLIC_KEY_BYTES
from common.errors import ConflictError, InvalidInputError, NotAllowedError
from tenants import quotas
from tenants.audit import record
from tenants.models import Person, QuotaKind, Tenant
from tenants.notices import publish
from tenants.services import require_active

Status = Agent.Status
# Longer than a restart of its server with updates takes.
SILENT_AFTER = timedelta(minutes=30)
LONGEST_HEALTH_BYTES = 2048
LONGEST_VERSION = 64
# Control sequences of terminals: colours, cursor, titles.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\)|[ -/]*[0-~])|\x9b[0-?]*[ -/]*[@-~]", re.S)


class AgentRevokedError(NotAllowedError):
    """Proved who it is, and that is over. Another key has to be enrolled."""

    code = "agent_revoked"


class AgentPendingError(NotAllowedError):
    """Proved who it is; a person has to approve it first."""

    code = "agent_pending"


class AgentQuarantinedError(NotAllowedError):
    """Proved who it is, and so may another machine; a person has to decide which is the right one."""

    code = "agent_quarantined"


@transaction.atomic
def register_agent(*, server: Server, public_key: bytes, actor: Person | None, pending: bool = False) -> Agent:
    """Make the agent of the server known by its key. A revoked one comes back with another key, in its own row.

    The caller has checked the actor's right to the server. Raises InvalidInputError for what is no key, ConflictError
    when the server has an agent or the key is somebody's already, QuotaError, TenantSuspendedError.
    """
    require_active(server.tenant)
    key = checked_key(public_key)
    # Of many who want the place at once each looks after the one before.
    Server.objects.select_for_update(of=("self",), no_key=True).get(pk=server.pk)
    agent = Agent.objects.select_for_update(of=("self",)).filter(server=server).first()
    if agent is not None and agent.status != Status.REVOKED:
        raise ConflictError("The server has an agent. Revoke it first.", code="has_agent")
    quotas.check(tenant=server.tenant, kind=QuotaKind.AGENTS)
    if Agent.objects.filter(public_key=key).exists():
        raise ConflictError("This key was registered before. An agent makes a new one.", code="key_taken")
    agent = agent or Agent(server=server)
    agent.name, agent.public_key = server.name, key
    agent.status = Status.PENDING if pending else Status.ENROLLED
    agent.last_seen_at = agent.silent_since = agent.release = agent.release_offered_at = None
    agent.poll_time = 0
    agent.poll_count, agent.quarantine_reason, agent.health, agent.health_code = 0, "", "", ""
    agent.release_taken, agent.release_failed = False, 0
    agent.save()
    record(action="agent.register", subject=agent, actor=actor, after=_told(agent))
    if not pending:
        _begin(agent)
    return agent


def _begin(agent: Agent) -> None:
    """It may work from now on."""
    ensure_host_disk(agent.server)
    _tell(agent, "agent.enrolled")


@transaction.atomic
def approve_agent(*, agent: Agent, actor: Person) -> None:
    """Raises ConflictError unless it waits for that."""
    require_active(agent.server.tenant)
    if not _change(agent, Status.ENROLLED, before=[Status.PENDING]):
        raise ConflictError("The agent does not wait for approval.", code="wrong_agent_status")
    record(action="agent.approve", subject=agent, actor=actor, after=_told(agent))
    _begin(agent)


@transaction.atomic
def revoke_agent(*, agent: Agent, actor: Person | None) -> None:
    """Its next request is refused. May be called twice."""
    before = _told(agent)
    if _change(agent, Status.REVOKED, before=[Status.PENDING, Status.ENROLLED, Status.QUARANTINED]):
        record(action="agent.revoke", subject=agent, actor=actor, before=before)


@transaction.atomic
def quarantine_agent(*, agent: Agent, reason: str) -> None:
    """It may be on two machines: neither gets anything until a person has decided. May be called twice."""
    if _change(agent, Status.QUARANTINED, before=[Status.ENROLLED], quarantine_reason=reason[:200]):
        record(action="agent.quarantine", subject=agent, actor=None, after={"reason": reason})
        _tell(agent, "agent.quarantined", reason=reason)


@transaction.atomic
def release_agent(*, agent: Agent, actor: Person) -> None:
    """A person says that there is one machine only: it goes on with its key, from where it counts now.

    Raises ConflictError unless it is in quarantine.
    """
    require_active(agent.server.tenant)
    before = {"reason": agent.quarantine_reason}
    # Its next poll says what the machine is, and how far it has counted.
    fresh = {"quarantine_reason": "", "machine": "", "poll_count": 0, "poll_time": 0}
    if not _change(agent, Status.ENROLLED, before=[Status.QUARANTINED], **fresh):
        raise ConflictError("The agent is not in quarantine.", code="wrong_agent_status")
    record(action="agent.release", subject=agent, actor=actor, before=before, after=_told(agent))


@transaction.atomic
def rotate_agent_key(*, agent: Agent, public_key: bytes, actor: Person | None) -> None:
    """Another key in place of the present one, which is worth nothing at once. Actor None: the agent itself.

    Raises ConflictError unless it is enrolled, InvalidInputError, ConflictError for a key of somebody.
    """
    key = checked_key(public_key)
    if Agent.objects.filter(public_key=key).exists():
        raise ConflictError("This key was registered before. Make a new one.", code="key_taken")
    before = _told(agent)
    if not Agent.objects.filter(pk=agent.pk, status=Status.ENROLLED).update(public_key=key):
        raise ConflictError("The agent is not enrolled.", code="wrong_agent_status")
    agent.public_key = key
    record(action="agent.rotate_key", subject=agent, actor=actor, before=before, after=_told(agent))


@transaction.atomic
def note_back(agent: Agent, *, now: datetime) -> None:
    """It was silent, and people were told; they are told that it is back, once."""
    silent = Agent.objects.filter(pk=agent.pk, status=Status.ENROLLED, silent_since__isnull=False)
    if silent.update(silent_since=None):
        _tell(agent, "agent.back", since=agent.silent_since, now=now)


def notice_silent_agents(*, now: datetime) -> int:
    """Tell, once, of enrolled agents from which nothing was heard for too long. Returns of how many."""
    heard = Agent.objects.annotate(heard_at=Coalesce("last_seen_at", "changed_at"))
    silent = heard.filter(status=Status.ENROLLED, silent_since=None, heard_at__lte=now - SILENT_AFTER)
    of_tenants = silent.filter(server__tenant__status__in=[Tenant.Status.ACTIVE, Tenant.Status.SUSPENDED])
    return sum(_notice_silent(agent, now=now) for agent in of_tenants.select_related("server__tenant"))


@transaction.atomic
def _notice_silent(agent: Agent, *, now: datetime) -> bool:
    """False when it was heard of, or told of, since it was looked at."""
    same = Agent.objects.filter(pk=agent.pk, status=Status.ENROLLED, silent_since=None, last_seen_at=agent.last_seen_at)
    heard_at = agent.last_seen_at or agent.changed_at
    if not same.update(silent_since=heard_at):
        return False
    _tell(agent, "agent.silent", since=heard_at, now=now)
    return True


def _tell(
    agent: Agent, event: str, *, since: datetime | None = None, now: datetime | None = None, reason: str = ""
) -> None:
    """Of the server, so that who owns it sees it."""
    server = agent.server
    facts = {"server": server.name, **({"since": f"{since:%Y-%m-%d %H:%M} UTC"} if since else {})}
    facts |= {"reason": reason} if reason else {}
    cause = f"agent:{agent.pk}"
    publish(event=event, tenant=server.tenant, subject=server, facts=facts, cause=cause, name=agent.name, at=now)


def plain(text: str) -> str:
    """One line of what can be seen: control sequences are gone, every other sign without a shape is a space."""
    seen = "".join(sign if sign.isprintable() else " " for sign in _ESCAPES.sub("", text))
    return " ".join(seen.split())


def _change(agent: Agent, status: Agent.Status, *, before: list[Agent.Status], **fields: object) -> bool:
    changed = Agent.objects.filter(pk=agent.pk, status__in=before).update(
        status=status, silent_since=None, changed_at=timezone.now(), **fields
    )
    agent.refresh_from_db(fields=["status", "silent_since", "changed_at", *fields])
    return bool(changed)


def checked_key(public_key: bytes) -> bytes:
    """The key. Raises InvalidInputError for what is none."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise InvalidInputError(f"A public key has {PUBLIC_KEY_BYTES} bytes.", field="public_key")
    try:
        Ed25519PublicKey.from_public_bytes(public_key)
    except ValueError:
        raise InvalidInputError("This is no Ed25519 public key.", field="public_key") from None
    return public_key


def _told(agent: Agent) -> dict[str, str]:
    return {"status": str(agent.status), "server": str(agent.server_id), "public_key": bytes(agent.public_key).hex()}
