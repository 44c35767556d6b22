"""File trees and streams through the whole backup path: gate, S3 server, committer; and what is refused."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from agents.models import Disk, Server, Storage
from agents.services import add_disk, add_server
from backups import runner
from backups.damage import review_backup
from backups.file_restores import FileWish, path_bytes
from backups.lost_ranges import path_text
from backups.models import Backup, Job
from backups.new_targets import request_new_disk
from backups.services import request_restore
from backups.transitions import claim_job, note_target
from backups.verifier import request_verification, verify_backup
from common.errors import BackupsiteError, InvalidInputError
from definitions.services import update_definition
from tests.backups.conftest import Site
from tests.engine.chunk_support import snapshot
from tests.factories import make_backup, make_server, make_storage


def make_tree(site: Site, name: str = "files") -> Disk:
    """A server with one tree of files on the node's storage."""
    server = add_server(tenant=site.tenant, name=name, region_code="RBX", node=site.node, actor=None)
    disk = add_disk(
        server=server,
        number=1,
        driver="filesystem",
        storage=Storage.objects.get(node=site.node),
        path=name,
        actor=None,
    )
    root = site.path(disk)
    (root / "docs").mkdir(parents=True)
    for number in range(8):
        (root / "docs" / f"f{number}").write_bytes(os.urandom(5000))
    odd = os.fsencode(root) + b"/docs/b\xe4d"
    with open(odd, "wb") as file:
        file.write(b"odd")
    os.link(root / "docs" / "f0", root / "linked")
    (root / "x.tmp").write_bytes(b"left out")
    return disk


def _restore(site: Site, backup: Backup, target: Disk, files: FileWish, confirmation: str = "") -> Job:
    job = request_restore(
        backup=backup,
        target=target,
        confirmation=confirmation,
        actor=site.admin,
        now=timezone.now(),
        files=files,
    )
    runner.run_job(job_id=str(job.pk))
    job.refresh_from_db()
    return job


def _refused(call: Any) -> str:
    with pytest.raises(BackupsiteError) as refused:
        call()
    return refused.value.code


