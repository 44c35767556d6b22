"""Jobs of a real libvirt server from end to end: one run, changed blocks, a restore in place, a new server."""

from __future__ import annotations

import os

import pytest
from django.utils import timezone

from agents.drivers import registry
from agents.drivers.libvirt import LibvirtDriver
from agents.models import Disk, Node, Server, Storage
from agents.services import add_disk, add_server
from backups import runner
from backups.leftovers import sweep_node
from backups.models import Backup, Job
from backups.new_targets import request_new_disk, request_new_server
from backups.nodes import add_storage
from backups.services import request_server_backup
from definitions.attachments import attach_storage
from tests.backups.conftest import MIB, Site
from tests.drivers.conftest import lab, libvirt_lab
from tests.drivers.libvirt_lab import Lab

pytestmark = pytest.mark.stack
__all__ = ["lab", "libvirt_lab"]
SIZE = 8 * MIB
BLOCK = 65536
_present: list[Lab] = []


def driver_of_the_lab() -> LibvirtDriver:
    return _present[-1].driver


@pytest.fixture
def server(site: Site, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Server:
    """One with two disks, running, protected."""
    monkeypatch.setitem(registry.BUILT_IN, "libvirt", "tests.backups.test_libvirt_jobs:driver_of_the_lab")  # type: ignore[arg-type]  # a dict
    monkeypatch.setattr("tests.backups.test_libvirt_jobs._present", [lab])
    storage = add_storage(node=site.node, name="images", path=str(lab.folder), actor=site.admin)
    attach_storage(storage=storage, tenant=site.tenant, actor=site.admin)
    names = ("a.qcow2", "b.qcow2")
    for name in names:
        lab.disk(name, SIZE)
    place = {"tenant": site.tenant, "region_code": "RBX", "node": site.node, "actor": None}
    server = add_server(name="one", source_name=lab.server("one", names), **place)
    for number, name in enumerate(names, start=1):
        how = {"driver": "libvirt", "storage": storage, "path": name, "size_bytes": SIZE, "actor": None}
        site.definition(add_disk(server=server, number=number, **how))
    lab.start("one")
    return server


def backed_up(site: Site, server: Server) -> list[Backup]:
    jobs = request_server_backup(server=server, actor=site.admin, now=timezone.now())
    runner.run_job(job_id=str(jobs[0].pk))
    ended = [site.commit(job) for job in jobs]
    assert [job.state for job in ended] == ["ok", "ok"], [job.message for job in ended]
    return list(Backup.objects.filter(jobs__in=jobs).order_by("disk_number"))


def test_a_server_is_backed_up_as_of_one_moment_restored_and_made_anew(site: Site, server: Server, lab: Lab) -> None:
    lab.guest_writes("one", "write -P 1 0 2M", "write -P 2 5M 64k")
    lab.guest_writes("one", "write -P 3 1M 1M", disk=1)
    first = backed_up(site, server)
    lab.guest_writes("one", "write -P 4 3M 64k")

    second = backed_up(site, server)

    assert [backup.full_reason for backup in first] == ["first_backup", "first_backup"]
    assert [(backup.full_reason, backup.read_bytes) for backup in second] == [("", BLOCK), ("", 0)]
    assert len({backup.point for backup in second}) == 1 and all(backup.has_configuration for backup in second)
    kept = sorted({first[0].point, second[0].point})
    assert lab.traces("one")["points"] == kept
    assert sweep_node(name="local", clock=timezone.now) == [first[0].point]

    # In place: refused in the driver's words while the server runs, then back to the second backup.
    disk = server.disks.get(number=1)
    refused = site.restore(second[0], disk)
    assert (refused.code, "running" in refused.message) == ("disk_busy", True)
    lab.stop("one")
    expected = lab.content("a.qcow2")
    lab.start("one")
    lab.guest_writes("one", "write -P 9 0 1M")
    lab.stop("one")
    restored = site.restore(second[0], disk)
    assert restored.state == "ok" and restored.safety_point, restored.message
    assert lab.content("a.qcow2") == expected

    # A checkpoint is of both disks: the restore took its own out of it. What is read is that one, and its chain heals.
    third, fourth = backed_up(site, server), backed_up(site, server)
    assert [backup.full_reason for backup in third] == ["restored_since", ""]
    assert third[1].read_bytes == 0
    assert [(backup.full_reason, backup.read_bytes) for backup in fourth] == [("", 0), ("", 0)]

    # Beside it, as a new disk: attached, for the server is off.
    to_new = {"server": server, "storage": Storage.objects.get(name="images"), "actor": site.admin}
    job = request_new_disk(backup=second[0], now=timezone.now(), **to_new)
    runner.run_job(job_id=str(job.pk))
    job.refresh_from_db()
    assert "attached to one as vdc" in job.message and "vdc" in lab.virsh("domblklist", "one"), job.message

    jobs = request_new_server(
        backup=second[0],
        name="two",
        storage=Storage.objects.get(name="images"),
        actor=site.admin,
        now=timezone.now(),
    )
    for job in jobs:
        runner.run_job(job_id=str(job.pk))
    assert set(Job.objects.filter(pk__in=[job.pk for job in jobs]).values_list("state", flat=True)) == {"ok"}
    made = Server.objects.get(name="two")
    assert lab.virsh("domuuid", "two") == made.source_name != server.source_name
    assert lab.virsh("domstate", "two") == "shut off"
    assert lab.content(Disk.objects.get(server=made, number=1).path) == expected
    assert Node.objects.get(pk=made.node_id) == site.node and os.listdir(lab.folder)
