"""Copies in portal and API: making a definition of them, and what their pages say."""

from __future__ import annotations

from pathlib import Path

import pytest
from rest_framework.test import APIClient

from backups.models import Backup
from definitions.models import Definition
from tests.copies.conftest import Site, rows
from tests.copies.test_tending import put
from tests.factories import make_person, make_storage
from tests.signing_in import confirm

pytestmark = pytest.mark.django_db


@pytest.fixture
def shelf(tmp_path: Path) -> Site:
    return rows(tmp_path)


def client_of(site: Site) -> APIClient:
    client = APIClient()
    client.force_login(make_person("dc-admin", administers=[site.disk.tenant]))
    confirm(client)
    return client


def test_a_definition_of_copies_is_made_shown_and_changed(shelf: Site) -> None:
    client, storage = client_of(shelf), shelf.storage
    form = {
        "disk": str(shelf.disk.pk), "name": "files", "type": "file", "storage": str(storage.pk), "compression": "zstd",
        "cron": "0 1 * * *", "time_zone": "UTC", "retention_count": 3, "active": "on",
    }  # fmt: skip
    refused = client.post("/definitions/new/", {**form, "storage": str(shelf.disk.storage_id)}, format="multipart")
    assert refused.status_code == 400 and b"lost together with the disk" in refused.content

    made = client.post("/definitions/new/", form, format="multipart")

    definition = Definition.objects.get()
    assert made.status_code == 302, made.content
    assert (definition.vault, definition.backup_node, definition.compression) == (None, shelf.node, "zstd")
    shown = client.get(f"/definitions/{definition.pk}/").content.decode()
    assert str(storage) in shown and "nothing locks it there" in shown
    changed = client.post(f"/definitions/{definition.pk}/edit/", {**form, "compression": "gzip"}, format="multipart")
    definition.refresh_from_db()
    assert (changed.status_code, definition.compression, definition.storage) == (302, "gzip", storage)
    assert client.get("/definitions/").status_code == client.get("/definitions/overview/").status_code == 200


def test_the_api_takes_and_gives_the_place(shelf: Site) -> None:
    client = client_of(shelf)
    body = {"disk": str(shelf.disk.pk), "name": "f", "cron": "0 1 * * *", "type": "file"}
    missing = client.post("/api/v1/definitions/", body, format="json")
    made = client.post("/api/v1/definitions/", {**body, "storage": str(shelf.storage.pk)}, format="json")
    foreign = make_storage(shelf.node)
    foreign.tenants.clear()
    hidden = client.post("/api/v1/definitions/", {**body, "name": "g", "storage": str(foreign.pk)}, format="json")

    assert (missing.status_code, missing.json()["errors"][0]["field"]) == (400, "storage")
    assert made.status_code == 201, made.content
    assert (made.json()["vault"], made.json()["storage"], hidden.status_code) == (None, str(shelf.storage.pk), 404)
    choices = client.get(f"/api/v1/definitions/choices/?disk={shelf.disk.pk}").json()
    why = {one["label"]: one["why_not"] for one in [*choices["type"], *choices["storage"]]}
    assert why["File"] == "" and "ZFS" in why["Dataset"] and why[str(shelf.storage)] == ""


def test_pages_of_a_copy_say_where_it_lies_and_that_nothing_locks_it(shelf: Site) -> None:
    backup, client = put(shelf, "copy"), client_of(shelf)

    page = client.get(f"/backups/{backup.pk}/").content.decode()

    assert backup.place in page and str(shelf.storage) in page and backup.sha256 in page
    assert "Immutable until" not in page and "Restore</a>" in page
    assert "is deleted at once" in client.get(f"/backups/{backup.pk}/delete/").content.decode()
    for address in ("/", "/backups/", f"/servers/{shelf.disk.server_id}/", f"/backups/{backup.pk}/restore/"):
        assert client.get(address).status_code == 200, address
    told = client.get(f"/api/v1/backups/{backup.pk}/").json()
    assert (told["vault"], told["storage"], told["place"]) == (None, str(shelf.storage.pk), backup.place)
    listed = client.get(f"/api/v1/backups/?storage={shelf.storage.pk}&type=file").json()["results"]
    assert [one["id"] for one in listed] == [str(backup.pk)]
    csv = client.get("/api/v1/backups/?format=csv")
    assert csv.status_code == 200 and Backup.objects.filter(vault=None).count() == 1
