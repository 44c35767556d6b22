"""What surrounds every request of the API, whatever it asks for: Idempotency-Key, throttles and their headers."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from rest_framework.exceptions import AuthenticationFailed, NotAuthenticated, Throttled
from rest_framework.request import Request

from common.errors import InvalidInputError
from tenants.api.idempotency import Claim, Replay, claim
from tenants.api.parsing import StrictJsonParser
from tenants.api.schema import ProblemAutoSchema
from tenants.api.throttling import REFUSED, PrincipalThrottle, count_request, principal_of
from tenants.roles import Action

TOO_MANY = "Too many requests. Wait for the seconds that Retry-After says."


def refuse_beyond_token(request: Any, action: Action) -> None:
    """Raise TokenScopeError when the caller's token leaves no right to the action, whatever object it is about."""
    limits = getattr(request.user, "limits", None)
    if limits is not None:
        limits.refuse(action, method=request.method)


class LengthNeededError(InvalidInputError):
    """A body in chunks: nothing of it gets here, and the request would mean what it means without its parameters."""

    code = "length_needed"
    http_status = 411


class GuardedMixin:
    """Beside DRF's APIView. `rate_scope` names a rate of its own for the view; None: by the method.

    `secret_actions` are the actions whose answer must not be kept: asked again with the same Idempotency-Key they
    answer 409 `already_done`.
    """

    schema = ProblemAutoSchema()
    parser_classes = (StrictJsonParser,)
    throttle_classes = (PrincipalThrottle,)
    rate_scope: ClassVar[str | None] = None
    secret_actions: ClassVar[frozenset[str]] = frozenset()
    _claim: Claim | None = None

    def initial(self, request: Request, *args: Any, **options: Any) -> None:
        super().initial(request, *args, **options)
        if "HTTP_TRANSFER_ENCODING" in request.META:
            raise LengthNeededError("Send the body in one piece, with a Content-Length.")

    def claim_key(self, request: Request) -> None:
        """To be called when it is certain that the caller may do what he asks for."""
        action = getattr(self, "action", None) or (request.method or "").lower()
        # By token, where there is one: what one of them may see is not told to another.
        self._claim = claim(request, principal=principal_of(request), secret=action in self.secret_actions)

    def throttled(self, request: Request, wait: float | None) -> None:
        raise Throttled(wait=math.ceil(wait or 1), detail=TOO_MANY)

    def handle_exception(self, error: Exception) -> Any:
        if isinstance(error, Replay):
            return error.answer
        try:
            return super().handle_exception(_counted(self, error))
        except Exception:
            if self._claim is not None:
                self._claim.release()
            raise

    def finalize_response(self, request: Any, response: Any, *args: Any, **options: Any) -> Any:
        response = super().finalize_response(request, response, *args, **options)
        if self._claim is not None:
            self._claim.finish(response)
        standing = getattr(getattr(request, "_request", request), "rate_standing", None)
        for name, value in (standing.headers() if standing else {}).items():
            response.headers[name] = value
        return response


def _counted(view: Any, error: Exception) -> Exception:
    """Whoever is refused at the door is counted by his address: trying tokens has a limit of its own."""
    if not isinstance(error, AuthenticationFailed | NotAuthenticated):
        return error
    request = view.request
    address = principal_of(_Stranger(request))
    standing = count_request(REFUSED, address, now=PrincipalThrottle.clock())
    if standing is None or standing.allowed:
        return error
    return Throttled(wait=standing.reset_seconds, detail=TOO_MANY)


class _Stranger:
    """A request without who it says it is: asking for that would fail once more."""

    auth = user = None

    def __init__(self, request: Any) -> None:
        self._request = request._request
