"""What agents ask of jobs and backups, below `/agent/v1/`: thin calls of the services, for the agent's own server."""

from __future__ import annotations

from uuid import UUID

from django.utils import timezone

from agents.agent_endpoint import Call, agent_endpoint
from agents.agent_messages import (
    BackupsAnswer,
    ClaimAnswer,
    ClaimRequest,
    JobOffer,
    PollAnswer,
    PollRequest,
    RestoreAsked,
    RestoreRequest,
    StartRequest,
)
from backups.agent_polls import note_count, poll
from backups.agent_work import backups_for_agent, claim_for_agent, start_for_agent
from backups.asked_restores import ask_restore, asked_message, asked_of


@agent_endpoint(body=PollRequest, view_keeps_nonce=True)
def poll_view(call: Call) -> PollAnswer:
    return poll(call.agent, call.message, proof=call.proof, now=timezone.now())


@agent_endpoint(body=ClaimRequest)
def claim_view(call: Call) -> ClaimAnswer:
    note_count(call.agent, call.message.count, asked_at_seconds=call.proof.time_seconds)
    return claim_for_agent(call.agent, call.message.job, now=timezone.now())


@agent_endpoint(body=StartRequest)
def start_view(call: Call) -> JobOffer:
    return start_for_agent(call.agent, now=timezone.now())


@agent_endpoint(method="GET")
def backups_view(call: Call) -> BackupsAnswer:
    return backups_for_agent(call.agent, after=call.query.get("after", ""))


@agent_endpoint(body=RestoreRequest)
def restores_view(call: Call) -> RestoreAsked:
    now = timezone.now()
    return asked_message(ask_restore(call.agent, call.message, now=now), now=now)


@agent_endpoint(method="GET")
def restore_view(call: Call, *, pk: UUID) -> RestoreAsked:
    return asked_message(asked_of(call.agent, pk), now=timezone.now())
