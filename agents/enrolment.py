"""Letting a program become the agent of a server: one-time tokens, and the one request that has no signature yet.

`bsa1.<secret>.<fingerprint>`: the secret speaks for who has it, once and for a short time; the fingerprint lets the
program know the control plane by its key, whatever stands between them.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction

from agents.agent_messages import TOKEN_PREFIX, EnrolAnswer, EnrolRequest
from agents.answer_signing import fingerprint
from agents.models import Agent, EnrolmentToken, Server, WriterKey
from agents.principals import LONGEST_VERSION, checked_key, plain, register_agent
from common.errors import ConflictError, InvalidInputError, NotSignedInError
from common.ids import hash_token, new_secret_token
from tenants import quotas
from tenants.audit import record
from tenants.models import Person, QuotaKind
from tenants.services import require_active

USUAL_MINUTES = 30
LONGEST_MINUTES = 60
LONGEST_HOST = 255
# On the server's page, for who wonders what became of one.
KEPT_AFTER_END = timedelta(days=7)
_LONGEST_FACT = 200


class TokenRefusedError(NotSignedInError):
    """Unknown, used, expired, taken back: one answer, so that trying tells nothing."""

    code = "token_refused"


@transaction.atomic
def make_token(
    *, server: Server, actor: Person | None, now: datetime, expected_host: str = "", minutes: int = USUAL_MINUTES
) -> tuple[EnrolmentToken, str]:
    """The right to become the server's agent, and its text, which is not kept.

    The caller has checked the actor's right to the server. Raises ConflictError for a server on a node or with an
    agent, InvalidInputError for a life beyond an hour or a host that is none, QuotaError, TenantSuspendedError.
    """
    require_active(server.tenant)
    if server.node_id is not None:
        raise ConflictError("The server stands on a node, which backs it up: it needs no agent.", code="on_a_node")
    if Agent.objects.filter(server=server).exclude(status=Agent.Status.REVOKED).exists():
        raise ConflictError("The server has an agent. Revoke it first.", code="has_agent")
    if not 1 <= minutes <= LONGEST_MINUTES:
        raise InvalidInputError(f"A token is good for 1 to {LONGEST_MINUTES} minutes.", field="minutes")
    quotas.check(tenant=server.tenant, kind=QuotaKind.AGENTS)
    secret = new_secret_token()
    token = EnrolmentToken.objects.create(
        server=server,
        secret_hash=hash_token(secret),
        expected_host=_checked_host(expected_host),
        expires_at=now + timedelta(minutes=minutes),
        made_by=actor,
    )
    told = {"server": str(server.pk), "expected_host": token.expected_host, "expires_at": token.expires_at}
    record(action="enrolment.token", subject=token, actor=actor, tenant=server.tenant, after=told)
    return token, f"{TOKEN_PREFIX}.{secret}.{fingerprint(settings.CONFIG.control_public_key_bytes)}"


def install_line(token_text: str) -> str:
    """What is typed on the server, as root."""
    return f"curl -fsS {settings.CONFIG.portal_url}/agent/install.sh | sh -s -- {token_text}"


def enrol_line() -> str:
    """What is typed where the program is there already, as by a package; the token goes to its standard input."""
    return f"backupsite-agent enrol - --url {settings.CONFIG.gate_url.rstrip('/')}"


@transaction.atomic
def revoke_token(*, token: EnrolmentToken, actor: Person, now: datetime) -> None:
    """Nobody enrols with it any more. May be called twice; one that was used stays as it is: ConflictError."""
    if EnrolmentToken.objects.filter(pk=token.pk, used_at=None, revoked_at=None).update(revoked_at=now):
        record(action="enrolment.revoke", subject=token, actor=actor, tenant=token.server.tenant)
    elif EnrolmentToken.objects.filter(pk=token.pk, used_at__isnull=False).exists():
        raise ConflictError("The token was used. Revoke the agent instead.", code="token_used")


def forget_tokens(*, now: datetime) -> int:
    """Remove tokens that ended long ago; the audit keeps who made them, and who came with them. Returns how many."""
    return EnrolmentToken.objects.filter(expires_at__lte=now - KEPT_AFTER_END).delete()[0]


def enrol(request: EnrolRequest, *, now: datetime) -> Agent:
    """The agent that came with the token; the same one again for the same secret and keys, while the token lives.

    Of many at once one wins. Raises TokenRefusedError, InvalidInputError for what is no key or no host, ConflictError
    for a key of somebody or a server that has an agent meanwhile, QuotaError, TenantSuspendedError: then the token is
    as good as before.
    """
    keys = (checked_key(request.public_key), checked_key(request.writer_key))
    if keys[0] == keys[1]:
        raise InvalidInputError("One key signs requests, another one manifests.", field="writer_key")
    _checked_host(request.host.hostname)
    with transaction.atomic():
        found = EnrolmentToken.objects.filter(secret_hash=hash_token(request.secret))
        claimed = found.open(now).update(used_at=now, public_key=keys[0], writer_key=keys[1])
        token = found.select_related("server__tenant", "agent__server__tenant").first()
        if token is None or not (claimed or _is_asked_again(token, keys, now)):
            raise TokenRefusedError("This token is not valid, or no longer. Ask for a new one in the portal.")
        if not claimed and token.agent is not None:
            return token.agent
        try:
            with transaction.atomic():
                return _become(token, request, now=now)
        except IntegrityError:
            raise ConflictError("This key was registered before. An agent makes a new one.", code="key_taken") from None


def _is_asked_again(token: EnrolmentToken, keys: tuple[bytes, bytes], now: datetime) -> bool:
    """An answer may be lost on its way; who has secret and keys is who had them."""
    return (
        token.agent is not None
        and token.agent.status != Agent.Status.REVOKED
        and token.revoked_at is None
        and token.expires_at > now
        and keys == (bytes(token.public_key), bytes(token.writer_key))
        and bytes(token.agent.public_key) == keys[0]
    )


def _become(token: EnrolmentToken, request: EnrolRequest, *, now: datetime) -> Agent:
    expected = token.expected_host
    pending = bool(expected) and not _is_same_host(expected, request.host.hostname)
    agent = register_agent(server=token.server, public_key=request.public_key, actor=None, pending=pending)
    WriterKey.objects.create(agent=agent, public_key=request.writer_key, added_at=now)
    host = request.host
    facts = {"hostname": host.hostname, "system": host.system, "kernel": host.kernel, "cpu": host.architecture}
    Agent.objects.filter(pk=agent.pk).update(
        machine=plain(host.machine)[:128],
        facts={name: plain(text)[:_LONGEST_FACT] for name, text in facts.items()},
        version=plain(request.version)[:LONGEST_VERSION],
    )
    EnrolmentToken.objects.filter(pk=token.pk).update(agent=agent)
    told = {"host": plain(host.hostname)[:LONGEST_HOST], "expected": expected, "token": str(token.pk)}
    by = {"made_by": str(token.made_by or "")}
    record(action="agent.enrol", subject=agent, actor=None, after={**told, **by, "status": str(agent.status)})
    return agent


def enrol_answer(agent: Agent, *, now: datetime) -> EnrolAnswer:
    """What it is told; only a process with the control key can."""
    return EnrolAnswer(
        agent_id=str(agent.pk),
        server=agent.server.name,
        tenant=agent.server.tenant.title,
        status=str(agent.status),
        control_key=settings.CONFIG.control_public_key_of_signer,
        time=now,
        release_key=settings.CONFIG.release_public_key_bytes,
        tls_pins=settings.CONFIG.tls_pin_hashes,
    )


def _is_same_host(expected: str, hostname: str) -> bool:
    """`web01` expects `web01.example.com` too, and nothing else of another name."""
    wanted, told = expected.lower().rstrip("."), hostname.lower().rstrip(".")
    return told == wanted or ("." not in wanted and told.partition(".")[0] == wanted)


def _checked_host(name: str) -> str:
    name = name.strip()
    if len(name) > LONGEST_HOST or any(not sign.isprintable() or sign.isspace() for sign in name):
        raise InvalidInputError("This is no name of a host.", field="expected_host")
    return name
