"""Restore drills: chosen each week, restored for real beside everything else, compared, and nothing is left."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from agents.models import Storage
from agents.program import drilling
from agents.program.session import SessionClient
from backups import runner
from backups.drills import request_drill, request_due_drills
from backups.leftovers import sweep_node
from backups.models import Backup, Job
from backups.nodes import add_storage, set_for_drills
from backups.services import cancel_job, remove_backups
from backups.states import JobState
from backups.sweeper import sweep
from backups.unmade import scratch_name
from common.errors import ConflictError, NotAllowedError
from engine.restore import BlockTarget, RestoreResult, restore_disk
from tenants.models import AuditEvent, NoticeEvent
from tests.backups.conftest import MIB, Site
from tests.factories import (
    make_backup,
    make_node,
    make_person,
    make_server,
    make_storage,
    make_subscription,
    make_tenant,
)
from tests.worlds import World

pytestmark = [pytest.mark.stack, pytest.mark.case("RS-15")]
NIGHT = datetime(2026, 5, 4, 2, 10, tzinfo=UTC)


class Killed(BaseException):
    """What a worker does not survive."""


def scratch_storage(site: Site) -> Storage:
    path = site.data / "scratch"
    path.mkdir()
    storage = add_storage(node=site.node, name="scratch", path=str(path), actor=site.admin)
    set_for_drills(storage=storage, for_drills=True, actor=site.admin)
    storage.tenants.add(site.tenant)
    Storage.objects.filter(pk=storage.pk).update(free_bytes=1 << 30)
    return storage


def drilled(site: Site, backup: Backup) -> Job:
    job = request_drill(backup=backup, actor=site.admin, now=timezone.now())
    runner.run_job(job_id=str(job.pk))
    job.refresh_from_db()
    return job


def test_a_backup_is_restored_for_real_compared_and_nothing_is_left(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_subscription(address="ops@example.com")
    disk = site.server("web", content=b"content of the disk" * 50_000)
    backup = Backup.objects.get(pk=site.back_up(site.definition(disk)).backup_id)
    with pytest.raises(ConflictError) as caught:
        request_drill(backup=backup, actor=site.admin, now=timezone.now())
    assert caught.value.code == "no_drill_storage"
    scratch = scratch_storage(site)
    seen: list[bytes] = []
    real = restore_disk

    def spoiled(*, target: BlockTarget, differential: bool = False, **given: object) -> RestoreResult:
        result = real(target=target, differential=differential, **given)
        if not differential:
            [file] = Path(scratch.path).glob("backupsite-drill-*.img")
            seen.append(file.read_bytes())
            if len(seen) == 2:
                target.write(MIB // 2, b"rot")
        return result

    monkeypatch.setattr(drilling, "restore_disk", spoiled)

    passed = drilled(site, backup)

    backup.refresh_from_db()
    assert passed.state == JobState.OK and backup.drilled_at is not None, passed.message
    assert seen == [site.path(disk).read_bytes()] and list(Path(scratch.path).iterdir()) == []
    failed = drilled(site, backup)
    assert (failed.state, failed.code) == (JobState.FAILED, "drill_different"), failed.message
    assert list(Path(scratch.path).iterdir()) == []
    drilled(site, backup)
    told = NoticeEvent.objects.filter(code__startswith="drill.").order_by("pk")
    assert list(told.values_list("code", "recovers")) == [
        ("drill.passed", False), ("drill.failed", False), ("drill.passed", True),
    ]  # fmt: skip
    # The definition's own backups go on as if nothing had been.
    assert site.back_up(disk.definitions.get()).state == JobState.OK

    _killed(site, backup, Path(scratch.path), monkeypatch)


def _killed(site: Site, backup: Backup, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scratch file is for the worker that takes it over, or for the sweep."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    job = request_drill(backup=backup, actor=site.admin, now=timezone.now())
    with monkeypatch.context() as patched:
        patched.setattr(drilling, "_remove", lambda _: None)
        patched.setattr(SessionClient, "restore_done", die)
        with pytest.raises(Killed):
            runner.run_job(job_id=str(job.pk))
    stranger = folder / "backupsite-drill-by-hand.img"
    stranger.write_text("a person's")
    assert (folder / scratch_name(job)).exists() and sweep_node(name=site.node.name, clock=timezone.now) == []
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now())
    cancel_job(job=job, actor=site.admin, now=timezone.now())
    sweep(now=timezone.now() + timedelta(hours=1))

    assert sweep_node(name=site.node.name, clock=timezone.now) == [str(folder / scratch_name(job))]
    assert list(folder.iterdir()) == [stranger]
    remove_backups(backups=[backup], actor=site.admin, now=timezone.now())
    with pytest.raises(ConflictError):
        request_drill(backup=backup, actor=site.admin, now=timezone.now())


@pytest.mark.django_db
def test_each_tenant_has_one_a_week_in_the_hour_of_drills_where_it_is_attached() -> None:
    node, root = make_node(), make_person(superadmin=True)
    type(node).objects.filter(pk=node.pk).update(status="online")
    backups = {}
    for title in ("attached", "too big", "apart"):
        tenant = make_tenant(title)
        server = make_server(tenant, size_bytes=1 << (50 if title == "too big" else 20))
        backups[title] = [make_backup(server, status="ok") for _ in range(3)]
        storage = make_storage(node)
        Storage.objects.filter(pk=storage.pk).update(free_bytes=1 << 30, path=f"/srv/{title}")
        storage.refresh_from_db()
        set_for_drills(storage=storage, for_drills=title != "apart", actor=root)
        storage.tenants.add(tenant)
    asked: list[int] = []

    def last(count: int) -> int:
        asked.append(count)
        return count - 1

    assert [request_due_drills(now=NIGHT, hour=hour, choose=last) for hour in (3, -1)] == [[], []]
    [job] = request_due_drills(now=NIGHT, hour=2, choose=last)
    Job.objects.filter(pk=job.pk).update(created_at=NIGHT, state="ok")

    assert job.backup == max(backups["attached"], key=lambda one: one.pk) and set(asked) == {3}
    assert (job.kind, job.node, job.requested_by) == ("verify", node, None)
    assert request_due_drills(now=NIGHT + timedelta(days=6), hour=2, choose=last) == []
    assert len(request_due_drills(now=NIGHT + timedelta(days=7, minutes=-5), hour=2, choose=last)) == 1
    with pytest.raises(NotAllowedError):
        set_for_drills(storage=job.drill_storage, for_drills=False, actor=make_person())
    pool = make_storage(node)
    Storage.objects.filter(pk=pool.pk).update(path="tank/scratch")
    pool.refresh_from_db()
    with pytest.raises(ConflictError):
        set_for_drills(storage=pool, for_drills=True, actor=root)


@pytest.mark.django_db
def test_the_portal_sets_a_storage_aside_and_drills(world: World) -> None:
    storage, client = world.ours.storage, world.client("super")
    Storage.objects.filter(pk=storage.pk).update(path="/srv/x", free_bytes=1 << 60)
    type(storage.node).objects.filter(pk=storage.node_id).update(status="online")

    assert world.client("admin_a").post(f"/storages/{storage.pk}/drills/").status_code in {302, 403}
    assert not Storage.objects.get(pk=storage.pk).for_drills
    client.post(f"/storages/{storage.pk}/drills/")
    assert "set aside for restore drills" in client.get(f"/nodes/{storage.node_id}/").content.decode()
    storage.tenants.add(world.ours.tenant)
    page = f"/backups/{world.ours.backup.pk}/"
    assert "Drill it now" in world.client("admin_a").get(page).content.decode()
    assert "Drill it now" not in world.client("owner_a1").get(page).content.decode()
    answer = world.client("admin_a").post(f"{page}drill/")
    job = Job.objects.get(drill_storage=storage)
    assert answer["Location"] == f"/jobs/{job.pk}/"
    assert "restore drill" in client.get(f"/jobs/{job.pk}/").content.decode()
    client.post(f"/storages/{storage.pk}/drills/", {"end": ""}, format="multipart")
    assert not Storage.objects.get(pk=storage.pk).for_drills
    assert AuditEvent.objects.filter(action="storage.drills").count() == 2
