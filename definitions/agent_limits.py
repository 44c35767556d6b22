"""What a policy lets an agent do on its server, and how much of the server it may take. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from agents.agent_messages import BandwidthHours
from common.errors import InvalidInputError

_LEAST_BANDWIDTH = 65536
_MOST_BANDWIDTH_ROWS = 24


class AgentLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See `agents.agent_messages.AgentPolicy`. What is allowed is never allowed by a restricted policy."""

    allows_excludes: bool = False
    allows_hooks: bool = False
    allows_run_now: bool = True
    bandwidth: list[BandwidthHours] = []
    cpu_weight: int = 20
    idle_io: bool = True
    pause_on_battery: bool = True
    pause_on_metered: bool = True
    pause_above_load: float = 0.0
    start_jitter_seconds: int = 600


# msgspec crashes when two threads meet a type for the first time at once: this one is met here.
_MET = msgspec.json.Decoder(AgentLimits)


def read_limits(values: Mapping[str, Any]) -> AgentLimits:
    """Raises InvalidInputError with what is wrong."""
    try:
        limits = msgspec.convert(dict(values), type=AgentLimits)
    except msgspec.ValidationError as error:
        raise _error(str(error)) from error
    if not 1 <= limits.cpu_weight <= 100:
        raise _error("cpu_weight is 1 to 100.")
    if not 0 <= limits.start_jitter_seconds <= 6 * 3600:
        raise _error("start_jitter_seconds is 0 to 21600.")
    if not 0 <= limits.pause_above_load <= 10_000:
        raise _error("pause_above_load is 0 (never) or a load.")
    _check_bandwidth(limits.bandwidth)
    return limits


def _check_bandwidth(rows: list[BandwidthHours]) -> None:
    if len(rows) > _MOST_BANDWIDTH_ROWS:
        raise _error(f"At most {_MOST_BANDWIDTH_ROWS} rows of bandwidth.")
    for row in rows:
        if not (0 <= row.begin_hour <= 23 and 1 <= row.end_hour <= 24):
            raise _error("Bandwidth holds from an hour (0 to 23) to an hour (1 to 24).")
        if row.bytes_per_second and row.bytes_per_second < _LEAST_BANDWIDTH:
            raise _error(f"A bandwidth is at least {_LEAST_BANDWIDTH} bytes per second, or 0 for no limit.")


def _error(message: str) -> InvalidInputError:
    return InvalidInputError(message, field="agent_limits")
