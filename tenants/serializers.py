"""What all serializers of the API share: strict bodies, times in UTC, references that resolve through `for_user`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import Any, ClassVar

from django.db import models
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from common.errors import BackupsiteError
from common.text import plain_text_of
from tenants.access import get_for_user
from tenants.models import Tenant
from tenants.querysets import ScopedQuerySet
from tenants.roles import Action


class UtcDateTimeField(serializers.DateTimeField):
    """ISO 8601 with Z, whatever the zone of the person who asks."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"default_timezone": UTC, **options})


@extend_schema_field({"type": "string", "pattern": r"^([01]\d|2[0-3]):[0-5]\d$", "example": "22:00"})
class LocalTimeField(serializers.TimeField):
    """A time of day to the minute, `22:00`, in the zone that stands beside it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"format": "%H:%M", "input_formats": ["%H:%M"], **options})


class ReadSerializer(serializers.ModelSerializer[Any]):
    """Base of everything that is answered."""

    serializer_field_mapping = {
        **serializers.ModelSerializer.serializer_field_mapping,
        models.DateTimeField: UtcDateTimeField,
        models.TimeField: LocalTimeField,
    }


class BodySerializer(serializers.Serializer[Any]):
    """Base of everything that is sent: a field that is not known is refused, never silently dropped.

    Texts hold only what is seen, but those of `raw_fields`: passwords, and what is made plain behind this.
    """

    raw_fields: ClassVar[frozenset[str]] = frozenset()

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        fields = super().get_fields()
        for name, field in fields.items():
            text = getattr(field, "child", field)
            if isinstance(text, serializers.CharField) and name not in self.raw_fields:
                text.validators.append(plain_text_of(name))
        return fields

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            unknown = sorted(str(name) for name in set(data) - set(self.fields))
            if unknown:
                message = "This field is not known here, or cannot be written."
                raise serializers.ValidationError({name: [message] for name in unknown}, code="unknown_field")
            wrong = [name for name, field in self.fields.items() if _is_no_text(field, data.get(name))]
            if wrong:
                raise serializers.ValidationError({name: ["Not a valid string."] for name in wrong}, code="invalid")
        return super().to_internal_value(data)


def _is_no_text(field: serializers.Field[Any, Any, Any, Any], value: Any) -> bool:
    """A number where the document says text: DRF would make a text of it."""
    return isinstance(field, serializers.CharField) and isinstance(value, (int, float))


class ScopedField(serializers.UUIDField):
    """The id of an object on which the caller may do `action`; gives the object.

    Invisible answers 404 and visible but not allowed 403, as if the object had been asked for by its own address.
    """

    def __init__(self, *, queryset: ScopedQuerySet, action: Action = Action.VIEW, **options: Any) -> None:
        super().__init__(**options)
        self._queryset = queryset
        self._action = action

    def to_internal_value(self, data: Any) -> Any:
        key = super().to_internal_value(data)
        person = self.context["request"].user
        try:
            return get_for_user(self._queryset, person=person, action=self._action, pk=key)
        except BackupsiteError as error:
            error.field = self.field_name
            raise


class ProblemItemSerializer(serializers.Serializer[Any]):
    field = serializers.CharField(allow_null=True)
    code = serializers.CharField()
    detail = serializers.CharField()


class ProblemSerializer(serializers.Serializer[Any]):
    """Every error of the API, as RFC 9457 says it."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField()
    errors = ProblemItemSerializer(many=True)


class TenantSerializer(ReadSerializer):
    class Meta:
        model = Tenant
        fields = ("id", "name", "title", "status", "status_reason", "created_at", "changed_at")
        read_only_fields = fields