@pytest.mark.case("AG-15", "RS-14")
def test_a_tree_of_files_from_the_definition_to_every_kind_of_restore(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One installation for all of it: each step is cheap, the vault is not."""
    disk = make_tree(site)
    root = site.path(disk)
    definition = site.definition(disk, excludes="# not these\n*.tmp\n")

    # Nobody knows how large it is: a session may upload as much as the file system that it lies on has.
    monkeypatch.setattr("backups.upload_quota.QUOTA_SLACK_BYTES", 0)
    Storage.objects.filter(pk=disk.storage_id).update(total_bytes=10_000)
    assert site.back_up(definition).code == "quota_exceeded"
    Storage.objects.filter(pk=disk.storage_id).update(total_bytes=10_000_000)
    first = site.back_up(definition).backup
    before = snapshot(os.fsencode(root))

    # What it was, and how large: the disk has that size now.
    disk.refresh_from_db()
    assert (first.status, first.content, first.size_bytes) == ("ok", "tree", 8 * 5000 + 3)
    assert disk.size_bytes == first.size_bytes
    assert {name: first.counts[name] for name in ("files", "directories", "hard_links")} == {
        "files": 9,
        "directories": 2,
        "hard_links": 1,
    }
    assert [warning["code"] for warning in first.warnings] == ["not_one_moment"]

    # Unchanged files are not read again; what was made a moment ago is, for its clock is coarse.
    (root / "docs" / "new").write_bytes(b"n" * 700)
    second = site.back_up(definition).backup
    assert second.counts["files"] == 10
    assert second.stored_bytes < 5000

    # Into a new folder inside of the tree nothing is lost, and nothing has to be typed.
    whole = _restore(site, first, disk, FileWish(folder="back/whole"))
    assert (whole.state, whole.code) == ("ok", "")
    restored = snapshot(os.fsencode(root / "back" / "whole"))
    del before[b"/x.tmp"]
    assert restored == before
    part = _restore(site, first, disk, FileWish(folder="part", paths=("docs/b\\xe4d",)))
    assert part.state == "ok"
    assert [os.fsencode(path) for path in os.listdir(root / "part" / "docs")] == [b"b\xe4d"]
    again = _restore(site, first, disk, FileWish(folder="part"))
    assert (again.state, again.code) == ("failed", "disk_busy")
    lacking = _restore(site, first, disk, FileWish(folder="other", paths=("docs/none",)))
    assert (lacking.state, lacking.code) == ("failed", "path_not_found")

    # A worker that was lost in the middle: the next one goes on with what is there.
    cut = request_restore(backup=first, target=disk, actor=site.admin, now=timezone.now(), files=FileWish(folder="cut"))
    claim = claim_job(job_id=cut.pk, now=timezone.now())
    assert claim is not None
    note_target(cut.sessions.get(), safety_point="", warnings=[], now=timezone.now())
    (root / "cut" / "docs").mkdir(parents=True)
    (root / "cut" / "docs" / "f1").write_bytes(b"half of it")
    Job.objects.filter(pk=cut.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    runner.run_job(job_id=str(cut.pk))
    cut.refresh_from_db()
    assert (cut.state, cut.fence) == ("ok", 2), cut.message
    assert snapshot(os.fsencode(root / "cut")) == before
    disk.refresh_from_db()
    assert disk.incomplete_since is None

    # Over what is there: the name is typed; what the backup does not have stays, or goes when that was asked for.
    (root / "docs" / "f1").write_bytes(b"overwritten")
    (root / "docs" / "extra").write_bytes(b"extra")
    over = FileWish(paths=("docs",))
    assert _refused(lambda: _restore(site, first, disk, over)) == "not_confirmed"
    assert _restore(site, first, disk, over, "files").state == "ok"
    assert (root / "docs" / "f1").stat().st_size == 5000
    assert (root / "docs" / "extra").exists()
    exact = _restore(site, first, disk, FileWish(delete_extra=True), "files")
    assert exact.state == "ok", exact.message
    # What the definition excluded is in no backup, and stays.
    now = snapshot(os.fsencode(root))
    del now[b"/x.tmp"]
    assert now == before

    # To a place of its own, from which backups can be made as well.
    made = request_new_disk(
        backup=first, server=disk.server, storage=disk.storage, actor=site.admin, now=timezone.now()
    )
    runner.run_job(job_id=str(made.pk))
    made.refresh_from_db()
    assert (made.state, made.disk.driver, made.disk.incomplete_since) == ("ok", "filesystem", None)
    assert snapshot(os.fsencode(site.path(made.disk))) == before

    # A check with keys opens every block of it.
    check = request_verification(backup=second, actor=site.admin, now=timezone.now())
    verify_backup(job_id=check.pk, clock=timezone.now)
    second.refresh_from_db()
    assert second.health == "verified"
    assert review_backup(backup_id=second.pk) is False

    # A mount that is missing makes no backup of nothing.
    os.rename(root, root.with_name("away"))
    root.mkdir()
    empty = site.back_up(definition)
    assert (empty.state, empty.code) == ("failed", "tree_empty")
    assert Backup.objects.filter(disk=disk, status="ok").count() == 2


def test_what_holds_no_disk_image_is_refused_where_it_cannot_go(site: Site) -> None:
    tree, image = make_tree(site), site.server("web01")
    definition = site.definition(tree)
    backup = make_backup(tree.server, definition=definition, content="tree")
    stream = make_backup(tree.server, definition=definition, content="stream")
    storage = Storage.objects.get(node=site.node)

    assert _refused(lambda: site.definition(tree, name="copy", type="file", storage=storage)) == "cannot_be_chosen"
    assert _refused(lambda: site.definition(tree, name="frozen", freeze_filesystem=True)) == "cannot_be_chosen"
    assert _refused(lambda: site.definition(image, excludes="*.tmp")) == "cannot_be_chosen"
    assert _refused(lambda: _restore(site, backup, image, FileWish(), "web01")) == "wrong_content"
    assert _refused(lambda: _restore(site, stream, tree, FileWish(), "files")) == "wrong_content"
    assert _refused(lambda: _restore(site, stream, tree, FileWish(folder="a"))) == "wrong_content"
    new = {"server": tree.server, "storage": storage, "actor": site.admin, "now": timezone.now()}
    assert _refused(lambda: request_new_disk(backup=stream, **new)) == "stream_needs_disk"
    with pytest.raises(InvalidInputError) as read_only:
        update_definition(definition=definition, changes={"excludes": "a\n!\n"}, now=timezone.now())
    assert read_only.value.field == "excludes"
    assert "Line 2" in read_only.value.message


@pytest.mark.parametrize(
    ("driver", "path", "code"),
    [
        ("filesystem", ".", "paths_overlap"),
        ("filesystem", "a/b", "paths_overlap"),
        ("filesystem", "a/b/tree/deep", "paths_overlap"),
        ("image", "a/b/tree/disk.img", "paths_overlap"),
        ("image", "a/b/disk.img", ""),
        ("filesystem", "a/b/tree2", ""),
        ("image", "c.img", "required"),
    ],
)
@pytest.mark.django_db
def test_a_tree_never_holds_what_is_another_tenants(driver: str, path: str, code: str) -> None:
    theirs, ours = make_server(), make_server()
    storage = make_storage(theirs.node)
    Server.objects.filter(pk=ours.pk).update(node=theirs.node)
    ours.refresh_from_db()
    add_disk(server=theirs, number=2, driver="filesystem", storage=storage, path="a/b/tree", actor=None)
    size = {} if driver == "filesystem" or code == "required" else {"size_bytes": 5}

    def add() -> Disk:
        return add_disk(server=ours, number=2, driver=driver, storage=storage, path=path, actor=None, **size)

    if code:
        assert _refused(add) == code
    else:
        assert add().size_bytes == size.get("size_bytes", 1)


@given(st.binary(max_size=40).filter(lambda name: b"\\x" not in name))
def test_every_name_that_is_shown_can_be_typed(name: bytes) -> None:
    assert path_bytes(path_text(name)) == name


def test_names_that_are_no_utf_8_are_typed_as_they_are_shown() -> None:
    assert path_bytes("a/b\\xe4d") == b"a/b\xe4d"
    assert path_bytes("ä\\x41") == "ä\\x41".encode()
    assert FileWish(paths=("/a//b/",), folder=" x ").check().paths == ("a/b",)


@pytest.mark.parametrize(
    "wish",
    [
        FileWish(paths=("../x",)),
        FileWish(paths=("",)),
        FileWish(folder="a/../../b"),
        FileWish(folder="a", delete_extra=True),
        FileWish(paths=("x",) * 1001),
        FileWish(paths=("a\0b",)),
    ],
)
def test_a_wish_that_leads_out_of_the_tree_is_refused(wish: FileWish) -> None:
    assert _refused(wish.check) == "bad_files"
