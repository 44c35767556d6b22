"""A bare-metal server beside the running stack: a folder with odd files, and the agent program on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import Running
from tests.e2e.files import odd_tree

ROOT = Path(__file__).resolve().parents[2]
_MAKE = """
from agents.services import add_server
from tenants.models import Tenant
server = add_server(tenant=Tenant.objects.get(title="Demo"), name="metal", region_code="RBX", node=None, actor=None)
print(server.pk)
"""


class Metal:
    """Enrolled; its disk has a definition."""

    def __init__(self, running: Running, folder: Path) -> None:
        self._home = folder / "home"
        self.root = folder / "server"
        self.root.mkdir()
        odd_tree(self.root)
        settings = self._home / "etc" / "agent.toml"
        settings.parent.mkdir(parents=True)
        settings.write_text(f'root = "{self.root}"\n')
        settings.chmod(0o600)
        made = running.stack.run_manage("shell", "--no-imports", "-c", _MAKE, role="manage")
        self.server = made.splitlines()[-1]
        token = running.api.post("enrolment-tokens/", {"server": self.server})["token"]
        self.run("enrol", token, "--url", running.stack.settings.gate_url)
        [disk] = running.api.get(f"disks/?server={self.server}")["results"]
        body = {"disk": disk["id"], "name": "whole", "cron": "0 22 * * *", "time_zone": "UTC"}
        self.definition = running.api.post("definitions/", body)

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "agents.program.agent", "--home", str(self._home), *words]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BACKUPSITE_")}
        return subprocess.Popen(command, cwd=ROOT, env=kept, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, *words: str) -> str:
        process = self.start(*words)
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, out + error
        return out
