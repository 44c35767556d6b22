"""The demo's main job, run on the stack once it is up: back up, change, back up, restore elsewhere, compare.

It is a client like any other: rows by one command, everything else through the API. Imported only when it is asked for.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backupsite.stack import demo_disk
from backupsite.stack.demo_api import DemoApi, Json
from backupsite.stack.errors import StackError

if TYPE_CHECKING:
    from backupsite.stack.stack import Stack
    from backupsite.stack.terminal import Terminal

_MIB = 1024 * 1024
_JOB_SECONDS = 240.0
# For what workers and the clock do by themselves, on a busy machine.
_WORKERS_SECONDS = 240.0
_DONE_MARK = "demo-done.json"


@dataclass(frozen=True, slots=True)
class Login:
    """One person of the demo; `role` is shown as it is."""

    role: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MainJobResult:
    """`identical` is the verdict; without it `reason` says in one line why not."""

    identical: bool
    reason: str = ""
    summary: tuple[str, ...] = ()
    logins: tuple[Login, ...] = ()


def run_main_job(stack: Stack, terminal: Terminal, smoke: bool) -> MainJobResult:
    """Run the main job. The demo runs it once per data folder; the smoke test every time. Raises StackError."""
    demo_disk.check_tools()
    with terminal.step("tenant, servers, persons") as step:
        size = str(stack.settings.demo_disk_mib * _MIB)
        rows = json.loads(stack.run_manage("demo_rows", "--disk-size-bytes", size, role="manage"))
        step.note = f"{rows['tenant']}, {rows['company']}, {rows['vault']}"
    logins = tuple(Login(**login) for login in rows["logins"])
    done = stack.settings.data / _DONE_MARK
    if done.exists() and not smoke:
        return MainJobResult(identical=True, summary=tuple(json.loads(done.read_text())), logins=logins)
    summary = _MainJob(stack, terminal, rows).run()
    done.write_text(json.dumps(summary))
    return MainJobResult(identical=True, summary=tuple(summary), logins=logins)


class _MainJob:
    """One run of the main job; every step is told on the terminal and raises StackError when it fails."""

    def __init__(self, stack: Stack, terminal: Terminal, rows: Json) -> None:
        self._stack = stack
        self._terminal = terminal
        self._rows = rows
        self._api = DemoApi(portal_url=stack.settings.portal_url, token=rows["token"])
        self._source = Path(rows["disks"]["web01"]["path"])
        self._target = Path(rows["disks"]["web02"]["path"])
        self._size_bytes = stack.settings.demo_disk_mib * _MIB
        self._summary: list[str] = []

    def run(self) -> list[str]:
        self._make_disks()
        self._wait_for_vault()
        first, first_sum = self._back_up_by_schedule()
        self._change_disk()
        second, second_sum = self._back_up_now(first)
        self._restore(second, second_sum, "second")
        self._restore(first, first_sum, "first")
        self._prove_locks(second)
        return self._summary

    def _make_disks(self) -> None:
        with self._terminal.step("disk of web01, ext4, real files") as step:
            self._refuse_another_size()
            if not self._source.exists():
                demo_disk.make_source(self._source, size_bytes=self._size_bytes)
            step.note = (
                f"{demo_disk.allocated_bytes(self._source) // _MIB} MiB allocated of {self._size_bytes // _MIB} MiB"
            )
        if not self._target.exists():
            with self._terminal.step("disk of web02, with old data"):
                demo_disk.make_target(self._target, size_bytes=self._size_bytes)

    def _refuse_another_size(self) -> None:
        there = self._source.stat().st_size if self._source.exists() else self._size_bytes
        if there != self._size_bytes:
            raise StackError(
                f"the demo's disk {self._source} has {there // _MIB} MiB already; "
                f"set BACKUPSITE_DEMO_DISK_MIB={there // _MIB}, or choose another BACKUPSITE_DATA"
            )

    def _wait_for_vault(self) -> None:
        path = f"vaults/{self._rows['vault_id']}/"

        def ready() -> Json | None:
            vault = self._api.get(path)
            if vault["status"] == "refused":
                raise StackError(f"the vault was refused: {vault['refusal']}")
            return vault if vault["status"] == "ready" else None

        with self._terminal.step("vault with Object Lock") as step:
            self._api.wait(ready, timeout_seconds=_WORKERS_SECONDS, what="the vault did not become ready")
            step.note = f"servers in {self._rows['server_region']}, vault in {self._rows['vault_region']}"

    def _back_up_by_schedule(self) -> tuple[Json, str]:
        """Save a definition whose first run is due at once; then only the clock and the workers act."""
        with self._terminal.step("backup found due by the clock") as step:
            checksum = demo_disk.sha256_of(self._source)
            seen = {job["id"] for job in self._backup_jobs()}
            self._save_definition()
            job = self._api.wait(
                lambda: next((job for job in self._backup_jobs() if job["id"] not in seen and job["slot_at"]), None),
                timeout_seconds=_WORKERS_SECONDS,
                what="the clock did not dispatch the definition",
            )
            backup = self._finished(job["id"], step.progress)
            step.note = _figures(backup)
        return backup, checksum

    def _backup_jobs(self) -> list[Json]:
        found = self._api.get(f"jobs/?kind=backup&disk={self._rows['disks']['web01']['id']}")["results"]
        return list(found)

    def _save_definition(self) -> Json:
        disk_id = self._rows["disks"]["web01"]["id"]
        present = self._api.get(f"definitions/?disk={disk_id}")["results"]
        if present:
            return self._api.patch(f"definitions/{present[0]['id']}/", {"run_at_once": True})
        return self._api.post(
            "definitions/",
            {
                "disk": disk_id,
                "name": "nightly",
                "cron": "0 22 * * *",
                "time_zone": "Europe/Paris",
                "retention_count": 14,
                "run_at_once": True,
            },
        )

    def _change_disk(self) -> None:
        with self._terminal.step("files added and removed on web01"):
            mark = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
            demo_disk.change(self._source, scratch=self._source.parent, mark=mark)

    def _back_up_now(self, first: Json) -> tuple[Json, str]:
        with self._terminal.step("second backup, by hand") as step:
            checksum = demo_disk.sha256_of(self._source)
            definition = self._save_nothing_but_find()
            job = self._api.post(f"definitions/{definition['id']}/backup-now/", {})
            backup = self._finished(job["id"], step.progress)
            step.note = _figures(backup)
        if (
            backup["stored_bytes"] > max(first["stored_bytes"], 1)
            and backup["changed_bytes"] > backup["read_bytes"] // 4
        ):
            raise StackError("the second backup stored more than what changed")
        return backup, checksum

    def _save_nothing_but_find(self) -> Json:
        found: Json = self._api.get(f"definitions/?disk={self._rows['disks']['web01']['id']}")["results"][0]
        return found

    def _finished(self, job_id: str, tell: Any) -> Json:
        """The backup of the job once the control plane called it `ok`, with the mover's figures."""
        job = self._api.wait_for_job(job_id, timeout_seconds=_JOB_SECONDS, tell=tell)
        backup = self._api.get(f"backups/{job['backup']}/")
        backup["mover_wall_seconds"] = job["mover_wall_seconds"]
        seconds = max(backup["mover_wall_seconds"] or 0.0, 0.001)
        self._summary.append(
            f"{backup['name']}: read {backup['read_bytes'] / _MIB:.0f} MiB in {seconds:.1f} s "
            f"({backup['read_bytes'] / _MIB / seconds:.0f} MiB/s), changed {backup['changed_bytes'] / _MIB:.1f} MiB, "
            f"stored {backup['stored_bytes'] / _MIB:.1f} MiB"
        )
        return backup

    def _restore(self, backup: Json, checksum: str, title: str) -> None:
        with self._terminal.step(f"{title} backup onto web02") as step:
            request = {"target": self._rows["disks"]["web02"]["id"], "confirmation": "web02"}
            job = self._api.post(f"backups/{backup['id']}/restore/", request)
            job = self._api.wait_for_job(job["id"], timeout_seconds=_JOB_SECONDS, tell=step.progress)
            found = demo_disk.sha256_of(self._target)
            if found != checksum:
                raise StackError(f"the {title} backup came back different: SHA-256 {found} instead of {checksum}")
            demo_disk.check_file_system(self._target)
            step.note = "identical, e2fsck clean"
        self._summary.append(
            f"{title} backup restored onto web02 in {job['mover_wall_seconds']:.1f} s: SHA-256 identical, e2fsck clean"
        )

    def _prove_locks(self, backup: Json) -> None:
        with self._terminal.step("locks, asked of the store") as step:
            proof = json.loads(self._stack.run_manage("prove_locks", backup["id"], with_reaper=True))
            step.note = f"{proof['lock_mode']} until {proof['retain_until']}"
        self._summary.append(
            f"a pack of it is locked {proof['lock_mode']} until {proof['retain_until']}; "
            f"deleting that version was refused: {proof['delete_refused_with']}"
        )


def _figures(backup: Json) -> str:
    return f"read {backup['read_bytes'] // _MIB} MiB, stored {backup['stored_bytes'] / _MIB:.1f} MiB"
