"""How a request of an agent is let in, answered and signed: plain views, for hundreds may ask at the same moment.

Used below /agent/v1/ and nowhere else; nobody else comes in there. Errors are problem documents (RFC 9457).
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias

import msgspec
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from agents import protocol
from agents.accepting import SignedRequest, check_request, keep_nonce, signer_of
from agents.agent_messages import LARGEST_MESSAGE_BYTES, PATH_PREFIX
from agents.answer_signing import HEADER, NONCE_HEADER, gate_request, refused_name, sign_answer
from agents.models import Agent
from agents.signing import SCHEME, Proof, read_header
from common.errors import BackupsiteError, InvalidInputError, NotSignedInError, TooManyAttemptsError
from tenants.api.throttling import count_request
from tenants.origin import client_address, note_refused_subject

# Names of rates in the setting API_RATES.
AGENT, ENROL = "agent", "enrol"
PROBLEM_TYPE = "application/problem+json"
# In a request's META: the name of a request whose signature was found right.
_PROVEN = "backupsite.proven"

Answer: TypeAlias = msgspec.Struct | HttpResponseBase
View: TypeAlias = Callable[..., HttpResponseBase]


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks, what (None for a route without a body), and what it proved that by. No plain view reads the request
    beside that."""

    agent: Agent
    message: Any
    proof: Proof
    query: Mapping[str, str]


class MethodError(InvalidInputError):
    """The route is not for this method."""

    code = "method_not_allowed"
    http_status = 405


def agent_endpoint(
    *, method: str = "POST", body: type[msgspec.Struct] | None = None, view_keeps_nonce: bool = False
) -> Callable[[Any], View]:
    """For `view(call, **kwargs)`: called for the agent whose key signed this very request, once, now.

    With `view_keeps_nonce` "once" is the view's: it keeps the nonce with the first thing that it writes.
    """

    def decorate(function: Callable[..., Answer]) -> View:
        @_answered
        @functools.wraps(function)
        def view(request: HttpRequest, **kwargs: Any) -> Answer:
            _check_form(request, method)
            agent, proof = _let_in(request)
            if not view_keeps_nonce:
                keep_nonce(agent, proof)
            return function(Call(agent, _decoded(request, body), proof, request.GET.dict()), **kwargs)

        view.method, view.is_for_agents = method, True  # type: ignore[attr-defined]  # for the table of routes
        return view

    return decorate


def open_endpoint(*, body: type[msgspec.Struct]) -> Callable[[Any], View]:
    """For `view(request, message)`: for who is no agent yet. Counted by address."""

    def decorate(function: Callable[..., Answer]) -> View:
        @_answered
        @functools.wraps(function)
        def view(request: HttpRequest) -> Answer:
            _check_form(request, "POST")
            _count(ENROL, f"address:{client_address(request)}")
            return function(request, _decoded(request, body))

        view.method, view.is_for_agents = "POST", False  # type: ignore[attr-defined]  # for the table of routes
        return view

    return decorate


