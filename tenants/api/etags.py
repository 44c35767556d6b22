"""ETag and If-Match: nobody overwrites what somebody else changed meanwhile.

An ETag covers what an editor can set, which the viewset names in `etag_fields`; figures that the service keeps (sizes,
the next run, the time of the last change) do not make it another one. It says nothing about caching: every answer is
`no-store`, and there is no 304.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from rest_framework.request import Request

from common.errors import ChangedMeanwhileError, IfMatchNeededError

LONGEST_IF_MATCH = 1_000


def etag_of(instance: models.Model, fields: Sequence[str]) -> str:
    """A strong ETag, in its quotes."""
    values = [str(instance.pk), *[getattr(instance, instance._meta.get_field(name).attname) for name in fields]]
    text = json.dumps(values, cls=DjangoJSONEncoder, sort_keys=True)
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def locked(instance: Any, fields: Sequence[str], request: Request) -> Any:
    """The row as it is now, locked until the transaction ends, when it is what If-Match asks for.

    Raises ChangedMeanwhileError, or IfMatchNeededError when the header is missing and API_REQUIRE_IF_MATCH is set.
    Without the header the instance is given back as it came.
    """
    wanted = request.headers.get("If-Match")
    if wanted is None:
        if settings.API_REQUIRE_IF_MATCH:
            raise IfMatchNeededError("Say with If-Match what you saw last: the ETag of the object, or *.")
        return instance
    model = type(instance)
    # Not the caller's instance: between reading it and locking it somebody may have written.
    current = model._default_manager.select_for_update().filter(pk=instance.pk).first()
    if current is None or not _matches(wanted, etag_of(current, fields)):
        raise ChangedMeanwhileError("It was changed meanwhile. Read it again, and decide again.")
    instance.refresh_from_db()
    return instance


def _matches(wanted: str, etag: str) -> bool:
    """Strong comparison: a weak ETag equals nothing, as RFC 9110 says."""
    if len(wanted) > LONGEST_IF_MATCH:
        return False
    return wanted.strip() == "*" or etag in [part.strip() for part in wanted.split(",")]
