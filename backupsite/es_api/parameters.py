"""The parameters of the es grammar, from the query, from a JSON body, or from both.

One that nothing looks at is refused with its name, as everywhere here: a mistyped `-disk` must not fall back to disk 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import UnsupportedMediaType, ValidationError
from rest_framework.fields import empty
from rest_framework.request import Request

from backupsite.es_api.errors import PreconditionError
from tenants.serializers import BodySerializer

MOST_ROWS = 10_000
MOST_NAMES = 500
_CALLBACKS = "Nothing is called back. Ask /task/<id>/status, or have a webhook told of it."


class Parameters(BodySerializer):
    """What every resource takes. `dc` is the name, the title or the id of a tenant."""

    dc = serializers.CharField(required=False, max_length=100, help_text="Within this virtual data center only.")

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping) and (called := {"cb_url", "cb_method"} & set(data)):
            raise serializers.ValidationError({name: [_CALLBACKS] for name in sorted(called)}, code="no_callbacks")
        return super().to_internal_value(data)


class ShowParameters(Parameters):
    extended = serializers.BooleanField(default=False, help_text="With counts and sums.")


def order_of(help_text: str) -> Any:
    # Not trimmed: a plus arrives as a blank.
    return serializers.CharField(required=False, max_length=200, trim_whitespace=False, help_text=help_text)


class ListParameters(ShowParameters):
    full = serializers.BooleanField(default=False, help_text="Objects instead of names.")
    order_by = order_of("Columns; a minus before turns it round.")
    page = serializers.IntegerField(required=False, min_value=1, max_value=1_000_000)
    limit = serializers.IntegerField(default=MOST_ROWS, min_value=1, max_value=MOST_ROWS, help_text="Rows of a page.")


class CodeField(serializers.Field[Any, Any, Any, Any]):
    """A choice by its number in this grammar, or by its word."""

    def __init__(self, codes: Mapping[int, str], **options: Any) -> None:
        super().__init__(**options)
        self._words = {
            **{str(number): word for number, word in codes.items()},
            **{word: word for word in codes.values()},
        }
        self._shown = ", ".join(f"{number} ({word})" for number, word in codes.items())

    def to_internal_value(self, data: Any) -> str:
        word = None if isinstance(data, bool) else self._words.get(str(data).lower())
        if word is None:
            raise ValidationError(f"Choose one of {self._shown}.", code="invalid_choice")
        return word

    def to_representation(self, value: Any) -> Any:
        return value


class NamesField(serializers.ListField):
    """Names as a list, or in one text with commas between them."""

    child = serializers.CharField(max_length=100)

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str | list):
            raise PreconditionError("These are names: a list, or a text with commas.", field=self.field_name)
        return super().to_internal_value([name for name in data.split(",") if name] if isinstance(data, str) else data)


_DISKS = {"min_value": 1, "max_value": 32_767, "help_text": "Disks count from 1."}


class DiskNumberField(serializers.IntegerField):
    """What no disk can have as its number is no disk: 412, as for a number that none has."""

    def run_validation(self, data: Any = empty) -> Any:
        try:
            return super().run_validation(data)
        except ValidationError as error:
            raise PreconditionError(
                "There is no such disk: disks count from 1.", code="no_such_disk", field=self.field_name
            ) from error


def disk_number(**options: Any) -> Any:
    return DiskNumberField(**_DISKS, **options)


def target_disk_number() -> Any:
    return serializers.IntegerField(required=False, **_DISKS)


def read_parameters(request: Request, serializer_class: type[Parameters], *, path_dc: str | None) -> dict[str, Any]:
    """Those of the request, checked. Raises ValidationError with the name of what is wrong, unknown, or said twice."""
    body = {} if request.method in {"GET", "OPTIONS"} and not request.body else _body(request)
    if not isinstance(body, Mapping):
        raise ValidationError("The body is an object with parameters.", code="invalid")
    query = {name: _from_query(name, values, serializer_class) for name, values in request.query_params.lists()}
    query.pop("format", None)
    path = {} if path_dc is None else {"dc": path_dc}
    twice = sorted(_both(query, body) | _both(path, {**query, **body}))
    if twice:
        raise ValidationError({name: ["Said twice, and not the same."] for name in twice}, code="given_twice")
    serializer = serializer_class(data={**query, **body, **path}, context={"request": request})
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


def _body(request: Request) -> Any:
    try:
        return request.data
    except UnsupportedMediaType as error:
        # As curl sends without being told otherwise.
        error.detail = "Send the parameters as JSON, with the header Content-Type: application/json."
        raise


def _from_query(name: str, values: list[str], serializer_class: type[Parameters]) -> Any:
    many = isinstance(serializer_class._declared_fields.get(name), serializers.ListField)
    if many:
        return [name for value in values for name in value.split(",") if name]
    if len(values) > 1:
        raise ValidationError({name: ["Given more than once."]}, code="given_twice")
    return values[0]


def _both(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    return {name for name in set(one) & set(other) if one[name] != other[name]}
