"""Pages of nodes and storages, and what backups and jobs say of their drivers."""

from __future__ import annotations

from agents.models import Node, Storage
from backups.models import Backup, Job
from tenants.models import AuditEvent
from tests.factories import make_job
from tests.worlds import World


def test_a_superadmin_registers_a_node_adds_a_storage_and_forgets_both(world: World) -> None:
    client = world.client("super")

    answer = client.post("/nodes/new/", {"name": "n1", "region": "RBX", "is_backup": "on"}, format="multipart")

    node = Node.objects.get(name="n1")
    assert answer["Location"] == f"/nodes/{node.pk}/"
    assert "node.n1" in client.get(f"/nodes/{node.pk}/").content.decode()
    taken = client.post("/nodes/new/", {"name": "n1", "region": "RBX"}, format="multipart")
    assert taken.status_code == 400 and "already" in taken.content.decode()
    client.post(f"/nodes/{node.pk}/storages/", {"name": "disks", "path": "/srv/disks"}, format="multipart")
    storage = Storage.objects.get(node=node)
    bad = client.post(f"/nodes/{node.pk}/storages/", {"name": "more", "path": "/srv/../etc"}, format="multipart")
    assert bad.status_code == 400 and "absolute path" in bad.content.decode()
    client.post(f"/nodes/{node.pk}/change/", {"no_backup": ""}, format="multipart")
    assert not Node.objects.get(pk=node.pk).is_backup
    client.post(f"/storages/{storage.pk}/remove/")
    client.post(f"/nodes/{node.pk}/remove/")
    assert not Node.objects.filter(name="n1").exists()


def test_a_superadmin_says_what_a_node_calls_a_server_and_nobody_else(world: World) -> None:
    server, page = world.ours.server, f"/servers/{world.ours.server.pk}/"
    server.disks.update(driver="libvirt")
    sent = {"data": {"source_name": " 0e1b <x> "}, "format": "multipart"}

    assert "virsh domuuid" in world.client("super").get(page).content.decode()
    world.client("super").post(f"{page}source/", **sent)

    server.refresh_from_db()
    assert server.source_name == "0e1b <x>"
    assert 'value="0e1b &lt;x&gt;"' in world.client("super").get(page).content.decode()
    for name, status in (("admin_a", {302, 403}), ("owner_a1", {403}), ("admin_b", {404})):
        answer = world.client(name).post(f"{page}source/", data={"source_name": "other"}, format="multipart")
        assert answer.status_code in status, (name, answer.status_code)
        assert "source-name" not in world.client(name).get(page).content.decode()
    server.refresh_from_db()
    assert server.source_name == "0e1b <x>"


def test_a_node_that_drains_says_what_still_runs(world: World) -> None:
    node, client = world.ours.node, world.client("super")
    Job.objects.filter(node=node).update(state="ok")
    running = make_job(world.ours.server, state="running")

    client.post(f"/nodes/{node.pk}/change/", {"drain": ""}, format="multipart")

    assert "1 job still to end" in client.get(f"/nodes/{node.pk}/").content.decode()
    Job.objects.filter(pk=running.pk).update(state="ok")
    assert "nothing runs on it" in client.get(f"/nodes/{node.pk}/").content.decode()
    client.post(f"/nodes/{node.pk}/change/", {"resume": ""}, format="multipart")
    client.post(f"/nodes/{node.pk}/change/", {"sweep": ""}, format="multipart")
    actions = AuditEvent.objects.filter(action__in=["node.drain", "node.resume", "node.sweep"])
    assert list(actions.order_by("pk").values_list("action", flat=True)) == ["node.drain", "node.resume", "node.sweep"]


def test_an_administrator_sees_what_works_there_and_changes_nothing(world: World) -> None:
    node, client = world.ours.node, world.client("admin_a")
    Node.objects.filter(pk=node.pk).update(drivers={"image": "", "zfs": "There is no <zfs> here."})
    Storage.objects.filter(pk=world.ours.storage.pk).update(problem="Stale file handle.", path="/srv/secret-path")

    text = client.get(f"/nodes/{node.pk}/").content.decode()

    assert "There is no &lt;zfs&gt; here." in text and "Stale file handle." in text
    assert "<form" not in text.split('id="content"')[1].split("</main>")[0] and "/srv/secret-path" not in text


def test_pages_say_why_everything_was_read_what_was_warned_of_and_how_to_go_back(world: World) -> None:
    ours, client = world.ours, world.client("admin_a")
    warnings = [{"code": "freeze_failed", "message": "The agent <did> not answer."}]
    Backup.objects.filter(pk=ours.backup.pk).update(full_reason="point_missing", warnings=warnings)
    Job.objects.filter(pk=ours.restore.pk).update(safety_point="backupsite-before-1", warnings=warnings)

    backup = client.get(f"/backups/{ours.backup.pk}/").content.decode()
    job = client.get(f"/jobs/{ours.restore.pk}/").content.decode()

    assert "Everything, because the node no longer knows the point of the backup before it." in backup
    assert "The agent &lt;did&gt; not answer." in backup and "The agent &lt;did&gt; not answer." in job
    assert "backupsite-before-1" in job and "seven days" in job
