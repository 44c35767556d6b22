"""A whole server for the tests of the agent program: a folder of files, and the program as real processes beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agents import agent_messages as messages
from agents.program.agent.places import Places
from tests.agents.stand_in import ControlPlane

ROOT = Path(__file__).parents[2]
POLICY = messages.AgentPolicy(number=1, issued_at=datetime(2026, 1, 1, tzinfo=UTC), start_jitter_seconds=0)


@dataclass
class Machine:
    """A directory that is a whole server, with the program's own folder beside it."""

    folder: Path
    plane: ControlPlane
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    # What Python is given to become the program.
    program: tuple[str, ...] = ("-m", "agents.program.agent")
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def __post_init__(self) -> None:
        self.root = self.folder / "server"
        self.root.mkdir()
        self.places = Places.of(str(self.folder / "home"))
        self.configure()

    def configure(self, **more: Any) -> None:
        self.places.config.mkdir(parents=True, exist_ok=True, mode=0o700)
        told = {"root": str(self.root), "programs": str(self.folder / "programs"), **more}
        self.places.settings.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in told.items()))
        self.places.settings.chmod(0o600)

    def start(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, *self.program, "--home", str(self.folder / "home"), *words]
        told = {"cwd": ROOT, "env": self.environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        process = subprocess.Popen(command, **told)
        self.processes.append(process)
        return process

    def run(self, *words: str, code: int = 0, **more: Any) -> str:
        process = self.start(*words, **more)
        out, error = process.communicate(timeout=60)
        assert process.returncode == code, (words, process.returncode, out, error, self.log())
        return (out + error).decode()

    def json(self, *words: str, code: int = 0) -> Any:
        said = self.run(*words, "--json", code=code)
        return json.loads(said[said.index("{") : said.rindex("}") + 1])

    def enrol(self) -> None:
        self.run("enrol", self.plane.token, "--url", self.plane.url)

    def log(self) -> str:
        return self.places.log.read_text() if self.places.log.exists() else ""

    def movers(self) -> list[str]:
        """Processes of its mover: what they say goes to the agent's log."""
        found = []
        for path in Path("/proc").glob("[0-9]*/fd/2"):
            try:
                if os.readlink(path) == str(self.places.log):
                    found.append(path.parts[2])
            except OSError:
                continue
        return found

    def fill(self, count: int = 40) -> None:
        for number in range(count):
            folder = self.root / f"folder {number % 7}"
            folder.mkdir(exist_ok=True)
            (folder / f"file-{number}").write_bytes(os.urandom(30 * (number * 37 % 900)))

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


def contents(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "restored" not in path.relative_to(folder).parts:
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found
