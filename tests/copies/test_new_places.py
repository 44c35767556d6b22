"""Copies restored to what is not there yet, and to other nodes; what workers that were killed leave is swept."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from agents.drivers.zfs_commands import OWNER, UNFINISHED
from agents.models import Disk, Storage
from agents.program import datasets
from agents.program.session import SessionClient
from agents.program.surveying import measure
from agents.services import report_survey
from backups import sweeper
from backups.copies.importing import import_copy
from backups.leftovers import sweep_node
from backups.models import Backup, Job, StrayCopy
from backups.new_targets import request_new_disk
from backups.services import cancel_job, remove_backups, request_backup
from backups.states import BackupStatus, JobState
from common.errors import ConflictError
from tenants.models import AuditEvent
from tests.copies.conftest import MIB, Site, made_by, other_disk
from tests.copies.quick_zfs import Machine, machine, stand_in
from tests.factories import make_node, make_server, make_storage

pytestmark = pytest.mark.stack


class Killed(BaseException):
    """What a worker does not survive."""


def new_disk(site: Site, backup: Backup, **changes: object) -> Job:
    wish = {"backup": backup, "server": site.disk.server, "storage": site.disk.storage, **changes}
    return request_new_disk(**wish, actor=site.admin, now=timezone.now())


def killed_at(site: Site, monkeypatch: pytest.MonkeyPatch, where: object, call: str, job: Job) -> None:
    """The worker of the job dies in this call."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(where, call, die)
        with pytest.raises(Killed):
            site.run(job)


def give_up(job: Job, site: Site) -> None:
    """Nobody takes it over: a person cancels it."""
    cancel_job(job=job, actor=site.admin, now=timezone.now())
    sweeper.sweep(now=timezone.now() + timedelta(hours=1))
    job.refresh_from_db()
    assert job.state == JobState.CANCELED


@pytest.mark.parametrize("type_of", ["dataset", "file"])
def test_what_zfs_sent_becomes_a_new_dataset_that_is_ours(
    site: Site, pool: Machine, tmp_path: Path, type_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if type_of == "file":
        site.storage.path = str(tmp_path / "copies")
        site.storage.save()
    backup = made_by(site, site.definition(type=type_of))
    with pytest.raises(ConflictError) as caught:
        new_disk(site, backup, storage=make_attached(site, str(tmp_path / "own")))
    assert caught.value.code == "other_kind_of_disk"

    job = new_disk(site, backup)
    killed_at(site, monkeypatch, SessionClient, "restore_done", job)
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now())
    site.run(job)

    made = Disk.objects.get(pk=job.disk_id)
    assert (job.state, job.node, made.driver, made.incomplete_since) == (JobState.OK, site.node, "zfs", None), (
        job.message
    )
    assert pool.content(f"tank/vms/{made.path}") == "first content " * 30
    assert pool.props(f"tank/vms/{made.path}")[OWNER] == str(made.pk)
    # It can be backed up like any other.
    assert made_by(site, site.definition(name="of-new", type=type_of, disk=made)).status == BackupStatus.OK
    # One that was made and given up before anybody was told goes with the next sweep.
    unmade = new_disk(site, backup)
    killed_at(site, monkeypatch, SessionClient, "restore_done", unmade)
    assert f"tank/vms/{unmade.disk.path}" in pool.names()
    give_up(unmade, site)
    site.tend()
    assert f"tank/vms/{unmade.disk.path}" not in pool.names() and f"tank/vms/{made.path}" in pool.names()


def make_attached(site: Site, path: str, *, of: Disk | None = None) -> Storage:
    storage = of.storage if of is not None else make_storage(site.node)
    storage.path = path
    storage.save()
    storage.tenants.add(site.disk.tenant)
    return storage


