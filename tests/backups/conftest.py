"""The backup path with real parts: an S3 server with Object Lock, the session gate over HTTP, image files on disk."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.utils import timezone
from pydantic import SecretStr

from agents.models import Disk, Node, Storage
from agents.program.signing import load_writer_key
from agents.services import add_disk, add_server, report_node
from backups import committer, runner
from backups.models import Backup, Job
from backups.services import request_backup, request_restore
from backupsite.installation import write_fixed_rows
from backupsite.stack.weed import EmbeddedWeed
from definitions.models import Definition
from definitions.services import create_definition
from tenants.models import Person, Tenant
from tenants.services import create_tenant
from vaults.models import Vault
from vaults.provisioner import prepare_vault

MIB = 1024 * 1024


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedWeed]:
    with EmbeddedWeed(tmp_path_factory.mktemp("weed")) as server:
        yield server


@dataclass
class Site:
    """A whole small installation, driven step by step instead of by workers and a clock."""

    data: Path
    tenant: Tenant
    vault: Vault
    node: Node
    admin: Person

    def server(self, name: str, *, size_bytes: int = 8 * MIB, content: bytes = b"") -> Disk:
        server = add_server(tenant=self.tenant, name=name, region_code="RBX", node=self.node, actor=None)
        disk = add_disk(
            server=server,
            number=1,
            driver="image",
            storage=Storage.objects.get(node=self.node),
            path=f"{name}.img",
            size_bytes=size_bytes,
            actor=None,
        )
        with open(self.path(disk), "wb") as file:
            file.write(content)
            file.truncate(size_bytes)
        return disk

    def path(self, disk: Disk) -> Path:
        return Path(disk.storage.path, disk.path)

    def definition(self, disk: Disk, **changes: object) -> Definition:
        values = {"name": "daily", "cron": "0 22 * * *", "now": timezone.now(), **changes}
        return create_definition(disk=disk, **values)

    def back_up(self, definition: Definition) -> Job:
        """Backup now, run by a worker and committed; returns the job as it ended."""
        job = request_backup(definition=definition, actor=self.admin, now=timezone.now())
        runner.run_job(job_id=str(job.pk))
        return self.commit(job)

    def commit(self, job: Job) -> Job:
        session = job.sessions.order_by("-fence").first()
        if session is not None:
            committer.commit_session(session_id=str(session.pk))
        job.refresh_from_db()
        return job

    def restore(self, backup: Backup, target: Disk) -> Job:
        job = request_restore(
            backup=backup, target=target, confirmation=target.server.name, actor=self.admin, now=timezone.now()
        )
        runner.run_job(job_id=str(job.pk))
        job.refresh_from_db()
        return job


@pytest.fixture
def site(transactional_db: None, live_server, settings, weed: EmbeddedWeed, tmp_path: Path) -> Site:
    credentials = {}
    for name, credential in weed.credentials.items():
        credentials[f"s3_{name}_access_key"] = credential.access_key
        credentials[f"s3_{name}_secret_key"] = SecretStr(credential.secret_key)
    settings.ROOT_URLCONF = "backupsite.gate_urls"
    settings.CONFIG = settings.CONFIG.model_copy(
        update={
            **credentials,
            "data": tmp_path,
            "node_data": tmp_path / "node",
            "s3_endpoint": weed.url,
            "gate_url": live_server.url,
            "master_key": SecretStr(base64.b64encode(os.urandom(32)).decode()),
            "store_retry_seconds": 2,
            # Nothing beats but what a test has beat, and what is between may take long.
            "lease_seconds": 600,
        }
    )
    write_fixed_rows(embedded=True)
    key = load_writer_key(settings.CONFIG.node_directory)
    report_node(name="local", now=timezone.now(), signing_public_key=key.public)
    tenant = create_tenant(title="Acme", actor=None)
    site = Site(
        data=tmp_path,
        tenant=tenant,
        vault=Vault(),
        node=Node.objects.get(name="local"),
        admin=Person.objects.create(username="root", is_superuser=True),
    )
    site.server("spare")
    site.vault = tenant.vaults.get()
    # The probe takes seconds and has tests of its own (tests/vaults).
    prepare_vault(vault_id=str(site.vault.pk), probe=lambda vault, report: None)
    site.vault.refresh_from_db()
    assert site.vault.status == "ready", site.vault.refusal
    return site
