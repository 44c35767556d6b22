"""Whether this is a bad moment: on battery, on a metered connection, under load. What is not known counts as good.

Battery: the mains supplies of /sys/class/power_supply; a machine that has none, or one that is online, is not on
battery. Metered: what NetworkManager says of the whole machine (`nmcli`), only where it runs. Load: the mean of one
minute, divided by the number of processors.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from agents.agent_messages import AgentPolicy

_SUPPLIES = Path("/sys/class/power_supply")
_PROGRAM_SECONDS = 5


def why_paused(policy: AgentPolicy, *, supplies: Path = _SUPPLIES, load: float | None = None) -> str:
    """A sentence why nothing begins now; empty when nothing speaks against it."""
    if policy.is_paused:
        return "The policy pauses backups of this server."
    if policy.pause_on_battery and is_on_battery(supplies):
        return "The machine runs on battery."
    if policy.pause_on_metered and is_metered():
        return "The connection is metered."
    current = load_per_processor() if load is None else load
    if policy.pause_above_load > 0 and current > policy.pause_above_load:
        return f"The load is {current:.2f} per processor, above {policy.pause_above_load:.2f}."
    return ""


def is_on_battery(supplies: Path = _SUPPLIES) -> bool:
    try:
        found = [(_word(path / "type"), _word(path / "online"), _word(path / "status")) for path in supplies.iterdir()]
    except OSError:
        return False
    mains = [online for kind, online, _ in found if kind in {"Mains", "USB"} and online]
    if "1" in mains:
        return False
    return any(kind == "Battery" and status == "Discharging" for kind, _, status in found)


def is_metered() -> bool:
    program = shutil.which("nmcli")
    if program is None:
        return False
    try:
        told = subprocess.run(  # noqa: S603  # a fixed list of words
            [program, "-g", "GENERAL.METERED", "device", "show"],
            capture_output=True,
            text=True,
            timeout=_PROGRAM_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return any(line.startswith("yes") for line in told.stdout.splitlines())


def load_per_processor() -> float:
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return 0.0


def _word(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
