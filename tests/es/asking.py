"""Asking the es API as a person does, by an API key."""

from __future__ import annotations

from typing import Any

from rest_framework.test import APIClient

from tenants.models import Person
from tests.factories import make_token


class Asker:
    """`get`, `create`, `set` and `delete` give (status, body)."""

    def __init__(self, person: Person | None, **token: Any) -> None:
        key = {} if person is None else {"HTTP_ES_API_KEY": make_token(person, **token)}
        self.client = APIClient(**key)

    def get(self, resource: str, **given: Any) -> tuple[int, Any]:
        return self._told(self.client.get(f"/api{resource}", given))

    def create(self, resource: str, **given: Any) -> tuple[int, Any]:
        return self._told(self.client.post(f"/api{resource}", given))

    def set(self, resource: str, **given: Any) -> tuple[int, Any]:
        return self._told(self.client.put(f"/api{resource}", given))

    def delete(self, resource: str, **given: Any) -> tuple[int, Any]:
        return self._told(self.client.delete(f"/api{resource}", given))

    @staticmethod
    def _told(answer: Any) -> tuple[int, Any]:
        return answer.status_code, answer.json()


def code(told: tuple[int, Any]) -> tuple[int, str]:
    """Status and code of an error, whose form is looked at by the way."""
    status, body = told
    assert (body["status"], body["task_id"]) == ("FAILURE", None)
    assert body["detail"] and body["result"]
    return status, body["code"]


def refused(told: tuple[int, Any]) -> tuple[int, set[str]]:
    """Status and the parameters that are wrong."""
    code(told)
    return told[0], set(told[1]["result"])
