"""When the agent asks, and when a job that was offered begins. Pure: chance is passed in."""

from __future__ import annotations

from collections.abc import Callable

from agents.agent_messages import AgentPolicy, JobOffer

# Chance from 0 to below 1.
Chance = Callable[[], float]

# After so long without an answer, everybody else comes back too.
AWAY_SECONDS = 1800.0
_LONGEST_PAUSE_SECONDS = 300.0
# A network that is lost for half a minute again and again is met while it is there, and a job goes on then.
_FIRST_PAUSE_SECONDS = 15.0
_LEAST_POLL_SECONDS = 1.0
# One that was revoked, or is looked at by a person, asks rarely.
STOPPED_POLL_SECONDS = 3600.0
DEFAULT_POLL_SECONDS = 60.0


def next_poll_seconds(told: float) -> float:
    """As the control plane asks, within reason: it spreads agents itself."""
    return min(max(told, _LEAST_POLL_SECONDS), STOPPED_POLL_SECONDS)


def after_failure_seconds(failures: int, poll_seconds: float, chance: Chance) -> float:
    """Twice as long each time, up to five minutes, and never at the same moment as all the others."""
    pause = min(_FIRST_PAUSE_SECONDS * (1 << min(failures - 1, 10)), max(_LONGEST_PAUSE_SECONDS, poll_seconds))
    return pause * (0.5 + chance())


def start_delay_seconds(offer: JobOffer, policy: AgentPolicy | None, *, away_seconds: float, chance: Chance) -> float:
    """How long a job waits after it was first offered, so that not all of a fleet begin at one moment."""
    if offer.begins_at_once:
        return 0.0
    jitter = policy.start_jitter_seconds if policy is not None else 0
    if away_seconds >= AWAY_SECONDS:
        jitter = max(jitter, policy.return_jitter_seconds if policy is not None else 0)
    return chance() * jitter
