"""Refused attempts in the audit, so that an attacker cannot fill it: the first of a kind is a record at once, what
follows within ten minutes is counted, and the count is one more record at the end of that time.

A kind is a caller, a route with its method, and a status. One caller gets a few kinds, all who did not sign in get some
more together; beyond that everything falls into one last kind. Refusals are written outside of the request's own
transaction, which was rolled back.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, IntegrityError, transaction
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from tenants.audit import record
from tenants.models.audit import AuditEvent, RefusalBucket
from tenants.origin import ANONYMOUS, Origin, acting_as, client_address, current_origin, current_visit

logger = logging.getLogger(__name__)

WINDOW = timedelta(minutes=10)
MOST_KINDS_OF_A_PERSON = 20
MOST_KINDS_OF_STRANGERS = 100
_STRANGERS = "strangers"
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
REFUSED, TOKEN_REFUSED, SIGN_IN_FAILED = "access.refused", "sign_in.token_refused", "sign_in.failed"  # names
_ORIGIN_FACTS = ("actor_kind", "actor_id", "actor_name", "address", "token_id", "request_id")


class RefusalMiddleware:
    """Notes what was answered with 401 to a token, 403, 429, and 404 to a write. Stands inside OriginMiddleware."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        action = _action_of(request, response.status_code)
        if action is not None and not getattr(response, "is_no_refusal", False):
            _note_answer(request, response.status_code, action=action)
        return response


def _action_of(request: HttpRequest, status: int) -> str | None:
    if status in {403, 429} or (status == 404 and request.method not in _READING and request.resolver_match):
        return REFUSED
    has_token = "HTTP_AUTHORIZATION" in request.META or "HTTP_ES_API_KEY" in request.META
    return TOKEN_REFUSED if status == 401 and has_token else None


def _note_answer(request: HttpRequest, status: int, *, action: str) -> None:
    match, visit = request.resolver_match, current_visit()
    facts = {
        "method": request.method or "",
        "route": match.view_name if match else "",
        "object": str(match.kwargs.get("pk", ""))[:64] if match else "",
        "status": status,
    }
    note_refusal(action=action, facts=facts, subject=visit.refused_subject if visit else None, now=timezone.now())


def note_refusal(*, action: str, facts: dict[str, Any], now: datetime, subject: Any = None) -> None:
    """Record or count one refusal. Trouble with the database is for the log: the caller was refused in any case."""
    origin = current_origin()
    try:
        with transaction.atomic():
            _count(origin, action=action, facts=facts, subject=subject, now=now)
    except DatabaseError:
        logger.warning("a refusal was not recorded", extra={"action": action}, exc_info=True)


def _count(origin: Origin, *, action: str, facts: dict[str, Any], subject: Any, now: datetime) -> None:
    caller = origin.actor_id or _STRANGERS
    kind = (origin.actor_id or origin.address, action, facts.get("method"), facts.get("route"), facts.get("status"))
    key = hashlib.sha256(repr(kind).encode()).hexdigest()
    if _add(key):
        return
    limit = MOST_KINDS_OF_STRANGERS if caller == _STRANGERS else MOST_KINDS_OF_A_PERSON
    if RefusalBucket.objects.filter(caller=caller).count() >= limit:
        key, action, facts, subject = f"many:{caller}", REFUSED, {"kinds": f"more than {limit}"}, None
        if _add(key):
            return
    told = {"action": action, "facts": facts, **{name: getattr(origin, name) for name in _ORIGIN_FACTS}}
    try:
        with transaction.atomic():
            RefusalBucket.objects.create(key=key, caller=caller, opened_at=now, facts=told)
    except IntegrityError:
        _add(key)
        return
    record(action=action, subject=subject, after=facts, outcome=AuditEvent.Outcome.REFUSED)


def _add(key: str) -> bool:
    return RefusalBucket.objects.filter(key=key).update(count=F("count") + 1) == 1


def close_refusals(*, now: datetime) -> None:
    """End what was opened more than ten minutes ago; what was counted becomes one record each."""
    for bucket in RefusalBucket.objects.filter(opened_at__lte=now - WINDOW).order_by("pk"):
        with transaction.atomic():
            current = RefusalBucket.objects.select_for_update().filter(pk=bucket.pk).first()
            if current is None:
                continue
            current.delete()
            if current.count:
                _tell(current)


def _tell(bucket: RefusalBucket) -> None:
    told = dict(bucket.facts)
    origin = Origin(**{name: told[name] for name in _ORIGIN_FACTS})
    facts = {**told["facts"], "more": bucket.count, "since": bucket.opened_at.isoformat(timespec="seconds")}
    with acting_as(origin):
        record(action=told["action"], after=facts, outcome=AuditEvent.Outcome.REFUSED)


def note_failed_sign_in(request: HttpRequest | None, *, person: Any, now: datetime) -> None:
    """A sign-in that failed. What was typed as a name is not kept: people type passwords there."""
    address = client_address(request) if request is not None else ""
    with acting_as(Origin(ANONYMOUS, address=address)):
        known = {"account": person.username} if person is not None else {"account": "unknown"}
        # One kind per account and address: an account under attack is seen, a flood is not.
        note_refusal(action=SIGN_IN_FAILED, facts={**known, "route": known["account"]}, now=now, subject=person)
