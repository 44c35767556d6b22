"""`make bench-agent`: what a whole-server backup by the agent's mover costs, as a process of its own.

The gate and the vault are in this process and in memory, so they take processor time of the same machine, and nothing
is waited for on a network. Written to var/bench/agent.json. `python -m tests.bench.agent [files] [MiB of the stream]`
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from agents import agent_messages as messages
from agents.program.agent import enrolling
from agents.program.agent.moving import ENDED, MoveOrder
from agents.program.agent.places import Places, Settings
from agents.program.agent.worker import MovingProcess
from tests.agents.stand_in import ControlPlane

RESULT = Path("var/bench/agent.json")
POLICY = messages.AgentPolicy(number=1, issued_at=datetime(2026, 1, 1, tzinfo=UTC), cpu_weight=100, idle_io=False)
_FILE = 2000


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds from the session's opening to its commit, of the wall and of the mover's processor time."""

    wall_seconds: float
    cpu_seconds: float
    peak_mib: float
    read_bytes: int
    stored_bytes: int


class Bench:
    def __init__(self, folder: Path) -> None:
        self.root = folder / "server"
        self.root.mkdir()
        self.places = Places.of(str(folder / "home"))
        self.settings = Settings(root=str(self.root))
        self.plane = ControlPlane().start()
        enrolling.enrol(self.places, self.settings, token=self.plane.token, url=self.plane.url, version="bench")

    def measure(self) -> Measured:
        """One backup."""
        gate = self.plane.gate
        gate.back_up(block_size_bytes=1 << 16)
        moments: dict[str, float] = {}
        answer = gate.answer

        def timed(name: str, body: bytes) -> tuple[int, bytes]:
            moments.setdefault(name, time.monotonic())
            return answer(name, body)

        gate.answer = timed  # type: ignore[method-assign]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        order = MoveOrder(
            config=str(self.places.config),
            state=str(self.places.state),
            job="bench",
            kind="backup",
            gate_url=self.plane.url,
            session_token="t",
            settings=self.settings,
            policy=POLICY,
        )
        mover = MovingProcess(self.places, order, lambda: None, log=2)
        peak = 0
        while (event := mover.result()) is None:
            peak = max(peak, _peak_kib(mover.process_id))
            time.sleep(0.02)
        gate.answer = answer  # type: ignore[method-assign]
        if event.phase != ENDED or event.code:
            raise RuntimeError(f"the backup failed: {event}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        commit = gate.commits[-1]
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        wall = moments["commit"] - moments["open"]
        return Measured(wall, cpu, peak / 1024, commit.read_bytes, commit.stored_bytes)


def _peak_kib(process: int) -> int:
    """Of the process's own memory: what getrusage says begins with the memory of the process that started it."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("VmHWM:")[2].split()[0]) if "VmHWM:" in status else 0


def main(arguments: list[str]) -> int:
    files = int(arguments[0]) if arguments else 100_000
    stream_mib = int(arguments[1]) if len(arguments) > 1 else 1024
    found: dict[str, object] = {"files": files, "stream_mib": stream_mib, "load_before": os.getloadavg()}
    folder = Path(tempfile.mkdtemp(prefix="bench-agent-", dir="/var/tmp"))
    try:
        bench = Bench(folder)
        _small_files(bench.root, files)
        # What was changed in the last two seconds is read again.
        time.sleep(3)
        first = bench.measure()
        found["first"] = asdict(first) | {"files_per_second": files / first.wall_seconds}
        found["nothing_changed"] = asdict(bench.measure())
        shutil.rmtree(bench.root / "small")
        _stream(bench.root / "stream", stream_mib)
        bench.plane.gate.objects.clear()
        bench.plane.gate.commits.clear()
        stream = bench.measure()
        found["stream"] = asdict(stream) | {"mb_per_second": stream_mib * 1.048576 / stream.wall_seconds}
        bench.plane.stop()
    finally:
        shutil.rmtree(folder)
    found["load_after"] = os.getloadavg()
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    return 0


def _small_files(root: Path, count: int) -> None:
    noise = os.urandom(_FILE + count)
    for number in range(count):
        folder = root / "small" / f"{number // 1000}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"file-{number}").write_bytes(noise[number : number + _FILE])


def _stream(path: Path, mib: int) -> None:
    """Half of it can be compressed, as in the image of the other benchmarks."""
    with open(path, "wb") as file:
        for number in range(mib):
            file.write(os.urandom(1 << 19) + bytes([number % 251]) * (1 << 19))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