def test_a_backup_that_was_killed_before_it_was_told_of_is_removed_and_unknown_ones_are_offered(
    site: Site, pool: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = site.definition(type="dataset")
    first, second = made_by(site, definition), made_by(site, definition)
    chain = second.place.partition("@")[0]
    assert UNFINISHED not in pool.props(chain)
    job = request_backup(definition=definition, actor=site.admin, now=timezone.now())
    killed_at(site, monkeypatch, SessionClient, "copied", job)
    assert len(pool.names()[chain]) == 3 and site.tend().leftovers == 0
    give_up(job, site)

    assert site.tend().leftovers == 1 and site.tend().leftovers == 0

    assert len(pool.names()[chain]) == 2 and UNFINISHED not in pool.props(chain)
    assert AuditEvent.objects.filter(action="storage.swept").exists()
    # Killed after it was told of: it counts.
    last = request_backup(definition=definition, actor=site.admin, now=timezone.now())
    killed_at(site, monkeypatch, datasets, "finish_set", last)
    assert UNFINISHED in pool.props(chain)
    assert site.tend().leftovers == 0 and UNFINISHED not in pool.props(chain)
    assert made_by(site, definition).full_reason == ""

    # A catalogue that lost rows: what is whole is offered and taken in.
    Job.objects.all().delete()
    Backup.objects.filter(pk=second.pk).delete()
    assert (site.tend().strays, site.tend().strays) == (1, 1)
    stray = StrayCopy.objects.get()
    taken = import_copy(stray=stray, tenant=site.disk.tenant, actor=site.admin, now=timezone.now())
    assert (taken.type, taken.place, taken.sha256, taken.disk) == ("dataset", second.place, second.sha256, site.disk)
    assert site.tend().strays == 0 and not StrayCopy.objects.exists()
    taken.refresh_from_db()
    job = site.restore(taken, site.disk)
    assert job.state == JobState.OK, job.message
    assert first.place in {f"{chain}@{name}" for name in pool.names()[chain]}


@pytest.mark.parametrize("type_of", ["dataset", "file"])
def test_zfs_copies_go_to_another_node_through_its_forced_command(
    site: Site, pool: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type_of: str
) -> None:
    far = machine(tmp_path, "far")
    far.write("tank/vms", "")
    far.write("tank/vms/other", "old", quota="1000000")
    stand_in(monkeypatch, pool, **{"n2.example": far})
    hosts = tmp_path / "node" / "zfs-hosts.toml"
    hosts.parent.mkdir(exist_ok=True)
    hosts.write_text('[n2]\naddress = "n2.example"\nuser = "backupsite"\nkey = "/k"\nknown_hosts = "/h"\n')
    if type_of == "file":
        site.storage.path = str(tmp_path / "copies")
        site.storage.save()
    backup = made_by(site, site.definition(type=type_of))
    server = make_server(site.disk.tenant)
    server.node.name = "n2"
    server.node.save()
    target = server.disks.get()
    target.driver, target.path = "zfs", "other"
    target.save()
    make_attached(site, "tank/vms", of=target)

    job = site.restore(backup, target)

    assert (job.state, job.node) == (JobState.OK, site.node), job.message
    assert far.content("tank/vms/other") == "first content " * 30 and far.props("tank/vms/other")["quota"] == "1000000"
    assert set(far.state["sets"]) == {"tank", "tank/vms", "tank/vms/other"}


def test_a_file_is_read_by_each_node_that_sees_its_share(site: Site, tmp_path: Path) -> None:
    site.write(site.disk, b"whole" * 1000)
    backup = made_by(site, site.definition())
    target = other_disk(site, size_bytes=4 * MIB)
    away = make_node(site.disk.tenant, name="n2")
    target.server.node = away
    target.server.save()
    with pytest.raises(ConflictError, match="mount the same share on n2") as caught:
        site.restore(backup, target)
    assert caught.value.code == "copy_elsewhere"
    # The same share, mounted there under another path.
    share = make_storage(away)
    (tmp_path / "share").symlink_to(site.storage.path)
    share.path = str(tmp_path / "share")
    share.save()
    report_survey(name="n2", drivers={}, storages={share.pk: measure(share.path)}, now=timezone.now())

    job = site.restore(backup, target)

    assert (job.state, job.node) == (JobState.OK, away), job.message
    assert site.path(target).read_bytes() == site.path(site.disk).read_bytes()
    # To a new disk there, too.
    made = new_disk(site, backup, server=target.server, storage=attach(share, site))
    assert site.run(made).state == JobState.OK, made.message
    assert Path(share.path, made.disk.path).read_bytes() == site.path(site.disk).read_bytes()


def attach(storage: Storage, site: Site) -> Storage:
    storage.tenants.add(site.disk.tenant)
    return storage


def test_an_image_that_was_made_before_anybody_was_told_is_made_anew_or_swept(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write(site.disk, b"whole" * 1000)
    backup = made_by(site, site.definition())
    stranger = Path(site.disk.storage.path, "restored-by-hand.img")
    stranger.write_text("a person's")
    job = new_disk(site, backup, storage=attach(site.disk.storage, site))
    killed_at(site, monkeypatch, SessionClient, "target_opened", job)
    assert site.path(job.disk).exists() and sweep_node(name=site.node.name, clock=timezone.now) == []
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now())

    assert site.run(job).state == JobState.OK, job.message
    assert site.path(job.disk).read_bytes() == site.path(site.disk).read_bytes()

    given_up = new_disk(site, backup)
    killed_at(site, monkeypatch, SessionClient, "target_opened", given_up)
    give_up(given_up, site)
    assert sweep_node(name=site.node.name, clock=timezone.now) == [str(site.path(given_up.disk))]
    assert sweep_node(name=site.node.name, clock=timezone.now) == []
    assert site.path(job.disk).exists() and stranger.exists()


def test_a_pool_is_measured_and_a_backup_that_does_not_fit_is_refused_with_numbers(site: Site, pool: Machine) -> None:
    pool.change(available=300, used=700)
    pool.write("tank/vms/web", "x" * 1000)

    told = measure("tank/copies")
    job = site.back_up(site.definition(type="dataset"))

    assert (told.kind, told.total_bytes, told.free_bytes, told.problem) == ("zfs", 1000, 300, "")
    assert measure("tank/gone").problem and measure("tank/gone").total_bytes is None
    assert (job.state, job.code) == (JobState.FAILED, "no_space"), job.message
    assert "300 bytes free" in job.message and "1000" in job.message
    assert "receive" not in json.dumps(pool.state["calls"]) and pool.names()["tank/vms/web"] == []


def test_after_one_of_many_is_removed_the_sizes_of_the_rest_are_right(site: Site, pool: Machine) -> None:
    definition = site.definition(type="dataset")
    made = []
    for number in range(3):
        pool.write("tank/vms/web", "x" * 100 * (number + 1))
        made.append(made_by(site, definition))
    remove_backups(backups=[made[1]], actor=site.admin, now=timezone.now())

    assert site.tend().erased == 1

    sizes = dict(Backup.objects.in_catalogue().order_by("created_at").values_list("pk", "unique_bytes"))
    assert sizes == {made[0].pk: 100, made[2].pk: 300}
    erased = Backup.objects.get(pk=made[1].pk)
    assert erased.erased_at is not None and erased.unique_bytes == 0
    kept = {one.place.partition("@")[2] for one in (made[0], made[2])}
    assert set(pool.names()[made[0].place.partition("@")[0]]) == kept
