"""What people are told of that an agent says of itself: it trusts no longer what speaks to it, or could not be updated.

Trouble of a job is the job's, and silence and copied keys have their own events (`agents.principals`).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from agents.models import Agent
from agents.releases import FAILURE_CODES
from tenants.notices import publish

# It works on by its last good policy, and begins nothing that it was not told by whom it was enrolled with.
DISTRUST_CODES = frozenset({"policy_refused", "not_trusted"})
# What comes and goes is told of once a day.
QUIET_FOR = timedelta(days=1)


def tell_of_trouble(agent: Agent, *, code_before: str, failed_before: int, now: datetime) -> None:
    """After a poll: what is new since `code_before` (its health's code) and `failed_before` (the newest release that
    it could not take)."""
    if agent.health_code in DISTRUST_CODES and agent.health_code != code_before:
        _tell(agent, agent.health_code, agent.health, now=now)
    if agent.release_failed > failed_before:
        is_said = agent.health_code in FAILURE_CODES
        late = f"It went back from release {agent.release_failed}, or did not take it in time."
        _tell(agent, "update_failed", agent.health if is_said else late, now=now)


def _tell(agent: Agent, code: str, message: str, *, now: datetime) -> None:
    server = agent.server
    publish(
        event="agent.trouble",
        tenant=server.tenant,
        subject=server,
        facts={"server": server.name, "code": code, "message": message},
        cause=f"agent:{agent.pk}:{code}",
        name=agent.name,
        at=now,
        quiet_for=QUIET_FOR,
    )
