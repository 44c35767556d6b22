"""Idempotency-Key on POST: the same request again gives the same answer again, and does nothing twice.

Kept are answers of success. A refusal did nothing, so the same key may be tried again after it, as after an error of
the service. A key is free again when its request broke off without an answer and its lease is over; whoever asks then
should look first whether it was done.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.http import HttpResponse
from django.utils import timezone
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request

from common.errors import ConflictError, IdempotencyMismatchError, InvalidInputError
from tenants.models import IdempotencyRecord

LIFETIME = timedelta(hours=24)
LEASE = timedelta(minutes=2)
LARGEST_BODY = 256 * 1024
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_KEPT_HEADERS = ("Location", "ETag")


@dataclass(frozen=True, slots=True)
class Claim:
    """The right of one attempt to answer a key."""

    record_id: int
    attempt: int
    secret: bool

    def finish(self, response: Any) -> None:
        """Keep the answer, or free the key where nothing was done."""
        mine = IdempotencyRecord.objects.filter(pk=self.record_id, attempt=self.attempt, status=None)
        if response.status_code >= 400:
            mine.delete()
            return
        body = "" if self.secret else _text_of(response)
        kept = not self.secret and len(body) <= LARGEST_BODY
        headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
        mine.update(status=response.status_code, replayable=kept, body=body if kept else "", headers=headers)

    def release(self) -> None:
        IdempotencyRecord.objects.filter(pk=self.record_id, attempt=self.attempt, status=None).delete()


class Replay(Exception):
    """Not an error: carries the answer that was given before."""

    def __init__(self, answer: HttpResponse) -> None:
        super().__init__()
        self.answer = answer


def claim(request: Request, *, principal: str, secret: bool, now: datetime | None = None) -> Claim | None:
    """The claim on the request's key; None without a key. Raises Replay for one that is answered already.

    Raises InvalidInputError for what is no key, IdempotencyMismatchError when it was used for another request,
    ConflictError while the first one is under way, or when its answer is not kept.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None or request.method != "POST":
        return None
    if not _KEY.fullmatch(key):
        raise InvalidInputError("Idempotency-Key has 1 to 255 visible ASCII characters.", field="Idempotency-Key")
    # A hash of the bytes that came: the body is read once and kept by the request.
    digest = hashlib.sha256(request._request.body).hexdigest()
    asked = {"method": "POST", "path": request.get_full_path()[:2000], "body_hash": digest}
    moment = now or timezone.now()
    with transaction.atomic():
        record = _record(principal=principal, key=key, asked=asked, now=moment)
    return Claim(record_id=record.pk, attempt=record.attempt, secret=secret)


def remove_expired(*, now: datetime) -> int:
    """Forget what is older than LIFETIME. Returns how many."""
    return IdempotencyRecord.objects.filter(expires_at__lte=now).delete()[0]


def _record(*, principal: str, key: str, asked: dict[str, str], now: datetime) -> IdempotencyRecord:
    times = {"lease_until": now + LEASE, "expires_at": now + LIFETIME}
    locked = IdempotencyRecord.objects.select_for_update()
    record, is_new = locked.get_or_create(principal=principal, key=key, defaults={**asked, **times})
    if is_new:
        return record
    if record.expires_at > now:
        _refuse_other(record, asked)
        _give_again(record)
        _refuse_under_way(record, now=now)
    # Too old, or broken off: this attempt takes over.
    changes = {**asked, **times, "attempt": record.attempt + 1, "status": None, "body": "", "headers": {}}
    for name, value in {**changes, "replayable": True}.items():
        setattr(record, name, value)
    record.save()
    return record


def _refuse_other(record: IdempotencyRecord, asked: dict[str, str]) -> None:
    if any(getattr(record, name) != value for name, value in asked.items()):
        raise IdempotencyMismatchError("This Idempotency-Key was used for another request. Take a new one.")


def _give_again(record: IdempotencyRecord) -> None:
    if record.status is None:
        return
    if not record.replayable:
        location = record.headers.get("Location")
        where = f" See {location}." if location else ""
        raise ConflictError(
            f"This was done already; its answer is not kept.{where}",
            code="already_done",
            extra={"location": location} if location else None,
        )
    answer = HttpResponse(record.body, status=record.status, content_type="application/json")
    for name, value in {**record.headers, "Idempotent-Replayed": "true"}.items():
        answer.headers[name] = value
    raise Replay(answer)


def _refuse_under_way(record: IdempotencyRecord, *, now: datetime) -> None:
    if record.lease_until <= now:
        return
    error = ConflictError("The first request with this Idempotency-Key is under way.", code="idempotency_in_flight")
    error.retry_after_seconds = max(1, min(5, int((record.lease_until - now).total_seconds())))
    raise error


def _text_of(response: Any) -> str:
    data = getattr(response, "data", None)
    return "" if data is None else JSONRenderer().render(data).decode()
