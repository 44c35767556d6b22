"""Nodes: what they report, when they are offline, maintenance that drains, and what keeps them from being removed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from agents import worker
from agents.drivers import registry
from agents.models import Node, Storage
from agents.program.surveying import kind_of, measure
from agents.services import SILENT_AFTER, notice_silent_nodes, report_node, set_source_name
from backups.choosing import claim_for_hint
from backups.dispatcher import dispatch_due
from backups.models import Backup, Job
from backups.nodes import (
    add_storage,
    change_node,
    drain_node,
    refuse_detaching,
    register_node,
    remove_node,
    remove_storage,
    resume_node,
    running_on,
)
from common.errors import BackupsiteError, ConflictError, NotAllowedError
from definitions.choices import choices_for
from definitions.models import Definition
from tenants.models import AuditEvent, NoticeEvent, Person
from tests.backups.pointed import PointedDriver
from tests.factories import (
    disk_of,
    make_backup,
    make_definition,
    make_job,
    make_node,
    make_person,
    make_region,
    make_server,
    make_storage,
    make_subscription,
)

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def root() -> Person:
    return make_person(superadmin=True)


def test_a_node_is_offline_after_silence_and_back_with_its_next_report() -> None:
    make_subscription(address="ops@example.com", events=["node.offline"])
    node, resting = make_node(), make_node()
    Node.objects.filter(pk=resting.pk).update(status=Node.Status.MAINTENANCE, last_seen_at=NOW - timedelta(days=1))
    report_node(name=node.name, now=NOW)

    assert notice_silent_nodes(now=NOW + SILENT_AFTER - timedelta(seconds=1)) == []
    assert notice_silent_nodes(now=NOW + SILENT_AFTER) == [node]
    assert notice_silent_nodes(now=NOW + SILENT_AFTER) == []
    node.refresh_from_db()
    assert node.status == Node.Status.OFFLINE
    report_node(name=node.name, now=NOW + SILENT_AFTER)

    node.refresh_from_db()
    resting.refresh_from_db()
    assert (node.status, resting.status) == (Node.Status.ONLINE, Node.Status.MAINTENANCE)
    actions = AuditEvent.objects.filter(action__startswith="node.").order_by("pk").values_list("action", flat=True)
    assert list(actions) == ["node.offline", "node.online"]
    # Told once, and once when it is back; a node that is only new is no news.
    assert list(NoticeEvent.objects.order_by("pk").values_list("code", flat=True)) == ["node.offline", "node.online"]


def test_a_worker_says_which_drivers_work_and_what_its_storages_are(
    settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    node = make_node()
    here, gone = make_storage(node), make_storage(node)
    Storage.objects.filter(pk=here.pk).update(path=str(tmp_path))
    settings.CONFIG = settings.CONFIG.model_copy(update={"node": node.name})
    # A plug-in that breaks is said to be broken, and stops no other.
    monkeypatch.setattr(PointedDriver, "probe", lambda self: 1 // 0)
    monkeypatch.setitem(registry.BUILT_IN, "pointed", "tests.backups.pointed:PointedDriver")  # type: ignore[arg-type]  # a dict

    worker.survey()

    for row in (node, here, gone):
        row.refresh_from_db()
    assert node.drivers["image"] == "" and "ZeroDivisionError" in node.drivers["pointed"]
    assert node.drivers_at == here.measured_at == gone.measured_at
    assert here.kind and here.problem == "" and 0 < here.free_bytes <= here.total_bytes
    assert (gone.total_bytes, gone.kind) == (None, "") and "mounted" in gone.problem


def test_the_innermost_and_the_last_mount_count() -> None:
    mounts = [
        "22 1 0:20 / / rw shared:1 - ext4 /dev/vda1 rw",
        "30 22 0:30 / /srv rw - xfs /dev/vdb rw",
        "31 22 0:31 / /srv/my\\040disks rw - nfs4 nas:/disks rw",
        "32 30 0:32 / /srv rw - btrfs /dev/vdc rw",
        "no mount at all",
    ]

    paths = ("/srv/my disks/a", "/srv/my disks", "/srv/other", "/srvx", "/")
    assert [kind_of(path, mounts) for path in paths] == ["nfs4", "nfs4", "btrfs", "ext4", "ext4"]
    assert "mounted" in measure("/nowhere/at/all").problem


def test_a_node_in_maintenance_ends_what_runs_begins_nothing_and_says_so(root: Person) -> None:
    server, other = make_server(), make_server()
    node, definition = server.node, make_definition(server)
    Definition.objects.filter(pk=definition.pk).update(next_run_at=timezone.now() - timedelta(minutes=1))
    make_job(server, state="running")
    waiting, elsewhere = make_job(other), make_job(make_server())
    Job.objects.filter(pk=waiting.pk).update(node=node)

    drain_node(node=node, actor=root)
    drain_node(node=node, actor=root)

    assert (node.status, running_on(node)) == (Node.Status.MAINTENANCE, 1)
    assert claim_for_hint(job_id=waiting.pk, now=timezone.now()) is None
    assert claim_for_hint(job_id=elsewhere.pk, now=timezone.now()) is not None
    waiting.refresh_from_db()
    assert node.name not in waiting.waits and "maintenance" in waiting.waits
    # What is due stays due, and runs once afterwards.
    assert dispatch_due(now=timezone.now()) == 0
    report_node(name=node.name, now=timezone.now())
    resume_node(node=node, now=timezone.now(), actor=root)
    assert node.status == Node.Status.ONLINE
    assert claim_for_hint(job_id=waiting.pk, now=timezone.now()) is not None
    assert dispatch_due(now=timezone.now()) == 1
    assert AuditEvent.objects.filter(action="node.drain").count() == 1


def test_a_node_whose_worker_is_silent_comes_out_of_maintenance_offline(root: Person) -> None:
    node = make_node()
    Node.objects.filter(pk=node.pk).update(last_seen_at=NOW - timedelta(hours=1))
    node.refresh_from_db()
    drain_node(node=node, actor=root)

    assert resume_node(node=node, now=NOW, actor=root).status == Node.Status.OFFLINE


def test_a_node_and_its_storage_live_and_go(root: Person) -> None:
    make_region()
    node = register_node(name="n1", region_code="RBX", actor=root)
    storage = add_storage(node=node, name="disks", path="/srv/disks/", actor=root)

    assert (node.status, node.queue, storage.path) == (Node.Status.OFFLINE, "node.n1", "/srv/disks")
    with pytest.raises(ConflictError) as refused:
        remove_node(node=node, actor=root)
    assert refused.value.code == "still_needed" and "disks@n1" in refused.value.message
    remove_storage(storage=storage, actor=root)
    report_node(name="n1", now=NOW, signing_public_key=b"k" * 32)
    remove_node(node=node, actor=root)

    assert not Node.objects.filter(name="n1").exists()


@pytest.mark.parametrize("path", ["", "/", "/srv/../etc", "/srv/./x", "a\0b"])
def test_a_storage_needs_a_path_of_its_own(root: Person, path: str) -> None:
    with pytest.raises(BackupsiteError) as refused:
        add_storage(node=make_node(), name="disks", path=path, actor=root)

    assert refused.value.code in {"bad_path", "invalid_input"}


def test_names_and_paths_are_taken_once(root: Person) -> None:
    node = make_node()
    add_storage(node=node, name="disks", path="/srv/disks", actor=root)

    for call in (
        lambda: register_node(name=node.name, region_code="RBX", actor=root),
        lambda: add_storage(node=node, name="disks", path="/srv/more", actor=root),
        lambda: add_storage(node=node, name="more", path="/srv/disks/", actor=root),
    ):
        with pytest.raises(ConflictError) as refused:
            call()
        assert refused.value.code in {"name_taken", "path_taken"}


def _with_disks(server: Any) -> None:
    """A server with a disk is there already."""


def _with_copies(server: Any) -> None:
    storage = make_storage(server.node)
    values = {"type": "file", "vault": None, "manifest": None, "storage": storage, "place": "a/b", "sha256": "0" * 64}
    backup = make_backup(server, status="pending")
    Backup.objects.filter(pk=backup.pk).update(status="ok", **values)


def _with_definitions(server: Any) -> None:
    storage = make_storage(server.node)
    definition = make_definition(server)
    Definition.objects.filter(pk=definition.pk).update(
        backup_node=server.node, storage=storage, type="file", vault=None
    )


@pytest.mark.parametrize("need", [_with_disks, _with_copies, _with_definitions])
def test_what_is_needed_is_neither_removed_nor_detached(root: Person, need: Callable[[Any], None]) -> None:
    server = make_server()
    need(server)
    node, storage = server.node, Storage.objects.filter(node=server.node).order_by("-created_at").first()

    with pytest.raises(ConflictError) as kept_node:
        remove_node(node=node, actor=root)
    with pytest.raises(ConflictError) as kept_storage:
        remove_storage(storage=storage, actor=root)

    assert {kept_node.value.code, kept_storage.value.code} == {"still_needed"}
    if need is _with_copies:
        for place in (node, storage):
            with pytest.raises(ConflictError):
                refuse_detaching(place, tenant=server.tenant)
    if need is _with_definitions:
        with pytest.raises(ConflictError):
            change_node(node=node, changes={"is_backup": False}, actor=root)
    assert disk_of(server).storage.node == node


def test_where_a_definition_chooses_its_place_it_says_what_is_free_and_why_not(root: Person) -> None:
    server = make_server()
    room, broken = make_storage(server.node), make_storage(server.node)
    Storage.objects.filter(pk=room.pk).update(free_bytes=3 * 1024**3 // 2, kind="xfs")
    Storage.objects.filter(pk=broken.pk).update(problem="Stale file handle.")

    def shown() -> dict[str, tuple[str, str]]:
        found = choices_for(disk_of(server), person=root)
        return {one.value: (one.label, one.why_not) for one in (*found["storage"], *found["backup_node"])}

    assert shown()[str(room.pk)] == (f"{room}, 1.5 GiB free (xfs)", "")
    assert shown()[str(broken.pk)] == (str(broken), "Stale file handle.")
    Node.objects.filter(pk=server.node.pk).update(drivers={"image": "No kernel for it.", "zfs": "not there"})
    for one in (room, server.node):
        assert shown()[str(one.pk)][1] == "The driver image does not work there: No kernel for it."


def test_only_a_superadmin_says_what_a_node_calls_a_server(root: Person) -> None:
    server = make_server()
    admin = make_person(administers=[server.tenant])

    with pytest.raises(NotAllowedError):
        set_source_name(server=server, source_name="uuid-of-another", actor=admin)
    set_source_name(server=server, source_name=" 0e1b ", actor=root)

    server.refresh_from_db()
    assert server.source_name == "0e1b"
    assert AuditEvent.objects.filter(action="server.source").count() == 1
