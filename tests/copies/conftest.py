"""A node with a disk image and a storage for copies; the session gate over HTTP; no object storage at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from agents.models import Disk, Node, Storage
from backups import runner
from backups.copies.tending import Tended, tend_storage
from backups.models import Backup, Job
from backups.services import request_backup, request_restore
from backups.states import JobState
from definitions.models import Definition
from definitions.services import create_definition
from tenants.models import Person
from tests.copies.quick_zfs import Machine, machine, stand_in
from tests.factories import make_person, make_server, make_storage, make_tenant

MIB = 1024 * 1024


@dataclass
class Site:
    """Driven step by step instead of by workers and a clock."""

    folder: Path
    node: Node
    disk: Disk
    storage: Storage
    admin: Person

    def path(self, disk: Disk) -> Path:
        return Path(disk.storage.path, disk.path)

    def write(self, disk: Disk, content: bytes) -> None:
        with open(self.path(disk), "wb") as file:
            file.write(content)
            file.truncate(disk.size_bytes)

    def definition(self, **changes: object) -> Definition:
        values = {"name": "copies", "cron": "0 22 * * *", "now": timezone.now(), "type": "file", **changes}
        return create_definition(**{"disk": self.disk, "storage": self.storage, **values})

    def back_up(self, definition: Definition) -> Job:
        return self.run(request_backup(definition=definition, actor=self.admin, now=timezone.now()))

    def restore(self, backup: Backup, target: Disk) -> Job:
        backup.refresh_from_db()
        confirmation, now = target.server.name, timezone.now()
        return self.run(
            request_restore(backup=backup, target=target, confirmation=confirmation, actor=self.admin, now=now)
        )

    def run(self, job: Job) -> Job:
        runner.run_job(job_id=str(job.pk))
        job.refresh_from_db()
        return job

    def tend(self) -> Tended:
        return tend_storage(storage_id=self.storage.pk, now=timezone.now())

    def file_of(self, backup: Backup) -> Path:
        return Path(self.storage.path, backup.place)

    def files(self) -> list[str]:
        """Everything below the storage's folder but its mark."""
        found = [path for path in Path(self.storage.path).rglob("*") if path.is_file() and path.name != ".storage"]
        return sorted(path.name for path in found)


def rows(folder: Path) -> Site:
    tenant = make_tenant("Acme")
    server = make_server(tenant, name="web 01/äö", size_bytes=4 * MIB)
    disk = server.disks.get()
    disks, copies = make_storage(server.node), make_storage(server.node)
    for storage, name in ((disk.storage, "own"), (disks, "disks"), (copies, "copies")):
        storage.path = str(folder / name)
        storage.save()
        os.makedirs(storage.path)
    return Site(folder, server.node, disk, copies, make_person("root", superadmin=True))


@pytest.fixture
def site(transactional_db: None, live_server, settings, tmp_path: Path) -> Site:
    settings.ROOT_URLCONF = "backupsite.gate_urls"
    settings.CONFIG = settings.CONFIG.model_copy(
        update={"node_data": tmp_path / "node", "gate_url": live_server.url, "store_retry_seconds": 2}
    )
    return rows(tmp_path)


def other_disk(site: Site, *, size_bytes: int) -> Disk:
    """Of another server on the same node."""
    server = make_server(site.disk.tenant, size_bytes=size_bytes)
    server.node = site.node
    server.save()
    disk = server.disks.get()
    disk.storage = site.disk.storage
    disk.save()
    site.write(disk, b"old" * 1000)
    return disk


@pytest.fixture
def pool(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The disk is a dataset, the storage another one, both on this node's pool."""
    made = machine(tmp_path, "a")
    stand_in(monkeypatch, made)
    for name in ("tank/vms", "tank/copies"):
        made.write(name, "")
    made.write("tank/vms/web", "first content " * 30)
    for storage, path in ((site.disk.storage, "tank/vms"), (site.storage, "tank/copies")):
        storage.path = path
        storage.save()
    site.disk.driver, site.disk.path = "zfs", "web"
    site.disk.save()
    return made


def made_by(site: Site, definition: Any) -> Backup:
    job = site.back_up(definition)
    assert job.state == JobState.OK, job.message
    return Backup.objects.get(pk=job.backup_id)
