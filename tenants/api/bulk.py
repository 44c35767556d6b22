"""One action on many objects, each with a result of its own.

All items are one transaction, each in a savepoint: what fails for one leaves the others. What the caller cannot see is
`not_found`, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError as ModelValidationError
from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.response import Response

from common.errors import BackupsiteError, InvalidInputError, NotAllowedError
from tenants.access import get_for_user
from tenants.models import Person
from tenants.refusals import REFUSED, note_refusal
from tenants.roles import Action
from tenants.serializers import BodySerializer

MOST_ITEMS = 500


@dataclass(frozen=True, slots=True)
class Verb:
    """An action of `bulk/`: what it is in the role table, and what it does to one object.

    `run` gets the object, the order and the person; it gives the address of what came of it (a job), or None.
    """

    role_action: Action
    run: Callable[[Any, Mapping[str, Any], Person], str | None]
    status: int = 200


@extend_schema_field(
    {
        "type": "array",
        "items": {"type": "string", "format": "uuid"},
        "minItems": 1,
        "maxItems": MOST_ITEMS,
        "uniqueItems": True,
    }
)
class UniqueIdsField(serializers.ListField):
    """Ids, each once."""


class BulkSerializer(BodySerializer):
    """Base of the orders; a subclass adds the field `action`, and what its actions need besides."""

    ids = UniqueIdsField(child=serializers.UUIDField(), min_length=1, max_length=MOST_ITEMS)

    def validate_ids(self, ids: list[UUID]) -> list[UUID]:
        if len(set(ids)) != len(ids):
            raise serializers.ValidationError("Name each object once.", code="duplicate")
        return ids


class BulkItemSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    status = serializers.IntegerField(help_text="As the action alone would have answered.")
    code = serializers.CharField(help_text="`ok`, or the code of the error.")
    detail = serializers.CharField(allow_blank=True)
    location = serializers.CharField(allow_null=True, help_text="What came of it, such as a job.")


class BulkResultSerializer(serializers.Serializer[Any]):
    """One result for each id, in their order."""

    results = BulkItemSerializer(many=True)


def bulk_response(view: Any, verbs: Mapping[str, Verb], order: Mapping[str, Any]) -> Response:
    """Do the order's action on its ids. Raises NotAllowedError when the caller may do it with nothing at all."""
    verb = verbs[order["action"]]
    route = f"{view.basename}-bulk"
    results = carry_out(view.queryset.all(), verb, order, person=view.request.user, route=route)
    return Response(BulkResultSerializer({"results": results}).data)


def carry_out(rows: Any, verb: Verb, order: Mapping[str, Any], *, person: Person, route: str) -> list[dict[str, Any]]:
    """The same for whoever asks: one result for each of the order's `ids`, as BulkItemSerializer has them.

    `rows` are of a scoped model, not yet narrowed to the person; `route` goes into the record of what was refused.
    """
    if not rows.for_user(person, verb.role_action).exists():
        raise NotAllowedError(f"Your role does not {verb.role_action} {rows.model._meta.verbose_name_plural}.")
    with transaction.atomic():
        return [_one(rows, verb, order, key, person=person, route=route) for key in order["ids"]]


def _one(rows: Any, verb: Verb, order: Mapping[str, Any], key: UUID, *, person: Person, route: str) -> dict[str, Any]:
    try:
        with transaction.atomic():
            found = get_for_user(rows, person=person, action=verb.role_action, pk=key)
            location = verb.run(found, order, person)
    except ModelValidationError as error:
        return _refused(route, key, InvalidInputError(" ".join(error.messages)))
    except BackupsiteError as error:
        if error.http_status == 500:
            raise
        return _refused(route, key, error)
    return {"id": key, "status": verb.status, "code": "ok", "detail": "", "location": location}


def _refused(route: str, key: UUID, error: BackupsiteError) -> dict[str, Any]:
    if error.http_status in {403, 404}:
        # The answer as a whole is 200, so the middleware does not see it.
        facts = {"method": "POST", "route": route, "object": str(key), "status": error.http_status}
        note_refusal(action=REFUSED, facts=facts, now=timezone.now())
    return {"id": key, "status": error.http_status, "code": error.code, "detail": error.message, "location": None}
