"""The whole embedded stack as real processes, with two servers whose disks hold random data."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backupsite.stack.demo_api import DemoApi
from backupsite.stack.ports import PORT_SPAN, free_ports
from backupsite.stack.settings import StackSettings
from backupsite.stack.stack import Stack
from backupsite.stack.terminal import Terminal

MIB = 1024 * 1024
DISK_MIB = 512
# So long a machine that is slow, and stands still now and then, may take for what takes seconds. No promise is a wait.
PATIENCE_SECONDS = 300.0


def far_from_now() -> str:
    """A schedule of once a day whose time does not come while tests run."""
    return f"0 {(datetime.now(UTC).hour + 12) % 24} * * *"


@dataclass
class Running:
    stack: Stack
    api: DemoApi
    rows: dict[str, Any]
    definition_id: str

    def disk_path(self, server: str) -> Path:
        return Path(self.rows["disks"][server]["path"])

    def write_disk(self, server: str, *, mebibytes: int = DISK_MIB) -> None:
        """Random data: it does not compress, so that a backup lasts long enough to be disturbed."""
        with self.disk_path(server).open("wb") as file:
            for _ in range(mebibytes):
                file.write(os.urandom(MIB))
            file.truncate(DISK_MIB * MIB)

    def back_up_now(self) -> str:
        return str(self.api.post(f"definitions/{self.definition_id}/backup-now/", {})["id"])

    def back_up_to_be_disturbed(self) -> str:
        """A backup of random data that copies now and goes on for half a minute, however fast the machine is.

        Whoever takes it over, or makes the next one, has no limit: a session has that of the time when it was opened.
        """
        self._limit_bandwidth(self.disk_path("web01").stat().st_size // 32)
        try:
            job_id = self.back_up_now()
            self.wait_until_copying(job_id)
        finally:
            self._limit_bandwidth(None)
        return job_id

    def _limit_bandwidth(self, bytes_per_second: int | None) -> None:
        self.api.patch(f"definitions/{self.definition_id}/", {"bandwidth_limit": bytes_per_second})

    def job(self, job_id: str) -> dict[str, Any]:
        return self.api.get(f"jobs/{job_id}/")

    def wait_until_copying(self, job_id: str) -> dict[str, Any]:
        def copying() -> dict[str, Any] | None:
            job = self.job(job_id)
            assert job["state"] in {"pending", "running"}, job["message"] or "it was over before it could be disturbed"
            return job if job["phase"] == "copying" and job["done_bytes"] > 0 else None

        return self.api.wait(copying, timeout_seconds=PATIENCE_SECONDS, what="the job did not begin to copy")

    def wait_until_ended(self, job_id: str, *, timeout_seconds: float) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["state"] not in {"pending", "running"} else None

        return self.api.wait(ended, timeout_seconds=timeout_seconds, what="the job did not end")

    def good_backups(self) -> list[dict[str, Any]]:
        disk_id = self.rows["disks"]["web01"]["id"]
        return list(self.api.get(f"backups/?disk={disk_id}&status=ok&limit=100")["results"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        # Short, as a store dies here; the session gate is given up after it as well, so it is no shorter.
        patch.setenv("BACKUPSITE_STORE_RETRY_SECONDS", "20")
        patch.delenv("BACKUPSITE_DATA", raising=False)
        settings = StackSettings(data=tmp_path_factory.mktemp("stack"), port=free_ports(PORT_SPAN)[0])
        with Stack(settings, terminal=Terminal(io.StringIO())) as stack:
            yield _prepared(stack)


def _prepared(stack: Stack) -> Running:
    rows = json.loads(stack.run_manage("demo_rows", "--disk-size-bytes", str(DISK_MIB * MIB), role="manage"))
    api = DemoApi(portal_url=stack.settings.portal_url, token=rows["token"])
    vault_path = f"vaults/{rows['vault_id']}/"
    api.wait(
        lambda: {"ready": True} if api.get(vault_path)["status"] == "ready" else None,
        timeout_seconds=PATIENCE_SECONDS,
        what="the vault did not become ready",
    )
    body = {"disk": rows["disks"]["web01"]["id"], "name": "daily", "cron": far_from_now(), "time_zone": "UTC"}
    definition = api.post("definitions/", body)
    running = Running(stack, api, rows, definition["id"])
    running.write_disk("web01")
    running.write_disk("web02", mebibytes=1)
    return running