def _answered(function: Callable[..., Answer]) -> View:
    @csrf_exempt
    @functools.wraps(function)
    def view(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        try:
            answer = function(request, **kwargs)
        except BackupsiteError as error:
            if error.http_status == HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            return _problem(error)
        if isinstance(answer, HttpResponseBase):
            return answer
        return HttpResponse(msgspec.json.encode(answer), content_type="application/json")

    return view


def _problem(error: BackupsiteError) -> HttpResponse:
    wait = {"retry_after_seconds": error.retry_after_seconds} if error.retry_after_seconds else {}
    told = {
        **error.extra,
        **wait,
        "type": f"urn:backupsite:problem:{error.code}",
        "title": HTTPStatus(error.http_status).phrase,
        "status": error.http_status,
        "detail": error.message,
        "code": error.code,
        "errors": [{"field": error.field, "code": error.code, "detail": error.message}] if error.field else [],
    }
    response = HttpResponse(json.dumps(told), status=error.http_status, content_type=PROBLEM_TYPE)
    if error.http_status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = SCHEME
    if error.retry_after_seconds:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


def _check_form(request: HttpRequest, method: str) -> None:
    """Raises InvalidInputError for a body that is too large, before it is read."""
    if request.method != method:
        raise MethodError(f"Ask with {method}.")
    if _length(request) > LARGEST_MESSAGE_BYTES:
        raise InvalidInputError(f"The body may have {LARGEST_MESSAGE_BYTES} bytes.", code="body_too_large")


def _length(request: HttpRequest) -> int:
    length = request.META.get("CONTENT_LENGTH") or "0"
    return int(length) if length.isdecimal() and length.isascii() else LARGEST_MESSAGE_BYTES + 1


def _decoded(request: HttpRequest, kind: type[msgspec.Struct] | None) -> msgspec.Struct | None:
    if kind is None:
        return None
    try:
        return msgspec.json.decode(request.body or b"{}", type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidInputError(f"The message cannot be understood: {error}", code="invalid_message") from error


def _let_in(request: HttpRequest) -> tuple[Agent, Proof]:
    """Unknown agent, wrong signature: one answer. What is said beyond that is said to whoever proved who he is."""
    proof = _proof_of(request)
    agent = None
    if proof is not None:
        signed = SignedRequest(
            proof=proof, method=request.method or "", path=request.get_full_path(), body=request.body
        )
        agent = signer_of(signed)
    if proof is None or agent is None:
        raise NotSignedInError("The request is not signed by an agent that is known here.")
    request.META[_PROVEN] = proof.name
    # Should it be refused from here on, the audit says whom.
    note_refused_subject(agent)
    request.user = agent  # type: ignore[assignment]  # a principal of its own, see `tenants.origin`
    # Before the nonce is kept: a flood of one agent fills no table, and costs the others nothing.
    _count(AGENT, f"agent:{agent.pk}")
    check_request(agent, proof, now=timezone.now())
    return agent, proof


def _proof_of(request: HttpRequest) -> Proof | None:
    header = request.headers.get("Authorization", "")
    return read_header(header) if header.startswith(f"{SCHEME} ") else None


def _count(scope: str, principal: str) -> None:
    standing = count_request(scope, principal, now=time.time())
    if standing is not None and not standing.allowed:
        error = TooManyAttemptsError(f"Too many requests. Try again in {standing.reset_seconds} seconds.")
        error.retry_after_seconds = standing.reset_seconds
        raise error


class SignedAnswersMiddleware:
    """Signs whatever is answered below /agent/v1/, errors of the framework too, and what the session gate answers to
    who sent a nonce. Stands outside of all others.

    A file is not signed: its SHA-256 is in a manifest that is. The portal has no key to sign with, and nothing there.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        # Read now: who is refused is refused without it, and it cannot be read later.
        asked = _name_of(request) if settings.CONFIG.control_key is not None else None
        if asked is None:
            return self._get_response(request)
        response = self._get_response(request)
        if not response.streaming:
            response.headers[HEADER] = sign_answer(
                private_key=settings.CONFIG.control_key_bytes,
                request=request.META.get(_PROVEN, asked),
                status=response.status_code,
                body=response.content,
            )
        return response


def _name_of(request: HttpRequest) -> str | None:
    """What the answer is bound to as long as the request proved nothing; None for one that is not signed.

    Anybody can write any agent's name and nonce into a header, and enrol beside it: that answer must not fit the other
    agent's own request.
    """
    if request.path.startswith(protocol.PATH_PREFIX) and NONCE_HEADER in request.headers:
        token = request.headers.get("Authorization", "").partition(" ")[2].strip()
        nonce = request.headers[NONCE_HEADER]
        return gate_request(token=token, nonce=nonce, path=request.path, body=request.body)
    if not request.path.startswith(PATH_PREFIX):
        return None
    proof = _proof_of(request)
    if proof is not None:
        return refused_name(proof.name)
    body = request.body if _length(request) <= LARGEST_MESSAGE_BYTES else b""
    return hashlib.sha256(body).hexdigest()
