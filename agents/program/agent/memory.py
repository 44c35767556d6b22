"""What the agent remembers between two starts, and the control plane's time, which it goes by."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from agents.program.agent.files import read_if_there, write_whole
from agents.program.agent.places import Places

# A clock that is further from the control plane's than this is worth a word to a person.
NOTABLE_SECONDS = 60.0


class Anchor(msgspec.Struct, frozen=True):
    """A moment of the control plane, seconds since 1970, and what this machine's clocks said then."""

    server_seconds: float
    since_boot_seconds: float
    wall_seconds: float
    boot: str


class Outcome(msgspec.Struct, frozen=True):
    """How a job ended. `code` empty: well."""

    job: str
    kind: str
    ended_at: datetime
    code: str = ""
    message: str = ""
    stored_bytes: int = 0
    read_bytes: int = 0


class Waits(msgspec.Struct, frozen=True):
    """A job that has not begun, and why, in words. `job` is empty for what only the control plane knows of."""

    job: str
    kind: str
    why: str


class Memory(msgspec.Struct):
    """`count`: polls up to this number may have been made. It only grows: a copy of this machine gives itself away."""

    count: int = 0
    anchor: Anchor | None = None
    last_answer_at: datetime | None = None
    problem_code: str = ""
    problem: str = ""
    trees_told: str = ""
    last_backup: Outcome | None = None
    last_restore: Outcome | None = None
    # Numbers of releases: which one runs, which was tried and did not report in.
    release: int = 0
    failed_release: int = 0
    status: str = ""
    waiting: list[Waits] = []


def load_memory(places: Places) -> Memory:
    """What cannot be read is forgotten, but for the number of polls that cannot be known: the control plane decides."""
    data = read_if_there(places.memory)
    try:
        return msgspec.json.decode(data, type=Memory) if data else Memory()
    except msgspec.DecodeError:
        return Memory(problem_code="state_lost", problem="The file of the agent's state was damaged; it begins anew.")


def save_memory(places: Places, memory: Memory) -> None:
    write_whole(places.memory, msgspec.json.encode(memory))


def boot_id(path: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


class ControlClock:
    """The control plane's time as far as it is known: this machine's clock may be wrong by years, and may jump.

    Within one start of the machine it goes by the time since boot, which nobody sets; after it by the wall clock with
    the last known difference.
    """

    def __init__(
        self,
        anchor: Anchor | None,
        *,
        wall: Callable[[], float] = time.time,
        since_boot: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        boot: str | None = None,
    ) -> None:
        self.anchor = anchor
        self._wall = wall
        self._since_boot = since_boot
        self._boot = boot_id() if boot is None else boot

    def seconds(self) -> float:
        known = self.anchor
        if known is None:
            return self._wall()
        if known.boot and known.boot == self._boot:
            return known.server_seconds + self._since_boot() - known.since_boot_seconds
        return self._wall() + known.server_seconds - known.wall_seconds

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds(), tz=UTC)

    def learn(self, told: datetime) -> None:
        """From a signed answer, and from nothing else."""
        self.anchor = Anchor(told.timestamp(), self._since_boot(), self._wall(), self._boot)

    @property
    def wrong_by_seconds(self) -> float:
        """How far this machine's own clock is ahead of the control plane's."""
        return 0.0 if self.anchor is None else self._wall() - self.seconds()
