"""Every error of the API in one shape (RFC 9457), and the error pages of the portal. No internals in either."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.core.exceptions import ValidationError as ModelValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from rest_framework import exceptions
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response

from common.errors import BackupsiteError

MEDIA_TYPE = "application/problem+json"
API_PREFIX = ("/api/", "/agent/")
# The codes of common.errors for what the framework itself finds.
_CODES = {400: "invalid_input", 401: "not_signed_in", 403: "not_allowed", 404: "not_found"}
_NOT_FOUND = "There is nothing here that you can see."


@dataclass(frozen=True, slots=True)
class Item:
    """What is wrong with one field; `field` is None when it is about the whole."""

    field: str | None
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Problem:
    status: int
    code: str
    detail: str
    errors: tuple[Item, ...] = ()
    # Members of this kind of problem, such as the address of what was made already.
    extra: Mapping[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        return {
            **self.extra,
            "type": f"urn:backupsite:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "errors": [asdict(item) for item in self.errors],
        }


def problem_response(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's exception handler. None for a bug: it goes on to `server_error`, and to the log with its trace."""
    problem = _problem_of(error)
    if problem is None:
        return None
    # Also where the route itself writes HTML or YAML.
    context["request"].accepted_renderer, context["request"].accepted_media_type = JSONRenderer(), MEDIA_TYPE
    headers = {}
    if getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = error.auth_header
    wait = getattr(error, "wait", None) or getattr(error, "retry_after_seconds", None)
    if wait:
        headers["Retry-After"] = str(math.ceil(wait))
    return Response(problem.body(), status=problem.status, headers=headers, content_type=MEDIA_TYPE)


def _problem_of(error: Exception) -> Problem | None:
    if isinstance(error, BackupsiteError):
        return _of_ours(error)
    if isinstance(error, ModelValidationError):
        return _invalid(_model_items(error))
    if isinstance(error, exceptions.ValidationError):
        return _invalid(tuple(_flat(error.get_full_details())))
    if isinstance(error, Http404):
        return Problem(status=404, code="not_found", detail=_NOT_FOUND)
    if isinstance(error, PermissionDenied):
        return Problem(status=403, code="not_allowed", detail=str(error) or "You may not do this.")
    if isinstance(error, exceptions.APIException):
        code = _CODES.get(error.status_code, error.default_code)
        return Problem(status=error.status_code, code=code, detail=str(error.detail))
    return None


def _of_ours(error: BackupsiteError) -> Problem | None:
    if error.http_status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return None
    problem = Problem(status=error.http_status, code=error.code, detail=error.message, extra=error.extra)
    if error.field is None:
        return problem
    return replace(problem, errors=(Item(field=error.field, code=error.code, detail=error.message),))


def _invalid(items: tuple[Item, ...]) -> Problem:
    named = [f"{item.field}: {item.detail}" if item.field else item.detail for item in items]
    return Problem(status=400, code="invalid_input", detail=" ".join(named), errors=items)


def _model_items(error: ModelValidationError) -> tuple[Item, ...]:
    if not hasattr(error, "error_dict"):
        return tuple(Item(field=None, code="invalid_input", detail=message) for message in error.messages)
    return tuple(
        Item(field=None if field == "__all__" else field, code="invalid_input", detail=message)
        for field, messages in error.message_dict.items()
        for message in messages
    )


def _flat(details: Any, path: str = "") -> list[Item]:
    """DRF's tree of details as a list, with `a.b.0` for places deep in the body."""
    if isinstance(details, dict) and set(details) == {"message", "code"} and not isinstance(details["message"], dict):
        field = path.removesuffix("non_field_errors").rstrip(".") or None
        return [Item(field=field, code=str(details["code"]), detail=str(details["message"]))]
    if isinstance(details, dict):
        return [item for name, inner in details.items() for item in _flat(inner, f"{path}.{name}".lstrip("."))]
    return [item for inner in details for item in _flat(inner, path)]


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _page(request, Problem(status=400, code="invalid_input", detail="The request cannot be understood."))


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _page(request, Problem(status=403, code="not_allowed", detail=str(exception) or "You may not do this."))


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _page(request, Problem(status=404, code="not_found", detail=_NOT_FOUND))


def server_error(request: HttpRequest) -> HttpResponse:
    problem = Problem(status=500, code="internal", detail="Something went wrong here. It is in the log of the service.")
    if _is_for_a_program(request):
        return _json(problem)
    # Without the request: nothing that the page needs may fail once more.
    return HttpResponse(render_to_string("500.html", {"problem": problem}), status=500)


def _page(request: HttpRequest, problem: Problem) -> HttpResponse:
    if _is_for_a_program(request):
        return _json(problem)
    return render(request, "problem.html", {"problem": problem}, status=problem.status)


def _is_for_a_program(request: HttpRequest) -> bool:
    """Nobody at the gate has a browser, and the pages lead to the portal's addresses, which are not there."""
    return request.path.startswith(API_PREFIX) or str(settings.ROLE) == "signer"


def _json(problem: Problem) -> HttpResponse:
    return HttpResponse(json.dumps(problem.body()), status=problem.status, content_type=MEDIA_TYPE)
