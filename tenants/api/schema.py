"""What the framework adds to the OpenAPI document: errors, headers and CSV, so that no viewset repeats them."""

from __future__ import annotations

from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import get_doc

from common.text import PlainText
from tenants.api.export import MEDIA_TYPE as CSV
from tenants.serializers import BodySerializer, ProblemSerializer

PROBLEM = "application/problem+json"
_MEANINGS = {
    "400": "A parameter or field is wrong or unknown; `errors` names it.",
    "401": "Not signed in, or the token is not valid any more.",
    "403": "Visible, but not allowed.",
    "404": "There is no such object, or none that the caller may know of.",
    "406": "Answers are JSON; lists also CSV.",
    "409": "The state of things forbids it now; `code` says which state.",
    "412": "It was changed meanwhile (If-Match).",
    "415": "Bodies are JSON.",
    "422": "The Idempotency-Key was used for another request.",
    "428": "If-Match is needed here.",
    "429": "Too many requests; Retry-After says when to go on.",
    "503": "Something that is needed does not answer; try again later.",
}
_CHANGES = frozenset({"PATCH", "PUT", "DELETE"})
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same request with the same key is done once, and answered the same for 24 hours.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "description": "The ETag that was seen last; then nothing is done when it is another one now.",
    "schema": {"type": "string", "minLength": 1},
}
_ETAG = {"ETag": {"schema": {"type": "string"}, "description": "Of what an editor can set; for If-Match."}}


class ProblemAutoSchema(AutoSchema):
    """Adds the one error shape, with every status that an operation may answer, and what the base viewset offers."""

    def get_operation(self, *args: Any, **options: Any) -> Any:
        operation = super().get_operation(*args, **options)
        if operation is None:
            return None
        self._add_headers(operation)
        if self._is_list_view():
            _add_csv(operation)
        problem = {PROBLEM: {"schema": self.resolve_serializer(ProblemSerializer, "response").ref}}
        for status in self._statuses(operation):
            operation["responses"].setdefault(status, {"description": _MEANINGS[status], "content": problem})
        operation["responses"]["default"] = {"description": "Any other error.", "content": problem}
        return operation

    def get_description(self) -> str:
        """Nothing where only a base class has words: those are for who writes views."""
        said: str = super().get_description()
        kind = type(self.view)
        return "" if kind.__dict__.get("__doc__") is None and said == get_doc(kind) else said

    def _map_basic_serializer(self, serializer: Any, direction: Any) -> Any:
        """What is sent may hold nothing that is not named here: `BodySerializer` refuses it."""
        schema = super()._map_basic_serializer(serializer, direction)
        if isinstance(serializer, BodySerializer) and schema.get("type") == "object":
            schema["additionalProperties"] = False
        return schema

    def _insert_field_validators(self, field: Any, schema: Any) -> None:
        super()._insert_field_validators(field, schema)
        types = schema.get("type")
        plain = next((found for found in field.validators if isinstance(found, PlainText)), None)
        if plain is not None and "string" in (types if isinstance(types, list) else [types]):
            schema.setdefault("pattern", plain.pattern if field.allow_blank else plain.filled_pattern)

    def _is_scoped(self) -> bool:
        return hasattr(self.view, "role_actions")

    def _etags(self) -> bool:
        return bool(getattr(self.view, "etag_fields", ()))

    def _add_headers(self, operation: Any) -> None:
        parameters = operation.setdefault("parameters", [])
        if self.method == "POST" and self._is_scoped():
            parameters.append(_IDEMPOTENCY_KEY)
        if self._etags() and self.method in _CHANGES:
            parameters.append(_IF_MATCH)
        if self._etags() and getattr(self.view, "action", "") in {"retrieve", "partial_update"}:
            operation["responses"]["200"]["headers"] = _ETAG
        if not parameters:
            del operation["parameters"]

    def _statuses(self, operation: Any) -> list[str]:
        found = {"400", "406", "429"} | ({"401"} if operation.get("security") else set())
        if self._is_scoped():
            found |= {"403"}
        if "{" in self.path or "requestBody" in operation:
            found |= {"404"}
        if self.method not in {"GET", "HEAD"}:
            found |= {"409", "503"}
        if self.method == "POST":
            found |= {"415", "422"}
        if self.method in _CHANGES:
            found |= {"412", "415", "428"} if self._etags() else {"415"}
        return sorted(found)


def plain_values(result: Any, **_: Any) -> Any:
    """A hook of drf-spectacular: what it writes of model fields, as answers really are.

    JSON that may be null is any JSON: one of two schemas that both fit would fit neither. An address that is only
    read may be empty.
    """
    waiting = list(result.get("components", {}).get("schemas", {}).values())
    while waiting:
        schema = waiting.pop()
        waiting.extend(schema.get("properties", {}).values())
        if schema.get("oneOf") == [{}, {"type": "null"}]:
            del schema["oneOf"]
        if schema.get("readOnly") and schema.get("format") in {"email", "uri"}:
            del schema["format"]
    return result


def _add_csv(operation: Any) -> None:
    answer = operation["responses"].get("200")
    if answer is None:
        return
    answer.setdefault("content", {})[CSV] = {"schema": {"type": "string"}}
