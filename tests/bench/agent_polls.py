"""`make bench-agent-polls`: what polls of agents cost the session gate, on PostgreSQL and the stack's own gunicorn.

200 agents that ask at the same moment (timed whole; with requests that were signed before; and as they come back when
they were told when to ask again), and 5,000 that ask each minute, all by the agent program's own client: requests are
signed and answers verified. The clients take processor time of the same machine, so that of each side is told beside
what the clients saw. Written to var/bench/agent-polls.json.
`python -m tests.bench.agent_polls [agents at once] [agents each minute] [seconds]`
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.bench import polling_fleet
from tests.bench.polling_clients import Plane, ask_in_turn, ask_together
from tests.bench.polling_fleet import Key

AT_ONCE, EACH_MINUTE, SECONDS = 200, 5000, 200
WAYS = ("whole", "prepared", "spread")
ROUNDS, CLIENT_PROCESSES, GATE_PROCESSES = 6, 2, 2
AIM_P95_MS, AIM_MIB_OF_AN_AGENT = 250.0, 2.5
REPORT = Path(__file__).resolve().parents[2] / "var" / "bench" / "agent-polls.json"


def main(at_once: int, each_minute: int, seconds: int) -> int:
    from tests.fleet.parts import running_parts

    with running_parts(cluster={"shared_buffers": "256MB"}) as parts:
        polling_fleet.set_up(parts.database_url)
        keys = polling_fleet.make_agents(each_minute)
        polling_fleet.analyse()
        signer = _start_gate(parts)
        plane = _plane(parts)
        watch = Watch(signer.pid, parts.database_url)
        statements, shown = polling_fleet.statements_of_a_poll(keys[-1], count=1)
        figures = {
            "load_average_before": os.getloadavg()[0],
            # Of a machine that is busy with other things each second of its processor does less.
            "sum_of_a_million_numbers_ms_before": _yardstick_ms(),
            "statements_of_a_poll": statements,
            "gate_processes": GATE_PROCESSES,
            "aims": {"at_once_p95_ms": AIM_P95_MS, "memory_mib_of_an_agent": AIM_MIB_OF_AN_AGENT},
            **{f"at_once_{how}": _at_once(plane, keys[:at_once], watch, how=how) for how in WAYS},
            "each_minute": _each_minute(plane, keys[:-1], watch, seconds=seconds),
            "sum_of_a_million_numbers_ms_after": _yardstick_ms(),
            "load_average_after": os.getloadavg()[0],
        }
    print("\n".join(shown))
    print(json.dumps(figures, indent=1))
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def _start_gate(parts: Any) -> Any:
    """As the stack starts it, but a process for each core, as an installation for thousands has it."""
    from backupsite.stack.process import Child

    spec = next(spec for spec in parts.programs.long_running() if spec.name == "signer")
    argv = list(spec.argv)
    argv[argv.index("--workers") + 1] = str(GATE_PROCESSES)
    child = Child(replace(spec, argv=tuple(argv)))
    parts.started.append(child)
    child.start()
    return child


def _plane(parts: Any) -> Plane:
    import base64

    from backupsite.stack.secret_files import public_half

    return Plane(parts.programs.settings.gate_url, base64.b64decode(public_half(parts.programs.secrets.control_key)))


# --- at once ----------------------------------------------------------------------------------------------------------


def _at_once(plane: Plane, keys: Sequence[Key], watch: Watch, *, how: str) -> dict[str, Any]:
    """Each of the agents asks once, together; again and again, as if a minute lay between. `how`: of `ask_together`."""
    rounds = ROUNDS if how != "spread" else 3
    context = multiprocessing.get_context("spawn")
    gate, told = context.Barrier(CLIENT_PROCESSES + 1), context.Queue()
    parts = [keys[number::CLIENT_PROCESSES] for number in range(CLIENT_PROCESSES)]
    asked = {"rounds": rounds, "how": how}
    callers = [context.Process(target=ask_together, args=(plane, part, gate, told), kwargs=asked) for part in parts]
    for process in callers:
        process.start()
    figures: list[dict[str, float]] = []
    latencies: list[float] = []
    try:
        for number in range(rounds):
            gate.wait(120)
            polling_fleet.pass_a_minute(number)
            before = watch.cpu()
            begun = time.monotonic()
            gate.wait(120)
            answers = [told.get(timeout=120) for _ in callers]
            took, of_round = time.monotonic() - begun, [one for part, _ in answers for one in part]
            # The first one brings the policy and opens connections.
            if number:
                latencies += of_round
                clients = sum(cpu for _, cpu in answers) * 1000 / len(of_round)
                cost = {**_per_poll(before, watch.cpu(), len(of_round)), "clients_cpu_ms_of_a_poll": clients}
                figures.append({"seconds": took, **cost, "polls_of_a_core_second": 1000 / sum(cost.values())})
    finally:
        for process in callers:
            process.join(30)
            if process.is_alive():
                process.terminate()
    each = {name: statistics.fmean(one[name] for one in figures) for name in figures[0]}
    rounds_shown = [round(one["seconds"], 3) for one in figures]
    return {"agents": len(keys), **_shown(latencies), **each, "seconds_of_each_round": rounds_shown}


# --- each minute ------------------------------------------------------------------------------------------------------


def _each_minute(plane: Plane, keys: Sequence[Key], watch: Watch, *, seconds: int) -> dict[str, Any]:
    """All agents, each when the control plane told it to ask again; measured once each has its policy."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    process = context.Process(target=ask_in_turn, args=(plane, keys, told), kwargs={"seconds": seconds})
    memory_before = watch.memory()
    process.start()
    told.get(timeout=1800)
    before = watch.cpu()
    begun, peak = time.monotonic(), dict(memory_before)
    while process.is_alive() and told.empty():
        time.sleep(1)
        peak = {name: max(value, watch.memory()[name]) for name, value in peak.items()}
    took, latencies, late = told.get(timeout=60)
    process.join(60)
    whole = sum(peak.values())
    return {
        "agents": len(keys),
        "seconds": round(time.monotonic() - begun, 1),
        "polls_per_second": len(latencies) / took,
        **_shown(latencies),
        "began_late_p95_ms": _share(late, 0.95) * 1000,
        **_per_poll(before, watch.cpu(), len(latencies)),
        "memory_mib_before": {name: value / 2**20 for name, value in memory_before.items()},
        "memory_mib_peak": {name: value / 2**20 for name, value in peak.items()},
        "memory_mib_of_an_agent": whole / 2**20 / len(keys),
        "memory_growth_kib_of_an_agent": (whole - sum(memory_before.values())) / 2**10 / len(keys),
        "connections_to_the_database": polling_fleet.connections(),
    }


