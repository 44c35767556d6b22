"""A client that signs each request, as the program of an agent does."""

from __future__ import annotations

import os
import time
from typing import Any

from rest_framework.test import APIClient

from agents.models import Agent
from agents.signing import sign_request


class AgentClient:
    def __init__(self, agent: Agent, private_key: bytes) -> None:
        self.agent_id = agent.pk
        self._key = private_key
        self._client = APIClient()

    def header(self, method: str, path: str, body: bytes = b"", **changes: Any) -> str:
        """The Authorization header of a request; `changes` to what is signed."""
        told = {"time_seconds": int(time.time()), "nonce": os.urandom(16), "agent_id": self.agent_id, **changes}
        return sign_request(private_key=self._key, method=method, path=path, body=body, **told)

    def send(self, method: str, path: str, body: bytes = b"", *, header: str | None = None, **more: Any) -> Any:
        header = header if header is not None else self.header(method, path, body)
        kind = "application/json"
        return self._client.generic(method, path, body, content_type=kind, HTTP_AUTHORIZATION=header, **more)

    def generic(self, method: str, path: str, text: str, content_type: str = "") -> Any:
        return self.send(method, path, text.encode())
