"""Copies in portal and API: making a definition of them, and what their pages say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from django.utils.html import escape
from rest_framework.test import APIClient

from agents.models import Node
from backups.copies.importing import request_comparison
from backups.models import Backup
from definitions.models import Definition
from tenants.models import AuditEvent
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


def _compared(client: APIClient, site: Site) -> str:
    """What the page says of the storage."""
    text = client.get("/copies/").content.decode()
    return " ".join(text.split(f"<td>{site.storage}</td>")[1].split("<form")[0].split())


def test_a_comparison_that_was_asked_for_says_when_it_was_when_it_ended_and_what_it_found(shelf: Site) -> None:
    Node.objects.filter(pk=shelf.node.pk).update(is_backup=True, status="online")
    gone, client = put(shelf, "gone"), APIClient()
    client.force_login(make_person("chief", superadmin=True))
    shelf.tend()
    assert "not in the last 30 days" in _compared(client, shelf) and "compared each hour" in _compared(client, shelf)

    assert client.post(f"/storages/{shelf.storage.pk}/compare/").status_code == 302

    waiting = _compared(client, shelf)
    assert "by chief" in waiting and "Not ended yet.</strong> Its node does it when it is free" in waiting
    assert "every 5s" in client.get("/copies/").content.decode()
    Node.objects.filter(pk=shelf.node.pk).update(status="offline")
    assert "Its node is offline" in _compared(client, shelf)
    shelf.file_of(gone).unlink()
    put(shelf, "nobody-knows", is_known=False)
    shelf.tend()
    told = _compared(client, shelf)
    assert "1 lost, 1 unknown. <small" in told and "Ended <time" in told and "Not ended" not in told
    assert "every 45s" in client.get("/copies/").content.decode()
    # What is compared by itself each hour is no answer, and says nothing.
    shelf.tend()
    assert _compared(client, shelf) == told
    assert AuditEvent.objects.filter(action="storage.compared").count() == 1
    client.post(f"/storages/{shelf.storage.pk}/compare/")
    assert "Not ended yet" in _compared(client, shelf)


def test_a_comparison_of_a_storage_that_is_away_says_why_it_could_not_be_made(shelf: Site) -> None:
    Node.objects.filter(pk=shelf.node.pk).update(is_backup=True, status="online")
    put(shelf, "kept")
    chief, client = make_person("chief", superadmin=True), APIClient()
    client.force_login(chief)
    request_comparison(storage=shelf.storage, actor=chief)
    shutil.rmtree(Path(shelf.storage.path, "backups"))

    shelf.tend()

    told, event = _compared(client, shelf), AuditEvent.objects.get(action="storage.compared")
    assert "Could not be compared.</strong>" in told and event.after and escape(event.after["reason"]) in told
    assert (event.outcome, event.after["lost"], event.actor_kind) == ("failed", 1, "node")
    # Nobody else is told of storages.
    assert "Compare now" not in client_of(shelf).get("/copies/").content.decode()
