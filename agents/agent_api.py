"""What agents ask of themselves, below `/agent/v1/`: to be let in, another key, to be forgotten, a release.

No sessions, no tokens of persons, no objects by id: each reaches itself.
"""

from __future__ import annotations

from django.http import FileResponse, HttpRequest
from django.utils import timezone

from agents.agent_endpoint import Call, agent_endpoint, open_endpoint
from agents.agent_messages import EnrolAnswer, EnrolRequest, Me, RotateRequest
from agents.enrolment import enrol, enrol_answer
from agents.models import Agent
from agents.principals import revoke_agent, rotate_agent_key
from agents.releases import release_file


@open_endpoint(body=EnrolRequest)
def enrol_view(request: HttpRequest, message: EnrolRequest) -> EnrolAnswer:
    now = timezone.now()
    return enrol_answer(enrol(message, now=now), now=now)


@agent_endpoint(method="GET")
def me_view(call: Call) -> Me:
    return _me(call.agent)


@agent_endpoint(body=RotateRequest)
def rotate_view(call: Call) -> Me:
    rotate_agent_key(agent=call.agent, public_key=call.message.public_key, actor=None)
    return _me(call.agent)


@agent_endpoint()
def unenrol_view(call: Call) -> Me:
    """What it backed up stays."""
    revoke_agent(agent=call.agent, actor=None)
    return _me(call.agent)


@agent_endpoint(method="GET")
def release_view(call: Call, *, file: str) -> FileResponse:
    return FileResponse(release_file(file).open("rb"), content_type="application/octet-stream")


def _me(agent: Agent) -> Me:
    server = agent.server
    return Me(
        id=str(agent.pk), status=str(agent.status), server=server.name, tenant=server.tenant.title, time=timezone.now()
    )
