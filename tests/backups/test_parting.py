"""Deleting a definition with its backups: all of it or nothing, asked and confirmed, and what is locked is said."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from backups.models import Backup
from backups.parting import delete_with_backups, parting_of
from common.errors import ApprovalNeededError, BackupsiteError
from definitions.models import Definition
from definitions.policies import assign, create_policy
from definitions.services import Fate, delete_definition
from tenants.approval_states import ApprovalKind
from tenants.approvals import approve, keep
from tenants.models import ApprovalRule, AuditEvent
from tests.factories import make_backup, make_definition, make_person, make_server
from tests.worlds import World

pytestmark = pytest.mark.django_db
NOW = timezone.now()
DAY = timedelta(days=1)


@pytest.fixture
def definition() -> Definition:
    """With a backup that is locked, one that is not, and one that was removed before."""
    made = make_definition(make_server(), retention_count=9)
    make_backup(made.disk.server, definition=made, immutable_until=NOW + 3 * DAY, unique_bytes=100)
    make_backup(made.disk.server, definition=made, immutable_until=NOW - DAY, unique_bytes=10, health="damaged")
    make_backup(made.disk.server, definition=made, immutable_until=NOW + 30 * DAY, removed_at=NOW, unique_bytes=1)
    return made


def nothing_is_gone(definition: Definition) -> bool:
    there = Backup.objects.in_catalogue().filter(definition=definition).count() == 2
    return there and Definition.objects.filter(pk=definition.pk).exists()


def test_it_says_what_goes_and_takes_it(definition: Definition) -> None:
    other = make_backup(definition.disk.server, definition=make_definition(definition.disk.server))
    told = parting_of(definition, now=NOW)
    name, key = definition.name, str(definition.pk)

    done = delete_with_backups(definition=definition, confirmation=f" {name} ", actor=None, now=NOW)

    assert (done.backups, done.unique_bytes, done.locked, done.locked_until) == (2, 110, 1, NOW + 3 * DAY)
    assert told == done
    assert list(Backup.objects.in_catalogue()) == [other]
    assert Backup.objects.count() == 4
    assert not Definition.objects.filter(name=name).exists()
    assert AuditEvent.objects.filter(action="backup.delete").count() == 2
    assert AuditEvent.objects.get(action="definition.delete", subject_id=key).after["backups"] == "delete"


@pytest.mark.parametrize(("confirmation", "status"), [("", "ok"), ("yes", "ok"), (None, "pending"), (None, "restore")])
def test_without_its_name_or_with_a_backup_in_use_nothing_goes(
    definition: Definition, confirmation: str | None, status: str
) -> None:
    last = Backup.objects.in_catalogue().order_by("-created_at").first()
    Backup.objects.filter(pk=last.pk).update(status=status)
    typed = definition.name if confirmation is None else confirmation

    with pytest.raises(BackupsiteError) as caught:
        delete_with_backups(definition=definition, confirmation=typed, actor=None, now=NOW)

    assert caught.value.code == ("not_confirmed" if confirmation is not None else "backup_in_use")
    assert nothing_is_gone(definition)


def test_what_a_restricted_policy_gives_a_tenant_does_not_delete(definition: Definition) -> None:
    boss, server = make_person(superadmin=True), definition.disk.server
    policy = create_policy(name="night", actor=boss)
    assign(policy=policy, server=server, actor=boss, now=NOW)
    Definition.objects.filter(pk=definition.pk).update(policy=policy)
    definition.refresh_from_db()
    admin = make_person(administers=[server.tenant])

    with pytest.raises(BackupsiteError) as caught:
        delete_with_backups(definition=definition, confirmation=definition.name, actor=admin, now=NOW)

    assert caught.value.code == "not_allowed"
    assert nothing_is_gone(definition)


@pytest.mark.parametrize("way", ["delete", "adopt"])
def test_where_a_rule_asks_a_second_person_agrees_first(definition: Definition, way: str) -> None:
    """Handing the backups to a definition that keeps fewer is a way to keep fewer, too."""
    server = definition.disk.server
    admin, second = make_person(administers=[server.tenant]), make_person(administers=[server.tenant])
    ApprovalRule.objects.create(tenant=server.tenant, kind=ApprovalKind.RETENTION_SHORTEN, required=True)
    short = make_definition(server, name="short", retention_count=2)

    def act() -> None:
        fresh = Definition.objects.select_related("policy", "tenant", "vault").get(pk=definition.pk)
        if way == "delete":
            delete_with_backups(definition=fresh, confirmation=fresh.name, actor=admin, now=NOW)
        else:
            delete_definition(definition=fresh, backups=Fate.ADOPT, adopter=short, actor=admin, now=NOW)

    with pytest.raises(ApprovalNeededError) as needed:
        act()
    assert nothing_is_gone(definition)
    keep(needed.value.request)
    approve(request=needed.value.request, actor=second, now=timezone.now())
    act()

    assert not Definition.objects.filter(pk=definition.pk).exists()
    assert Backup.objects.in_catalogue().filter(definition=short).count() == (0 if way == "delete" else 2)


def test_handing_over_to_one_that_keeps_as_many_asks_nobody(definition: Definition) -> None:
    server = definition.disk.server
    ApprovalRule.objects.create(tenant=None, kind=ApprovalKind.RETENTION_SHORTEN, required=True)
    heir = make_definition(server, name="heir", retention_count=9)

    delete_definition(definition=definition, backups=Fate.ADOPT, adopter=heir, actor=make_person(superadmin=True))

    assert Backup.objects.in_catalogue().filter(definition=heir).count() == 2


def test_by_the_api_and_by_the_page(world: World) -> None:
    client, ours = world.client("admin_a"), world.ours
    address, page = f"/api/v1/definitions/{ours.definition.pk}/", f"/definitions/{ours.definition.pk}/delete/"

    refused = client.delete(f"{address}?backups=delete&confirmation=wrong")
    form: dict[str, Any] = {"backups": "delete", "confirmation": "wrong"}
    again = client.post(page, form, format="multipart")
    shown = client.get(page).content.decode()
    done = client.delete(f"{address}?backups=delete&confirmation={ours.definition.name}")

    assert (refused.status_code, refused.json()["code"]) == (400, "not_confirmed")
    assert again.status_code == 400 and "What was typed is another name." in again.content.decode()
    assert "locked: out of the list at once, but in the vault" in shown
    assert done.status_code == 200
    assert done.json()["backups"] == done.json()["locked"] >= 1 and done.json()["locked_until"]
    assert not Definition.objects.filter(pk=ours.definition.pk).exists()
    assert Backup.objects.in_catalogue().filter(pk=world.theirs.backup.pk).exists()


def test_the_page_deletes_when_the_name_is_typed(world: World) -> None:
    form = {"backups": "delete", "confirmation": world.ours.definition.name}

    answer = world.client("admin_a").post(
        f"/definitions/{world.ours.definition.pk}/delete/", form, format="multipart", follow=True
    )

    assert "what is locked stays in the vault until its lock ends" in answer.content.decode()
    assert not Backup.objects.in_catalogue().filter(pk=world.ours.backup.pk).exists()