# --- what it costs ----------------------------------------------------------------------------------------------------


class Watch:
    """Processor time (seconds) and memory (bytes) of the gate and of the database's server."""

    def __init__(self, gate: int, database_url: str) -> None:
        self._gate, self._port = gate, f"\0-p\0{urlsplit(database_url).port}\0".encode()

    def cpu(self) -> dict[str, float]:
        """Of all that run, and of their children that ended."""
        found = self._pids()
        return {name: sum(_of_all(_cpu, pids)) for name, pids in found.items()}

    def memory(self) -> dict[str, float]:
        """Shared pages are counted once (PSS)."""
        found = self._pids()
        return {name: sum(_of_all(_pss, pids)) for name, pids in found.items()}

    def _pids(self) -> dict[str, list[int]]:
        parents, servers = {}, []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, IndexError):
                pid = int(path.name)
                parents[pid] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if self._port in (path / "cmdline").read_bytes():
                    servers.append(pid)
        return {"gate": _family([self._gate], parents), "database": _family(servers, parents)}


def _family(roots: list[int], parents: dict[int, int]) -> list[int]:
    found = set(roots)
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    return sorted(found)


def _of_all(question: Callable[[int], float], pids: list[int]) -> list[float]:
    answers = []
    for pid in pids:
        with suppress(OSError, IndexError):
            answers.append(question(pid))
    return answers


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _pss(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(float(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _yardstick_ms() -> float:
    begun = time.process_time()
    sum(range(1_000_000))
    return (time.process_time() - begun) * 1000


def _per_poll(before: dict[str, float], after: dict[str, float], polls: int) -> dict[str, float]:
    return {f"{name}_cpu_ms_of_a_poll": (after[name] - before[name]) * 1000 / polls for name in before}


def _shown(latencies: Sequence[float]) -> dict[str, float]:
    return {"polls": len(latencies), **{f"p{part}_ms": _share(latencies, part / 100) * 1000 for part in (50, 95, 99)}}


def _share(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


if __name__ == "__main__":
    # A plain termination would leave a running server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    given = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*given, *(AT_ONCE, EACH_MINUTE, SECONDS)[len(given) :]))
