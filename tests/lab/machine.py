"""A bare-metal server of the lab: a tree of files and the agent program, behind a network that can be cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from agents.program.agent import enrolling
from agents.program.agent.errors import AgentError
from agents.program.agent.places import Places, Settings
from tests.e2e.agent import ROOT
from tests.e2e.conftest import Running
from tests.lab.network import Network

_MAKE = """
from agents.services import add_server
from tenants.models import Tenant
server = add_server(tenant=Tenant.objects.get(title="Demo"), name="metal", region_code="RBX", node=None, actor=None)
print(server.pk)
"""


class Machine:
    def __init__(self, running: Running, network: Network, folder: Path) -> None:
        self.running, self.network, self.folder = running, network, folder
        self.root = folder / "server"
        self.root.mkdir()
        made = running.stack.run_manage("shell", "--no-imports", "-c", _MAKE, role="manage")
        self.server = made.splitlines()[-1]
        self.home = folder / "home"
        self.places = Places.of(str(self.home))
        self._started: list[subprocess.Popen[str]] = []

    def end(self) -> None:
        """Whatever became of the lab: nothing of it lives on."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()

    def enrol(self, *, times: int) -> list[str]:
        """One token, as often at once; what became of each. The one that was taken is this machine."""
        token = self.running.api.post("enrolment-tokens/", {"server": self.server})["token"]

        def once(number: int) -> str:
            places = Places.of(str(self.folder / f"home-{number}"))
            try:
                url = self.running.stack.settings.gate_url
                enrolling.enrol(places, Settings(), token=token, url=url, version="lab")
            except AgentError as error:
                return error.code
            os.rename(self.folder / f"home-{number}", self.home)
            return "enrolled"

        with ThreadPoolExecutor(times) as pool:
            return list(pool.map(once, range(times)))

    def define(self) -> None:
        self.configure()
        [disk] = self.running.api.get(f"disks/?server={self.server}")["results"]
        body = {"disk": disk["id"], "name": "whole", "cron": "0 22 * * *", "time_zone": "UTC"}
        self.running.api.post("definitions/", body)

    def configure(self, **more: object) -> None:
        self.places.config.mkdir(parents=True, exist_ok=True)
        told = {"root": str(self.root), **more}
        self.places.settings.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in told.items()))
        self.places.settings.chmod(0o600)

    def start(self, *words: str, before: tuple[str, ...] = (), home: Path | None = None) -> subprocess.Popen[str]:
        program = [sys.executable, "-m", "agents.program.agent", "--home", str(home or self.home)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BACKUPSITE_")}
        process = subprocess.Popen(
            [*self.network.prefix, *before, *program, *words],
            cwd=ROOT,
            env=kept,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._started.append(process)
        return process

    def run(self, *words: str, code: int = 0, seconds: float = 900, **how: Any) -> str:
        process = self.start(*words, **how)
        out, error = process.communicate(timeout=seconds)
        assert process.returncode == code, (words, process.returncode, out, error, self.log())
        return out + error

    def back_up(self, **how: Any) -> dict[str, Any]:
        """A backup by `run`: its row, with `peak_mib`, the most memory that its mover had."""
        with Peak(self) as peak:
            said = self.run("run", "--json", **how)
        # The program is done when it has asked for the commit; then the control plane looks at every object.
        job = json.loads(said[said.index("{") : said.rindex("}") + 1])["job"]
        self.running.api.wait_for_job(job, timeout_seconds=300, tell=lambda _: None)
        return {**self.last(), "peak_mib": peak.mib}

    def last(self) -> dict[str, Any]:
        found: dict[str, Any] = self.running.api.get(f"backups/?server={self.server}&status=ok&limit=1")["results"][0]
        return found

    def restore(self, to: Path) -> None:
        """As a person does: asked for here, confirmed in the portal by the code."""
        asking = self.start("restore", self.last()["name"], "--to", str(to))
        api = self.running.api
        waiting = f"asked-restores/?server={self.server}"
        asked = api.wait(
            lambda: next(iter(api.get(waiting)["results"]), None), timeout_seconds=120, what="nothing was asked"
        )
        assert asking.stderr is not None
        code = asking.stderr.readline().partition("code there is ")[2].strip(".\n: ")
        api.post(f"asked-restores/{asked['id']}/confirm/", {"code": code})
        out, error = asking.communicate(timeout=900)
        assert asking.returncode == 0, (out, error, self.log())

    def log(self) -> str:
        return self.places.log.read_text()[-3000:] if self.places.log.exists() else ""

    def movers(self) -> list[int]:
        """Processes of its mover: what they say goes to its log."""
        found = []
        for path in Path("/proc").glob("[0-9]*/fd/2"):
            with suppress(OSError):
                if os.readlink(path) == str(self.places.log):
                    found.append(int(path.parts[2]))
        return found


class Peak:
    """The most memory that a mover had meanwhile, in MiB."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._ended = machine, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.mib = 0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.5):
            for process in self._machine.movers():
                with suppress(OSError):
                    status = Path(f"/proc/{process}/status").read_text()
                    if "VmHWM:" in status:
                        self.mib = max(self.mib, int(status.partition("VmHWM:")[2].split()[0]) >> 10)
