"""Where a write comes from: who, by which token, from which address, in which request or task.

In a request it is read from the request itself when it is asked for, because the API finds out who calls only after
the middleware ran. A part that knows better (the gate knows the node of a session) says so with `acting_as`.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from celery import current_task
from django.conf import settings
from django.http import HttpRequest, HttpResponse

from common.ids import new_id

REQUEST_ID_HEADER = "X-Request-Id"
PERSON, ANONYMOUS = "person", "anonymous"
AGENT, NODE, SERVICE, COMMAND = "agent", "node", "service", "command"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who acts and from where; all are texts, empty when there is nothing to say. `actor_kind` is one of the above."""

    actor_kind: str
    actor_id: str = ""
    actor_name: str = ""
    address: str = ""
    token_id: str = ""
    request_id: str = ""


@dataclass(slots=True)
class Visit:
    """One request: what it comes from, what its refusal is about, and what is to be kept whatever is rolled back.

    `reach`: what the caller administers and owns, as it was read in this request (`tenants.querysets`).
    """

    request: HttpRequest
    address: str
    request_id: str
    refused_subject: Any = None
    afterwards: list[Callable[[], object]] = field(default_factory=list)
    reach: dict[Any, Any] = field(default_factory=dict)


_visit: ContextVar[Visit | None] = ContextVar("backupsite_visit", default=None)
_told: ContextVar[Origin | None] = ContextVar("backupsite_origin", default=None)


def current_origin() -> Origin:
    """The origin of what runs now: what `acting_as` says, else the request, else this process itself."""
    told = _told.get()
    if told is not None:
        return told
    visit = _visit.get()
    return _of_visit(visit) if visit is not None else _of_process()


def current_visit() -> Visit | None:
    """The request that is being answered, or None outside of one."""
    return _visit.get()


def note_refused_subject(subject: Any) -> None:
    """What the refusal of this request is about: an object that the caller may see. For the audit."""
    visit = _visit.get()
    if visit is not None:
        visit.refused_subject = subject


@contextmanager
def acting_as(origin: Origin) -> Iterator[None]:
    """Inside the block the origin is this one; address and request id are filled from the request when left empty."""
    visit = _visit.get()
    if visit is not None:
        origin = replace(
            origin, address=origin.address or visit.address, request_id=origin.request_id or visit.request_id
        )
    token = _told.set(origin)
    try:
        yield
    finally:
        _told.reset(token)


def _of_visit(visit: Visit) -> Origin:
    person = getattr(visit.request, "user", None)
    where = {"address": visit.address, "request_id": visit.request_id}
    if person is None or not person.is_authenticated:
        return Origin(ANONYMOUS, **where)
    token_id = getattr(getattr(visit.request, "auth", None), "pk", "")
    kind = getattr(person, "actor_kind", PERSON)
    return Origin(kind, str(person.pk), str(person), token_id=str(token_id or ""), **where)


def _of_process() -> Origin:
    task = current_task
    if task and task.request.id:
        name = f"{settings.ROLE} {settings.CONFIG.node}: {task.name}"
        kind = NODE if str(settings.ROLE) == "node" else SERVICE
        return Origin(kind, actor_name=name, request_id=str(task.request.id))
    if str(settings.ROLE) == "manage":
        return Origin(COMMAND, actor_name=" ".join(["manage.py", *sys.argv[1:2]]))
    return Origin(SERVICE, actor_name=str(settings.ROLE))


def client_address(request: HttpRequest) -> str:
    """The caller's address. `X-Forwarded-For` counts only as far as our own proxies wrote it; empty when unknown."""
    chain = [part.strip() for part in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",") if part.strip()]
    proxies: int = settings.CONFIG.trusted_proxy_count
    direct = request.META.get("REMOTE_ADDR", "")
    claimed = chain[-proxies] if 0 < proxies <= len(chain) else direct
    try:
        return str(ipaddress.ip_address(claimed))
    except ValueError:
        return ""


class OriginMiddleware:
    """Holds the visit while a request is answered, and gives the answer the request's id.

    The id is always made here: one that the caller chose could imitate another request in the audit.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        visit = Visit(request=request, address=client_address(request), request_id=new_id().hex)
        token = _visit.set(visit)
        try:
            response = self._get_response(request)
            for keep in visit.afterwards:
                keep()
        finally:
            _visit.reset(token)
        response.headers[REQUEST_ID_HEADER] = visit.request_id
        return response
