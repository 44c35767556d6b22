"""What a SuperAdmin types about the agents of a policy's servers."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from django import forms

from common.errors import InvalidInputError
from common.forms import PlainForm
from definitions.agent_limits import AgentLimits, read_limits

_MIB = 1024 * 1024
_HOURS = re.compile(r"([0-9]{1,2})\s*-\s*([0-9]{1,2})\s+([0-9]{1,6}(?:\.[0-9]{1,3})?)\Z")
_PLAIN = (
    "allows_run_now",
    "allows_excludes",
    "allows_hooks",
    "cpu_weight",
    "idle_io",
    "pause_on_battery",
    "pause_on_metered",
    "pause_above_load",
)


class AgentLimitsForm(PlainForm):
    """Fields of a policy's form; `agent_limits` is what they say together, what is as usual left out."""

    allows_run_now = forms.BooleanField(label="The server may begin a backup by itself", required=False, initial=True)
    allows_excludes = forms.BooleanField(label="The server may leave out files", required=False)
    allows_hooks = forms.BooleanField(
        label="The server may run programs before and after",
        required=False,
        help_text="Only those that are there already and belong to root.",
    )
    bandwidth_hours = forms.CharField(
        label="Bandwidth by time of day",
        required=False,
        max_length=1000,
        widget=forms.Textarea(attrs={"class": "form-control", "rows": 3}),
        help_text="A line for each: hours and MiB per second, such as 8-18 5; 0: no limit. In the policy's time zone.",
    )
    cpu_weight = forms.IntegerField(
        label="Share of the CPU, 1 to 100", min_value=1, max_value=100, required=False, initial=20
    )
    idle_io = forms.BooleanField(label="Reads only when the disks are idle", required=False, initial=True)
    pause_on_battery = forms.BooleanField(label="Waits while on battery", required=False, initial=True)
    pause_on_metered = forms.BooleanField(label="Waits on a metered network", required=False, initial=True)
    pause_above_load = forms.FloatField(
        label="Waits above this load", min_value=0, max_value=10_000, required=False, help_text="0: never."
    )
    start_jitter_minutes = forms.IntegerField(
        label="Minutes over which starts are spread", min_value=0, max_value=360, required=False, initial=10
    )

    @property
    def agent_checks(self) -> list[forms.BoundField]:
        return [field for field in self._of_agents() if isinstance(field.field, forms.BooleanField)]

    @property
    def agent_values(self) -> list[forms.BoundField]:
        return [field for field in self._of_agents() if not isinstance(field.field, forms.BooleanField)]

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        try:
            values["agent_limits"] = _unusual(values)
        except InvalidInputError as error:
            self.add_error("bandwidth_hours", error.message)
        return values

    def _of_agents(self) -> list[forms.BoundField]:
        return [self[name] for name in AgentLimitsForm.base_fields]


def _unusual(values: dict[str, Any]) -> dict[str, Any]:
    said = {name: values[name] for name in _PLAIN if values.get(name) is not None}
    if values.get("start_jitter_minutes") is not None:
        said["start_jitter_seconds"] = values["start_jitter_minutes"] * 60
    said["bandwidth"] = [_row(line) for line in (values.get("bandwidth_hours") or "").splitlines() if line.strip()]
    usual = msgspec.to_builtins(AgentLimits())
    found: dict[str, Any] = msgspec.to_builtins(read_limits(said))
    return {name: value for name, value in found.items() if value != usual[name]}


def _row(line: str) -> dict[str, int]:
    found = _HOURS.match(line.strip())
    if found is None:
        raise InvalidInputError(f"{line.strip()!r} is not hours and MiB per second, such as 8-18 5.")
    return {"begin_hour": int(found[1]), "end_hour": int(found[2]), "bytes_per_second": int(float(found[3]) * _MIB)}


def initial_limits(agent_limits: dict[str, Any]) -> dict[str, Any]:
    """What the fields stand at for limits that are kept."""
    limits = read_limits(agent_limits)
    rows = (f"{row.begin_hour}-{row.end_hour} {row.bytes_per_second / _MIB:g}" for row in limits.bandwidth)
    return {
        **{name: getattr(limits, name) for name in _PLAIN},
        "start_jitter_minutes": limits.start_jitter_seconds // 60,
        "bandwidth_hours": "\n".join(rows),
    }
