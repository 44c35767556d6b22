"""One server of the lab as a person has it: the install line, the commands, and what the portal's API says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.e2e.conftest import Running
from tests.lab.boxes import Box

_MAKE = """
from agents.services import add_server
from tenants.models import Tenant
tenant = Tenant.objects.get(title="Demo")
print(add_server(tenant=tenant, name="{name}", region_code="RBX", node=None, actor=None).pk)
"""


class Server:
    def __init__(self, box: Box, running: Running) -> None:
        self.box, self.api = box, running.api
        made = running.stack.run_manage("shell", "--no-imports", "-c", _MAKE.format(name=box.name), role="manage")
        self.id = made.splitlines()[-1]
        self._portal = running.stack.settings.portal_url

    def configure(self, **told: object) -> None:
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in told.items())
        folder = "/etc/backupsite-agent"
        self.box.shell(f"umask 077; mkdir -p {folder}; cat > {folder}/agent.toml << 'END'\n{lines}END")

    def install(self) -> str:
        token = self.api.post("enrolment-tokens/", {"server": self.id})["token"]
        return self._line(token)

    def enrol(self) -> str:
        """Where the program is already, as a package leaves it."""
        told = self.api.post("enrolment-tokens/", {"server": self.id})
        return self.box.shell(f"echo {told['token']} | {told['enrol_line']}")

    def uninstall(self) -> str:
        said = self._line("--uninstall --purge")
        self.until(lambda found: found["status"] == "revoked", "the control plane was not told that it left")
        return said

    def define(self) -> None:
        [disk] = self.api.get(f"disks/?server={self.id}")["results"]
        body = {"disk": disk["id"], "name": "whole", "cron": "0 22 * * *", "time_zone": "UTC"}
        self.api.post("definitions/", body)

    def back_up(self) -> dict[str, Any]:
        """By `run`, which ends with the mover: the control plane may still look at what was stored."""
        self.box.run("backupsite-agent", "run", seconds=1200)
        return self.api.wait(self._last_good, timeout_seconds=120, what=f"{self.box.name}: the backup is not ok")

    def _last_good(self) -> dict[str, Any] | None:
        newest = self.api.get(f"backups/?server={self.id}&limit=1")["results"]
        return newest[0] if newest and newest[0]["status"] == "ok" else None

    def last(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"backups/?server={self.id}&status=ok&limit=1")["results"][0]
        return found

    def restore(self, to: str) -> None:
        """Asked for here, confirmed in the portal by the code."""
        asking = self.box.start("backupsite-agent", "restore", self.last()["name"], "--to", to)

        def found() -> dict[str, Any] | None:
            assert asking.poll() is None, (self.box.name, asking.communicate())
            return next(iter(self.api.get(f"asked-restores/?server={self.id}")["results"]), None)

        asked = self.api.wait(found, timeout_seconds=120, what="nothing was asked")
        assert asking.stderr is not None
        code = asking.stderr.readline().partition("code there is ")[2].strip(".\n: ")
        self.api.post(f"asked-restores/{asked['id']}/confirm/", {"code": code})
        out, error = asking.communicate(timeout=900)
        assert asking.returncode == 0, (out, error, self.box.log())

    def until(self, found: Callable[[dict[str, Any]], bool], what: str, *, seconds: float = 120) -> None:
        """Until what the API says of its agent is so."""

        def looked() -> dict[str, Any] | None:
            agent: dict[str, Any] = self.api.get(f"agents/?server={self.id}")["results"][0]
            return agent if found(agent) else None

        self.api.wait(looked, timeout_seconds=seconds, what=f"{self.box.name}: {what}")

    def until_copying(self) -> None:
        self.api.wait(
            lambda: next((job for job in self._jobs() if job["state"] == "running" and job["done_bytes"] > 0), None),
            timeout_seconds=180,
            what="the backup does not copy",
        )

    def wait_for_backup(self) -> None:
        self.api.wait(
            lambda: next((job for job in self._jobs() if job["state"] == "ok"), None),
            timeout_seconds=400,
            what=f"the backup was not taken up again: {self.box.log()}",
        )

    def _jobs(self) -> list[dict[str, Any]]:
        newest = self.api.get(f"jobs/?server={self.id}&limit=1")["results"]
        return [self.api.get(f"jobs/{job['id']}/") for job in newest]

    def _line(self, words: str) -> str:
        url = f"{self._portal}/agent/install.sh"
        fetch = f"if command -v curl > /dev/null; then curl -fsS {url}; else wget -qO- {url}; fi"
        return self.box.shell(f"{{ {fetch}; }} | sh -s -- {words}")
