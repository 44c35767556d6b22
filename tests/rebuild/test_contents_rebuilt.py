"""A file tree and a stream outlive us: bucket and recovery key alone restore them, and a new catalogue knows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from django.utils import timezone

from agents.drivers import registry
from agents.models import Disk, Node, Storage
from agents.services import add_disk, add_server
from backups import runner
from backups.describing import describe_domain
from backups.models import Backup
from backups.new_targets import request_new_disk
from backups.services import remove_backups, request_restore
from engine.alone.catalogue import open_domain, read_manifests
from engine.alone.layout import DomainPlace
from engine.alone.restoring import RestoreOrder, restore_backup
from engine.alone.s3 import S3Bucket, S3Options
from tenants.models import Person, Tenant
from tests.agents.test_mover_contents import Taps
from tests.backups.conftest import Site
from tests.backups.test_contents import make_tree
from tests.engine.chunk_support import snapshot
from tests.engine.support import noise
from tests.rebuild.test_rebuild import _lose_the_database, _rebuild, _recovery_key

pytestmark = pytest.mark.stack


def _stream(site: Site) -> Disk:
    server = add_server(tenant=site.tenant, name="db01", region_code="RBX", node=site.node, actor=None)
    place = {"storage": Storage.objects.get(node=site.node), "path": "db01", "size_bytes": 1, "actor": None}
    return add_disk(server=server, number=1, driver="taps", **place)


def _restore_alone(site: Site, backup: Backup, to: Path, settings) -> None:
    config = settings.CONFIG
    bucket = S3Bucket(
        S3Options(
            bucket=site.vault.bucket,
            endpoint_url=site.vault.endpoint.url,
            region="us-east-1",
            access_key=config.s3_keeper_access_key,
            secret_key=config.s3_keeper_secret_key.get_secret_value(),
        )
    )
    place = DomainPlace(str(backup.tenant_id), str(backup.manifest.domain_id))
    domain = open_domain(bucket, place, _recovery_key(site.tenant))
    found = next(one for one in read_manifests(bucket, domain) if one.ref.sha256 == backup.manifest.sha256)
    order = RestoreOrder(to=str(to))
    outcome = restore_backup(bucket, domain, found, order, progress=lambda _: None, cancel=lambda: False)
    assert outcome.is_complete


@pytest.mark.case("RS-13")
def test_a_tree_and_a_stream_outlive_the_service(
    site: Site, settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "taps", "tests.agents.test_mover_contents:Taps")  # type: ignore[arg-type]  # a dict
    monkeypatch.setitem(registry.CONTENTS, "taps", "stream")  # type: ignore[arg-type]  # a dict
    monkeypatch.setattr(Taps, "is_whole", True)
    monkeypatch.setattr(Taps, "data", noise(3_000_000))
    tree, stream = make_tree(site), _stream(site)
    of_tree = site.back_up(site.definition(tree)).backup
    definition = site.definition(stream)
    earlier = site.back_up(definition).backup
    Taps.data = Taps.data[:100_000] + b"inserted" + Taps.data[100_000:]
    of_stream = site.back_up(definition).backup
    before = snapshot(os.fsencode(site.path(tree)))

    # A stream is backed up over its base, restored to what it came from, accounted and removed like any other.
    stream.refresh_from_db()
    assert (of_stream.content, of_stream.size_bytes, stream.size_bytes) == ("stream", 3_000_008, 3_000_008)
    assert of_stream.stored_bytes < earlier.stored_bytes / 2
    job = request_restore(backup=of_stream, target=stream, confirmation="db01", actor=site.admin, now=timezone.now())
    runner.run_job(job_id=str(job.pk))
    job.refresh_from_db()
    assert (job.state, Taps.taken.getvalue() == Taps.data) == ("ok", True), job.message
    of_stream.refresh_from_db()
    assert of_stream.shared_bytes > 0
    remove_backups(backups=[earlier], actor=site.admin, now=timezone.now())
    of_stream.refresh_from_db()
    assert of_stream.shared_bytes == 0

    # Without us.
    for backup in (of_tree, of_stream):
        describe_domain(backup.manifest.domain_id)
    (tmp_path / "alone").mkdir()
    _restore_alone(site, of_tree, tmp_path / "alone", settings)
    _restore_alone(site, of_stream, tmp_path / "stream", settings)
    assert snapshot(os.fsencode(tmp_path / "alone")) == before
    assert (tmp_path / "stream").read_bytes() == Taps.data

    # With another of us.
    told = {row.name: (row.content, row.counts, row.size_bytes) for row in Backup.objects.in_catalogue()}
    key = _recovery_key(site.tenant)
    _lose_the_database(site, settings)
    _rebuild(site, key, tmp_path)
    found = Backup.objects.exclude(sequence=1, content="stream")
    assert {row.name: (row.content, row.counts, row.size_bytes) for row in found} == told
    tenant, node = Tenant.objects.get(title="Acme"), Node.objects.get(name="local")
    server = add_server(tenant=tenant, name="new", region_code="RBX", node=node, actor=None)
    storage = Storage.objects.get(node=node, name="disks")
    storage.tenants.add(tenant)
    backup = Backup.objects.select_related("disk").get(content="tree")
    assert backup.disk.driver == "filesystem"
    root = Person.objects.create(username="root", is_superuser=True)
    made = request_new_disk(backup=backup, server=server, storage=storage, actor=root, now=timezone.now())
    runner.run_job(job_id=str(made.pk))
    made.refresh_from_db()
    assert made.state == "ok", made.message
    assert snapshot(os.fsencode(Path(storage.path, made.disk.path))) == before
