"""The page that describes the API: the OpenAPI document as lists that the server makes, without scripts of others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.renderers import TemplateHTMLRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from tenants.api.schema_view import document

_PREFIX = "/api/v1/"
# Of an answer: rows of a page are two levels below it.
_MOST_DEPTH = 3
_KINDS = {
    "uuid": "id",
    "date-time": "time",
    "date": "day",
    "email": "e-mail address",
    "uri": "address",
    "time": "time of day",
}


@dataclass(frozen=True, slots=True)
class Value:
    """A parameter, or a field of what is sent or answered; `name` is dotted where it lies deeper."""

    name: str
    kind: str
    place: str = ""
    words: str = ""
    is_needed: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    method: str
    path: str
    paragraphs: tuple[str, ...]
    takes: tuple[Value, ...]
    answers: tuple[tuple[str, str, tuple[Value, ...]], ...]
    refusals: tuple[tuple[str, str], ...]

    @property
    def anchor(self) -> str:
        return f"{self.method.lower()}{self.path.translate(str.maketrans('/', '-', '{}'))}".rstrip("-")

    @property
    def summary(self) -> str:
        return self.paragraphs[0]

    @property
    def opens(self) -> bool:
        """Whether a browser can go there: it reads, and needs no id."""
        return self.method == "GET" and "{" not in self.path and self.path.startswith(_PREFIX)


@dataclass(slots=True)
class Resource:
    name: str
    operations: list[Operation] = field(default_factory=list)

    @property
    def refusals(self) -> list[tuple[str, str]]:
        return sorted({refusal for row in self.operations for refusal in row.refusals})


class DocsView(APIView):
    """All operations; with `of=backups` what those of one resource take and answer. Everybody may read it."""

    permission_classes = (AllowAny,)
    renderer_classes = (TemplateHTMLRenderer,)

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        """404 for a resource that there is not."""
        name = request.query_params.get("of")
        found = _resources()
        if name is not None and name not in found:
            raise Http404
        chosen = found.get(name or "")
        told = {"resources": found.values(), "chosen": chosen, "refusals": chosen.refusals if chosen else []}
        return Response(told, template_name="backupsite/api_docs.html")


@cache
def _resources() -> dict[str, Resource]:
    """By name, in the document's order; what is no resource (logging in) is one of its own."""
    made = document()
    schemas = made["components"]["schemas"]
    found: dict[str, Resource] = {}
    for path, methods in made["paths"].items():
        name = path.removeprefix(_PREFIX if path.startswith(_PREFIX) else "/api/").partition("/")[0]
        resource = found.setdefault(name, Resource(name))
        resource.operations += [_operation(method, path, row, schemas) for method, row in methods.items()]
    return dict(sorted(found.items()))


def _operation(method: str, path: str, row: dict[str, Any], schemas: dict[str, Any]) -> Operation:
    takes = [_parameter(parameter, schemas) for parameter in row.get("parameters", [])]
    takes += _values(_content(row.get("requestBody", {})), schemas, place="body")
    codes = {code: answer for code, answer in row["responses"].items() if code != "default"}
    return Operation(
        method=method.upper(),
        path=path,
        paragraphs=_paragraphs(row.get("description", "")) or (_plainly(method, path, answers=row["responses"]),),
        takes=tuple(sorted(takes, key=lambda value: not value.is_needed)),
        answers=tuple(
            (code, answer.get("description", ""), tuple(_values(_content(answer), schemas)))
            for code, answer in codes.items()
            if code < "400"
        ),
        refusals=tuple((code, answer["description"]) for code, answer in codes.items() if code >= "400"),
    )


def _plainly(method: str, path: str, *, answers: dict[str, Any]) -> str:
    """What it does where nothing more is to be said of it."""
    if method == "get":
        return "One of them." if path.endswith("}/") else "What you may see of them."
    if method == "post":
        return "Make one." if "201" in answers else "Do it."
    return {"patch": "Change it.", "delete": "Remove it."}.get(method, "")


def _parameter(row: dict[str, Any], schemas: dict[str, Any]) -> Value:
    return Value(
        row["name"],
        _kind(row["schema"], schemas),
        row["in"],
        _words(row),
        bool(row.get("required")) or row["in"] == "path",
    )


def _content(holder: dict[str, Any]) -> dict[str, Any]:
    """The schema of JSON that is sent or answered; nothing where there is none."""
    found: dict[str, Any] = holder.get("content", {}).get("application/json", {}).get("schema", {})
    return found


def _values(
    schema: dict[str, Any], schemas: dict[str, Any], *, place: str = "", at: str = "", depth: int = 0
) -> list[Value]:
    """The fields of an object, or of the objects of a list, with those of objects within."""
    schema = _whole(schema, schemas)
    if "items" in schema:
        return _values(schema["items"], schemas, place=place, at=f"{at}[]", depth=depth)
    needed = schema.get("required", []) if place else []
    found: list[Value] = []
    for name, inner in schema.get("properties", {}).items():
        dotted = f"{at}.{name}".lstrip(".")
        found.append(Value(dotted, _kind(inner, schemas), place, _words(inner), name in needed))
        if depth < _MOST_DEPTH:
            found += _values(inner, schemas, place=place, at=dotted, depth=depth + 1)
    return found


def _whole(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """With what it refers to, and of what it may be, the first that is not null."""
    while True:
        if "$ref" in schema:
            schema = schemas[schema["$ref"].rpartition("/")[2]]
        elif choices := [part for key in ("allOf", "oneOf", "anyOf") for part in schema.get(key, []) if _is_some(part)]:
            schema = choices[0]
        else:
            return schema


def _is_some(schema: dict[str, Any]) -> bool:
    return schema.get("type") != "null"


def _kind(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    """In words: `id`, `list of one of: ok, lost`, `number or null`."""
    return " or ".join(dict.fromkeys(_kinds(schema, schemas))) or "anything"


def _kinds(schema: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        yield from _kinds(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    elif choices := [part for key in ("allOf", "oneOf", "anyOf") for part in schema.get(key, [])]:
        for choice in choices:
            yield from _kinds(choice, schemas)
    elif "enum" in schema:
        yield "one of: " + ", ".join("null" if value is None else str(value) or "(empty)" for value in schema["enum"])
    elif "items" in schema:
        yield f"list of {_kind(schema['items'], schemas)}"
    else:
        types = schema.get("type", [])
        for kind in types if isinstance(types, list) else [types]:
            yield _KINDS.get(schema.get("format", ""), "text") if kind == "string" else kind


def _words(row: dict[str, Any]) -> str:
    """What is said of it, without the list of its choices, which its kind has."""
    return str(row.get("description", "")).partition("* `")[0].strip()


def _paragraphs(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split("\n\n") if part.strip())
