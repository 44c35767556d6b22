"""The OpenAPI document is whole, and its page needs nothing from elsewhere."""

from __future__ import annotations

import re

import pytest
from django.core.management import call_command
from django.test import Client


def test_the_schema_has_no_errors_and_no_warnings(tmp_path: object, db: None) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", f"{tmp_path}/schema.yml")


@pytest.fixture
def schema(db: None) -> dict[str, object]:
    answer = Client().get("/api/v1/schema/", HTTP_ACCEPT="application/json")
    found: dict[str, object] = answer.json()
    return found


def test_it_is_openapi_31_and_every_operation_names_the_error_shape(schema: dict[str, dict[str, dict]]) -> None:
    assert schema["openapi"] == "3.1.0"
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if path.endswith("/schema/"):
                continue
            assert "application/problem+json" in operation["responses"]["default"]["content"], (method, path)


def test_filters_are_described(schema: dict[str, dict[str, dict]]) -> None:
    parameters = schema["paths"]["/api/v1/backups/"]["get"]["parameters"]

    named = {parameter["name"]: parameter for parameter in parameters}
    assert {"server", "status", "removed", "size_min", "created_before", "search", "ordering", "cursor"} <= set(named)
    assert "offset" not in named
    assert named["status"]["schema"]["items"]["enum"] == ["pending", "ok", "restore", "lost"]
    assert (named["status"]["style"], named["status"]["explode"]) == ("form", False)
    assert "-created_at" in named["ordering"]["schema"]["enum"]


def test_what_may_be_answered_and_sent_is_said(schema: dict[str, dict[str, dict]]) -> None:
    paths = schema["paths"]
    change = paths["/api/v1/definitions/{id}/"]["patch"]
    action = paths["/api/v1/definitions/{id}/backup-now/"]["post"]

    assert {"400", "401", "403", "404", "409", "412", "415", "428", "429"} <= set(change["responses"])
    assert "If-Match" in {parameter["name"] for parameter in change["parameters"]}
    assert "Idempotency-Key" in {parameter["name"] for parameter in action["parameters"]}
    assert "text/csv" in paths["/api/v1/backups/"]["get"]["responses"]["200"]["content"]
    assert schema["components"]["schemas"]["NewDefinitionRequest"]["additionalProperties"] is False


POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@pytest.mark.parametrize("query", ["", "?of=backups"])
def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_inline(db: None, query: str) -> None:
    answer = Client().get(f"/api/v1/docs/{query}")

    text = answer.content.decode()
    assert answer.status_code == 200
    assert answer["Content-Security-Policy"] == POLICY
    assert not re.search(r"(?:src|href)=[\"'](?:https?:)?//", text)
    assert not re.search(r"\s(?:style|on[a-z]+)=|<style|<script>|javascript:", text)


def test_the_page_has_every_operation_with_what_it_takes_and_answers(schema: dict[str, dict[str, dict]]) -> None:
    listed = Client().get("/api/v1/docs/").content.decode()
    operations = {(method.upper(), path) for path, methods in schema["paths"].items() for method in methods}
    found = re.findall(r'<code class="api-method">(\w+)</code> <code class="api-path">([^<]+)</code>', listed)
    assert sorted(operations) == sorted(found)
    assert "Three attributes make" not in listed

    links = set(re.findall(r'href="\?of=([\w-]+)#([^"]+)"', listed))
    names = {name for name, _ in links}
    pages = {name: Client().get(f"/api/v1/docs/?of={name}").content.decode() for name in names}
    assert all(f'id="{anchor}"' in pages[name] for name, anchor in links)
    for path, methods in schema["paths"].items():
        page = pages[path.removeprefix("/api/").removeprefix("v1/").partition("/")[0]]
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                assert f"<code>{parameter['name']}</code>" in page, (path, parameter["name"])
    assert "one of: pending, ok, restore, lost" in pages["backups"]
    assert "<code>results[].id</code>" in pages["backups"]
    assert re.search(
        r'<code>disk</code> <span class="text-secondary">needed</span></td>\s*<td [^>]*>body<', pages["definitions"]
    )


def test_there_is_no_page_of_what_is_no_resource(db: None) -> None:
    assert Client().get("/api/v1/docs/?of=nothing").status_code == 404
