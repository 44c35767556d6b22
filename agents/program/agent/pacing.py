"""When the agent asks, and when a job that was offered begins. Pure: chance is passed in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from agents.agent_messages import AgentPolicy, WindowMessage
from agents.program.agent.policy import next_closing, next_opening

# Chance from 0 to below 1.
Chance = Callable[[], float]

# After so long without an answer, everybody else comes back too.
AWAY_SECONDS = 1800.0
_LONGEST_PAUSE_SECONDS = 300.0
# A network that is lost for half a minute again and again is met while it is there, and a job goes on then.
_FIRST_PAUSE_SECONDS = 15.0
_LEAST_POLL_SECONDS = 1.0
# A poll that nobody answers may be in the way of a job's start, which the closing window must not catch.
_BEFORE_CLOSING_SECONDS = 60.0
# One that was revoked, or is looked at by a person, asks rarely.
STOPPED_POLL_SECONDS = 3600.0
DEFAULT_POLL_SECONDS = 60.0
_FIRST_UPDATE_PAUSE_SECONDS = 120.0
_LONGEST_UPDATE_PAUSE_SECONDS = 3600.0


def next_poll_seconds(told: float) -> float:
    """As the control plane asks, within reason: it spreads agents itself."""
    return min(max(told, _LEAST_POLL_SECONDS), STOPPED_POLL_SECONDS)


def after_failure_seconds(failures: int, poll_seconds: float, chance: Chance) -> float:
    """Twice as long each time, up to five minutes, and never at the same moment as all the others."""
    pause = min(_FIRST_PAUSE_SECONDS * (1 << min(failures - 1, 10)), max(_LONGEST_PAUSE_SECONDS, poll_seconds))
    return pause * (0.5 + chance())


def update_again_seconds(refusals: int) -> float:
    """After that many refusals of the same release, one more download would most likely be for nothing as well."""
    return min(_FIRST_UPDATE_PAUSE_SECONDS * (1 << min(refusals - 1, 10)), _LONGEST_UPDATE_PAUSE_SECONDS)


def start_jitter_seconds(policy: AgentPolicy | None, *, has_returned: bool) -> int:
    """The longest that a start is put off by chance; longer for jobs that came with the first answer after a while."""
    if policy is None:
        return 0
    return max(policy.start_jitter_seconds, policy.return_jitter_seconds if has_returned else 0)


def start_in_seconds(window: WindowMessage | None, *, now: datetime, jitter_seconds: float, share: float) -> float:
    """How long a job waits from now on, so that not all of a fleet begin at one moment.

    `share`, from 0 to below 1, is the job's own: it is put off by that much of the jitter, counted from the opening
    while the window is closed, and of what is left of the window where that is less. Asked again and again it never
    gets later within one window.
    """
    opens = next_opening(window, now)
    closes = next_closing(window, opens)
    if closes is not None:
        left_seconds = (closes - opens).total_seconds() - _BEFORE_CLOSING_SECONDS
        jitter_seconds = max(0.0, min(jitter_seconds, left_seconds))
    return (opens - now).total_seconds() + share * jitter_seconds
