"""What is to be seen of all agents together."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q

from agents.models import Agent

UNUSED_AFTER_DAYS = 30
# One that never came after it was let in was installed wrongly, or not at all.
NEVER_AFTER = timedelta(days=2)


def look_again(agents: Any) -> None:
    """What these agents are told may be another: each finds out with its next poll, and not minutes later."""
    agents.filter(status=Agent.Status.ENROLLED).update(policy_checked_at=None)


def unused_agents(agents: Any, *, now: datetime) -> Any:
    """Those that count against the quota and do nothing: not heard of for a month, or never."""
    long_ago = Q(last_seen_at__lte=now - timedelta(days=UNUSED_AFTER_DAYS))
    never = Q(last_seen_at=None, changed_at__lte=now - NEVER_AFTER)
    return agents.exclude(status=Agent.Status.REVOKED).filter(long_ago | never)
