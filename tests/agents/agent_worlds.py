"""Servers with agents, and programs that enrol, for the tests of both."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.utils import timezone
from rest_framework.test import APIClient

from agents.agent_messages import EnrolAnswer, EnrolRequest, HostFacts
from agents.enrolment import make_token
from agents.models import Agent, Disk, Server
from agents.principals import register_agent
from definitions.models import Definition
from engine.crypto import generate_writer_key
from tenants.models import Tenant
from tests.agents.agent_client import HOST, AgentClient, is_signed
from tests.factories import make_region, make_tenant, make_vault

ENROL = "/agent/v1/enrol/"


def bare_server(tenant: Tenant | None = None, *, name: str = "web01") -> Server:
    """Without a node, waiting for its agent; with the tenant's ready vault."""
    tenant = tenant or make_tenant()
    make_vault(tenant)
    return Server.objects.create(name=name, tenant=tenant, region=make_region(), node=None)


@dataclass
class Estate:
    """A server with an enrolled agent, its client, and the definition of its disk."""

    server: Server
    agent: Agent
    client: AgentClient
    definition: Definition

    @property
    def disk(self) -> Disk:
        return self.definition.disk


def enrolled(tenant: Tenant | None = None, *, name: str = "web01", **definition: Any) -> Estate:
    server = bare_server(tenant, name=name)
    key = generate_writer_key()
    agent = register_agent(server=server, public_key=key.public, actor=None)
    values = {"name": "daily", "cron": "0 22 * * *", "next_run_at": timezone.now() + timedelta(hours=5), **definition}
    made = Definition.objects.create(
        tenant=server.tenant, disk=server.disks.get(), vault=make_vault(server.tenant), **values
    )
    return Estate(server, agent, AgentClient(agent, key.private), made)


@dataclass
class Program:
    """What comes with a token: two keys, and facts of its machine."""

    secret: str
    key: Any = field(default_factory=generate_writer_key)
    writer: Any = field(default_factory=generate_writer_key)
    host: HostFacts = HOST

    def request(self, **changes: Any) -> EnrolRequest:
        values = {"public_key": self.key.public, "writer_key": self.writer.public, "host": self.host, "version": "1.0"}
        return EnrolRequest(secret=self.secret, **{**values, **changes})

    def enrol(self, **changes: Any) -> Any:
        body = msgspec.json.encode(self.request(**changes))
        answer = APIClient().generic("POST", ENROL, body, content_type="application/json")
        assert is_signed(answer, body=body)
        return answer


def token_for(server: Server, *, now: datetime | None = None, **more: Any) -> Program:
    _, text = make_token(server=server, actor=None, now=now or timezone.now(), **more)
    return Program(text.split(".")[1])


def answer_of(answer: Any) -> EnrolAnswer:
    assert answer.status_code == 200, answer.content
    return msgspec.json.decode(answer.content, type=EnrolAnswer)
