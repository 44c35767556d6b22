"""Storage and catalogue side by side: lost, back, damaged, erased, leftovers, and copies that nobody knows."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from django.utils import timezone

from agents.drivers.copy_files import CopyPlace, CopySpec, write_copy
from backups.copies.importing import import_copy, request_comparison
from backups.copies.tending import Tended
from backups.models import Backup, StrayCopy
from backups.services import remove_backups
from backups.states import BackupHealth, BackupStatus
from common.errors import InvalidInputError, NotAllowedError
from tenants.models import AuditEvent
from tests.copies.conftest import Site, rows
from tests.factories import make_person, make_tenant

pytestmark = pytest.mark.django_db


@pytest.fixture
def shelf(tmp_path: Path) -> Site:
    return rows(tmp_path)


def put(site: Site, name: str, *, is_known: bool = True, content: bytes = b"content") -> Backup:
    """A copy on the storage, and its row unless nobody is to know it."""
    disk = site.disk
    backup = Backup(
        tenant=disk.tenant, storage=site.storage, node=site.node, disk=disk, server=disk.server, name=name,
        server_name=disk.server.name, disk_number=1, type="file", compression="off", size_bytes=len(content),
        place=f"backups/acme/web/{name}.img",
    )  # fmt: skip
    facts = {"backup": str(backup.pk), "name": name, "server_name": "web 01", "disk": str(disk.pk), "disk_number": "1"}
    spec = CopySpec("off", "disk", len(content), facts=facts, is_first=True)
    manifest = write_copy(CopyPlace(site.storage.path, str(site.storage.pk), backup.place), spec, [content])
    backup.sha256, backup.stored_bytes, backup.status = manifest.sha256, manifest.file_bytes, BackupStatus.OK
    if is_known:
        backup.save(force_insert=True)
    return backup


def states(*backups: Backup) -> list[tuple[str, str]]:
    found = Backup.objects.in_bulk([backup.pk for backup in backups])
    return [(found[backup.pk].status, found[backup.pk].health) for backup in backups]


def test_what_is_missing_is_lost_until_it_is_back_and_another_size_is_damage(shelf: Site) -> None:
    whole, gone, cut = (put(shelf, name) for name in ("whole", "gone", "cut"))
    os.rename(shelf.file_of(gone), shelf.folder / "aside")
    os.truncate(shelf.file_of(cut), 3)

    first, again = shelf.tend(), shelf.tend()

    assert (first, again) == (Tended(lost=1, damaged=1), Tended())
    assert states(whole, gone, cut) == [
        (BackupStatus.OK, BackupHealth.UNVERIFIED),
        (BackupStatus.LOST, BackupHealth.MISSING),
        (BackupStatus.OK, BackupHealth.DAMAGED),
    ]
    os.rename(shelf.folder / "aside", shelf.file_of(gone))
    assert shelf.tend() == Tended(back=1)
    assert states(gone) == [(BackupStatus.OK, BackupHealth.UNVERIFIED)]


@pytest.mark.parametrize("how", ["not mounted", "another one"])
def test_a_storage_that_is_away_loses_its_copies_for_a_while_and_erases_nothing(shelf: Site, how: str) -> None:
    kept, removed = put(shelf, "kept"), put(shelf, "removed")
    remove_backups(backups=[removed], actor=shelf.admin, now=timezone.now())
    top, aside = Path(shelf.storage.path, "backups"), shelf.folder / "aside"
    shutil.move(top, aside)
    if how == "another one":
        top.mkdir()
        (top / ".storage").write_text("other")

    assert shelf.tend() == Tended(lost=1)

    removed.refresh_from_db()
    assert removed.erased_at is None and not (top / "acme").exists()
    shutil.rmtree(top, ignore_errors=True)
    shutil.move(aside, top)
    assert shelf.tend() == Tended(erased=1, back=1)
    assert states(kept) == [(BackupStatus.OK, BackupHealth.UNVERIFIED)]


def test_only_what_is_ours_and_left_over_is_removed(shelf: Site) -> None:
    known = put(shelf, "known")
    folder = shelf.file_of(known).parent
    for name in ("cut.img.partial", "others.txt", "others.json"):
        (folder / name).write_text("{}")
    second_attempt = put(shelf, "attempt", is_known=False)
    no_stream = put(shelf, "no-stream", is_known=False)
    shelf.file_of(no_stream).unlink()
    # The same backup from an attempt that lost its job.
    manifest = shelf.file_of(known).with_name("known.img.json").read_text()
    shelf.file_of(second_attempt).with_name("attempt.img.json").write_text(manifest)

    assert shelf.tend() == Tended()

    assert shelf.files() == ["known.img", "known.img.json", "others.json", "others.txt"]


def test_what_nobody_knows_is_offered_and_imported_by_a_superadmin(shelf: Site) -> None:
    put(shelf, "known")
    lost_row = put(shelf, "stray", is_known=False)
    other = put(shelf, "bad", is_known=False)
    shelf.file_of(other).write_bytes(b"longer than its manifest says")
    assert (shelf.tend().strays, shelf.tend().strays) == (1, 1)
    stray, now = StrayCopy.objects.get(), timezone.now()
    with pytest.raises(NotAllowedError):
        import_copy(stray=stray, tenant=shelf.disk.tenant, actor=make_person(), now=now)
    with pytest.raises(NotAllowedError):
        request_comparison(storage=shelf.storage, actor=make_person())

    backup = import_copy(stray=stray, tenant=shelf.disk.tenant, actor=shelf.admin, now=now)

    assert (backup.place, backup.sha256, backup.disk, backup.status) == (
        lost_row.place, lost_row.sha256, shelf.disk, "ok",
    )  # fmt: skip
    assert AuditEvent.objects.filter(action="backup.import").exists() and shelf.tend() == Tended()
    # Of another tenant than its manifest says: a backup without server and disk.
    Backup.objects.filter(pk=backup.pk).delete()
    shelf.tend()
    foreign = import_copy(stray=StrayCopy.objects.get(), tenant=make_tenant(), actor=shelf.admin, now=now)
    assert (foreign.disk, foreign.server) == (None, None)
    foreign.delete()
    shelf.tend()
    stray = StrayCopy.objects.get()
    stray.manifest["compression"] = "lzma"
    with pytest.raises(InvalidInputError):
        import_copy(stray=stray, tenant=shelf.disk.tenant, actor=shelf.admin, now=now)
