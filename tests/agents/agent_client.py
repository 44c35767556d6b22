"""A client that signs each request, as the program of an agent does."""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any

import msgspec
from django.conf import settings
from rest_framework.test import APIClient

from agents.agent_messages import ClaimRequest, HostFacts, PollAnswer, PollRequest
from agents.answer_signing import HEADER, is_answer_signed, refused_name
from agents.models import Agent
from agents.signing import read_header, sign_request

HOST = HostFacts(hostname="web01", machine="m" * 64, boot="b1", system="Debian", kernel="6.1", architecture="x86_64")


class AgentClient:
    def __init__(self, agent: Agent, private_key: bytes) -> None:
        self.agent_id = agent.pk
        self._key = private_key
        self._client = APIClient()
        self.count = 0

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

    def ask(self, path: str, message: msgspec.Struct | None = None, *, method: str = "POST", **changes: Any) -> Any:
        """The answer below /agent/v1/; its signature is looked at."""
        body = msgspec.json.encode(message) if message is not None else b""
        address = f"/agent/v1/{path}"
        header = self.header(method, address, body, **changes)
        answer = self.send(method, address, body, header=header)
        assert is_signed(answer, header=header, body=body), answer.content
        return answer

    def poll(self, *, host: HostFacts = HOST, version: str = "1.0", **more: Any) -> Any:
        """The raw answer to a poll that is one further."""
        self.count = more.pop("count", self.count + 1)
        changes = more.pop("signed", {})
        return self.ask("poll/", PollRequest(host=host, version=version, count=self.count, **more), **changes)

    def claim(self, job: object, *, count: int | None = None, **changes: Any) -> Any:
        """The raw answer; it counts on as polls do."""
        self.count = self.count + 1 if count is None else count
        return self.ask("claim/", ClaimRequest(str(job), self.count), **changes)

    def polled(self, **more: Any) -> PollAnswer:
        answer = self.poll(**more)
        assert answer.status_code == 200, answer.content
        return msgspec.json.decode(answer.content, type=PollAnswer)


def is_signed(answer: Any, *, header: str = "", body: bytes = b"") -> bool:
    """As the program looks at it."""
    proof = read_header(header)
    names = [proof.name if proof else hashlib.sha256(body).hexdigest()]
    names += [refused_name(names[0])] if proof and answer.status_code >= 400 else []
    told: dict[str, Any] = {
        "header": answer.headers.get(HEADER, ""),
        "status": answer.status_code,
        "body": answer.content,
    }
    return any(is_answer_signed(settings.CONFIG.control_public_key_bytes, request=name, **told) for name in names)
