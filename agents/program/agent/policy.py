"""The signed policy: taken, kept for when the control plane is away, and what it says of this moment."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from agents.agent_messages import AgentPolicy, SignedPolicy, WindowMessage
from agents.answer_signing import is_policy_signed
from agents.program.agent.errors import PolicyRefusedError
from agents.program.agent.files import read_if_there, write_whole
from agents.program.agent.identity import Identity
from agents.program.agent.places import Places

# A window that one day does not have is there on the next.
_HOURS_AHEAD = 73


def read_policy(signed: SignedPolicy, identity: Identity, *, least_number: int = 0) -> AgentPolicy:
    """Raises PolicyRefusedError for what is not signed for this agent, cannot be read, or is older than the number."""
    is_signed = is_policy_signed(
        identity.control_key, agent_id=UUID(str(identity.agent_id)), policy=signed.policy, signature=signed.signature
    )
    if not is_signed:
        raise PolicyRefusedError("The policy that came is not signed for this agent; the last good one stays.")
    try:
        policy = msgspec.json.decode(signed.policy, type=AgentPolicy)
        _check(policy)
    except (msgspec.DecodeError, ValueError, KeyError, OSError) as error:
        raise PolicyRefusedError(f"The policy that came cannot be read ({error}); the last good one stays.") from error
    if policy.number < least_number:
        raise PolicyRefusedError(
            f"The policy that came has number {policy.number}, the one here {least_number}: an older one is not taken."
        )
    return policy


def keep_policy(places: Places, signed: SignedPolicy) -> None:
    write_whole(places.policy, msgspec.json.encode(signed))


def kept_policy(places: Places, identity: Identity) -> AgentPolicy | None:
    """The one on disk, checked again. Raises PolicyRefusedError when somebody or something changed it."""
    data = read_if_there(places.policy)
    if data is None:
        return None
    try:
        return read_policy(msgspec.json.decode(data, type=SignedPolicy), identity)
    except msgspec.DecodeError as error:
        raise PolicyRefusedError(
            f"{places.policy} is damaged; the control plane is asked for the policy again."
        ) from error


def is_open(window: WindowMessage | None, now: datetime) -> bool:
    """Whether backups may begin now. `now` is the control plane's time; a window may reach into the next day."""
    if window is None:
        return True
    clock = now.astimezone(ZoneInfo(window.time_zone)).time()
    begin, end = _time(window.begin), _time(window.end)
    if begin == end:
        return True
    return begin <= clock < end if begin < end else clock >= begin or clock < end


def next_opening(window: WindowMessage | None, now: datetime) -> datetime:
    """When backups may begin next, in UTC, where no time comes twice; `now` when they may."""
    if window is None or is_open(window, now):
        return now.astimezone(UTC)
    # A window that lies in the hour that a clock leaves out is not there that day.
    return next((at for at in _turns(window, now) if is_open(window, at)), now.astimezone(UTC) + timedelta(days=1))


def next_closing(window: WindowMessage | None, now: datetime) -> datetime | None:
    """When backups may begin no more, `now` when they may not; None when they always may."""
    if window is None or _time(window.begin) == _time(window.end):
        return None
    if not is_open(window, now):
        return now.astimezone(UTC)
    return next((at for at in _turns(window, now) if not is_open(window, at)), now.astimezone(UTC) + timedelta(days=1))


def why_closed(window: WindowMessage | None, now: datetime) -> str:
    """In words; empty while it is open."""
    if window is None or is_open(window, now):
        return ""
    opens = next_opening(window, now).astimezone(ZoneInfo(window.time_zone))
    return f"Outside of the window; it opens at {opens:%H:%M} {window.time_zone}."


def _turns(window: WindowMessage, now: datetime) -> list[datetime]:
    """Moments after `now`, in order, of which one is the next at which the window opens or closes."""
    zone = ZoneInfo(window.time_zone)
    today = now.astimezone(zone).date()
    days = [today + timedelta(days=number) for number in range(-1, 4)]
    # A time of the clock may come twice a day.
    found = {
        datetime.combine(day, _time(at), zone).replace(fold=fold).astimezone(UTC)
        for day in days
        for at in (window.begin, window.end)
        for fold in (0, 1)
    }
    return sorted(at for at in {*found, *_changes_of_clock(zone, now)} if at > now)


def _changes_of_clock(zone: ZoneInfo, now: datetime) -> Iterator[datetime]:
    """Moments of the next days at which the zone's clocks are put forward or back."""
    begin = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [begin + timedelta(hours=number) for number in range(_HOURS_AHEAD)]
    for before, after in itertools.pairwise(hours):
        if _offset(zone, before) == _offset(zone, after):
            continue
        low, high = 0, 3600
        while high - low > 1:
            middle = (low + high) // 2
            is_before = _offset(zone, before + timedelta(seconds=middle)) == _offset(zone, before)
            low, high = (middle, high) if is_before else (low, middle)
        yield before + timedelta(seconds=high)


def _offset(zone: ZoneInfo, at: datetime) -> timedelta | None:
    return at.astimezone(zone).utcoffset()


def bytes_per_second(policy: AgentPolicy | None, now: datetime) -> int:
    """The lowest limit of the hour; 0 for none. Hours may reach over midnight; equal ones mean the whole day."""
    if policy is None:
        return 0
    hour = now.astimezone(ZoneInfo(policy.bandwidth_zone)).hour
    limits = [
        hours.bytes_per_second
        for hours in policy.bandwidth
        if hours.bytes_per_second > 0 and _has(hours.begin_hour, hours.end_hour, hour)
    ]
    return min(limits, default=0)


def lower(*limits: int) -> int:
    """The lowest of limits of which 0 means none."""
    return min((limit for limit in limits if limit > 0), default=0)


def _has(begin: int, end: int, hour: int) -> bool:
    begin, end = begin % 24, end % 24
    if begin == end:
        return True
    return begin <= hour < end if begin < end else hour >= begin or hour < end


def _time(text: str) -> time:
    return time.fromisoformat(text)


def _check(policy: AgentPolicy) -> None:
    """What cannot be followed is refused when it comes, not at night."""
    if policy.window is not None:
        ZoneInfo(policy.window.time_zone)
        if _time(policy.window.begin).tzinfo is not None or _time(policy.window.end).tzinfo is not None:
            raise ValueError("times of the window have a zone of their own")
    ZoneInfo(policy.bandwidth_zone)
    if (
        policy.number < 0
        or policy.poll_seconds < 1
        or policy.start_jitter_seconds < 0
        or policy.return_jitter_seconds < 0
    ):
        raise ValueError("a number is out of range")
    if any(hours.bytes_per_second < 0 for hours in policy.bandwidth):
        raise ValueError("a limit is below zero")
