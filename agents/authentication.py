"""Agents sign their requests. Used below /agent/ and nowhere else; nobody else comes in there."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, Throttled
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from agents.models import Agent
from agents.principals import SignedRequest, accept_request, signer_of
from agents.signing import SCHEME, Proof, read_header
from common.errors import InvalidInputError
from tenants.api.parsing import LARGEST_BODY
from tenants.api.throttling import PrincipalThrottle, count_request
from tenants.origin import note_refused_subject

# Name of a rate in the setting API_RATES.
AGENT = "agent"


class AgentAuthentication(BaseAuthentication):
    """Unknown agent, wrong signature: one answer. What is said beyond that is said to whoever proved who he is."""

    def authenticate(self, request: Request) -> tuple[Agent, Proof] | None:
        header = request.headers.get("Authorization", "")
        if not header.startswith(f"{SCHEME} "):
            return None
        proof = read_header(header)
        agent = signer_of(_signed(request, proof)) if proof is not None else None
        if proof is None or agent is None:
            raise AuthenticationFailed("The request is not signed by an agent that is known here.")
        # Should it be refused from here on, the audit says whom.
        note_refused_subject(agent)
        _count(agent)
        accept_request(agent, proof, now=timezone.now())
        return agent, proof

    def authenticate_header(self, request: Request) -> str:
        return SCHEME


class IsAgent(BasePermission):
    def has_permission(self, request: Request, view: Any) -> bool:
        return isinstance(request.user, Agent)


def _signed(request: Request, proof: Proof) -> SignedRequest:
    """Raises InvalidInputError for a body that is too large, before it is read."""
    plain = request._request
    length = plain.META.get("CONTENT_LENGTH") or "0"
    if not length.isdigit() or int(length) > LARGEST_BODY:
        raise InvalidInputError(f"The body may have {LARGEST_BODY} bytes.", code="body_too_large")
    return SignedRequest(proof=proof, method=plain.method or "", path=plain.get_full_path(), body=plain.body)


def _count(agent: Agent) -> None:
    """Before the nonce is kept: a flood of one agent fills no table, and costs the others nothing."""
    standing = count_request(AGENT, f"agent:{agent.pk}", now=PrincipalThrottle.clock())
    if standing is not None and not standing.allowed:
        raise Throttled(wait=standing.reset_seconds)
