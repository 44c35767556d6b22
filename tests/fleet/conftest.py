"""The whole service on PostgreSQL and Redis, with two beats, as real processes: started once for the folder."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
import redis

from backupsite.stack.ports import PORT_SPAN, free_ports
from backupsite.stack.process import Child
from backupsite.stack.settings import StackSettings
from backupsite.stack.stack import Stack
from backupsite.stack.terminal import Terminal
from tests.e2e.conftest import PATIENCE_SECONDS, Running, far_from_now
from tests.postgres.cluster import PROGRAMS, scratch_cluster

MIB = 1024 * 1024
DISK_MIB = 128
QUEUE = "node.local"


@dataclass
class Fleet(Running):
    """With the database and the broker in reach. A wait is for a row, with a deadline; nothing sleeps to pass."""

    database_url: str = ""

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def wait(self, found: Callable[[], Any], *, seconds: float, what: str) -> Any:
        give_up_at = time.monotonic() + seconds
        while not (answer := found()):
            assert time.monotonic() < give_up_at, what
            time.sleep(0.2)
        return answer

    def broker(self) -> redis.Redis:
        path = self.stack.broker_url.removeprefix("redis+socket://")
        return redis.Redis(unix_socket_path=path, socket_timeout=30)

    def in_service(self, code: str) -> str:
        """The output of Python code in a process of the service."""
        return self.stack.run_manage("shell", "-v", "0", "-c", code, role="control")

    def beside(self, name: str) -> Child:
        """One more process of the kind, started; the caller stops it."""
        spec = next(spec for spec in self.stack.programs.long_running() if spec.name == name)
        argv = tuple(part.replace("@local", "-b@local") for part in spec.argv)
        said = "maxinterval -> " if name == "beat" else "ready."
        child = Child(replace(spec, name=f"{name}-b", argv=argv, ready=lambda child: said in child.log_text()))
        child.start()
        return child

    def events(self, job_id: str) -> list[str]:
        rows = self.sql("SELECT code FROM backups_jobevent WHERE job_id = %s ORDER BY id", job_id)
        return [code for (code,) in rows]

    def good_backup(self) -> dict[str, Any]:
        """Of web01; one is made if there is none yet."""
        if not self.good_backups():
            job = self.wait_until_ended(self.back_up_now(), timeout_seconds=PATIENCE_SECONDS)
            assert job["state"] == "ok", job["message"]
        return self.good_backups()[0]

    def fill_disk(self, server: str) -> None:
        with self.disk_path(server).open("wb") as file:
            for _ in range(DISK_MIB):
                file.write(os.urandom(MIB))


@pytest.fixture(scope="package")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    if not PROGRAMS:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    with pytest.MonkeyPatch.context() as patch, scratch_cluster({"max_connections": "120"}) as url:
        patch.delenv("BACKUPSITE_DATA", raising=False)
        data = tmp_path_factory.mktemp("fleet")
        settings = StackSettings(data=data, port=free_ports(PORT_SPAN)[0], database_url=url)
        with Stack(settings, terminal=Terminal(io.StringIO())) as stack:
            size = str(DISK_MIB * MIB)
            rows = json.loads(stack.run_manage("demo_rows", "--disk-size-bytes", size, role="manage"))
            from backupsite.stack.demo_api import DemoApi

            api = DemoApi(portal_url=settings.portal_url, token=rows["token"])
            fleet = Fleet(stack, api, rows, "", database_url=url)
            ready = "SELECT 1 FROM vaults_vault WHERE status = 'ready'"
            fleet.wait(lambda: fleet.sql(ready), seconds=PATIENCE_SECONDS, what="the vault did not become ready")
            body = {"disk": rows["disks"]["web01"]["id"], "name": "daily", "cron": far_from_now(), "time_zone": "UTC"}
            fleet.definition_id = api.post("definitions/", body)["id"]
            fleet.fill_disk("web01")
            second = fleet.beside("beat")
            try:
                yield fleet
            finally:
                second.stop()
