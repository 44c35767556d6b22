"""PostgreSQL itself refuses links between tenants: written past every service, by statements of their own.

Collected with everything, and run by `test_on_postgresql.py` in a database where the wall is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.db import IntegrityError, connection, transaction

from agents.models import Disk, Server
from backups.models import Backup, Job
from backups.server_moves import move_server
from definitions.models import Definition, EarlierSchedule
from tests.factories import disk_of, make_disk, make_manifest, make_person
from tests.worlds import Estate, World
from vaults.models import Domain, StoredObject

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.django_db,
    pytest.mark.skipif(
        "postgresql" not in settings.DATABASES["default"]["ENGINE"],
        reason="the wall is in PostgreSQL; test_on_postgresql.py runs this there",
    ),
]

Link = Callable[[Estate, Estate], object]


def _domain(estate: Estate) -> Domain:
    return make_manifest(estate.vault).domain


LINKS: dict[str, Link] = {
    "wall_domain_vault": lambda ours, theirs: Domain.objects.create(
        tenant=ours.tenant, vault=theirs.vault, wrapped_id_key=b"x", wrapped_map_key=b"x"
    ),
    "wall_server_domain": lambda ours, theirs: Server.objects.filter(pk=ours.server.pk).update(domain=_domain(theirs)),
    "wall_disk_server": lambda ours, theirs: Disk.objects.filter(pk=make_disk(ours.server).pk).update(
        tenant=theirs.tenant
    ),
    "wall_definition_disk": lambda ours, theirs: Definition.objects.filter(pk=ours.definition.pk).update(
        disk=disk_of(theirs.server)
    ),
    "wall_definition_vault": lambda ours, theirs: Definition.objects.filter(pk=ours.definition.pk).update(
        vault=theirs.vault
    ),
    "wall_backup_server": lambda ours, theirs: Backup.objects.filter(pk=ours.backup.pk).update(server=theirs.server),
    "wall_backup_disk": lambda ours, theirs: Backup.objects.filter(pk=ours.backup.pk).update(
        disk=disk_of(theirs.server)
    ),
    "wall_backup_definition": lambda ours, theirs: Backup.objects.filter(pk=ours.backup.pk).update(
        definition=theirs.definition
    ),
    "wall_job_disk": lambda ours, theirs: Job.objects.filter(pk=ours.job.pk).update(disk=disk_of(theirs.server)),
    "wall_job_definition": lambda ours, theirs: Job.objects.filter(pk=ours.job.pk).update(definition=theirs.definition),
    "wall_earlierschedule_definition": lambda ours, theirs: EarlierSchedule.objects.create(
        definition=ours.definition, tenant=theirs.tenant, time_zone="UTC", active=True, until=ours.tenant.created_at
    ),
    "wall_storedobject_domain": lambda ours, theirs: StoredObject.objects.filter(
        pk=make_manifest(ours.vault).pk
    ).update(vault=theirs.vault),
    "backup_vault_of_tenant": lambda ours, theirs: Backup.objects.filter(pk=ours.backup.pk).update(vault=theirs.vault),
}


@pytest.mark.case("AZ-02")
@pytest.mark.parametrize("name", LINKS)
def test_a_link_to_another_tenant_cannot_be_stored(world: World, name: str) -> None:
    with pytest.raises(IntegrityError) as refused, transaction.atomic():
        LINKS[name](world.ours, world.theirs)
        _look_now()

    cause: Any = refused.value.__cause__
    assert cause.diag.constraint_name == name


def test_every_link_of_the_wall_is_tried() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT conname FROM pg_constraint WHERE conname LIKE 'wall\\_%%' AND contype = 'f'")
        present = {row[0] for row in cursor.fetchall()}

    assert present == set(LINKS) - {"backup_vault_of_tenant"}


def test_what_leads_nowhere_else_is_stored(world: World) -> None:
    """Links that are taken away, and a world of two tenants as it is."""
    Backup.objects.filter(pk=world.ours.backup.pk).update(server=None, disk=None, definition=None)
    _look_now()


def test_a_server_moves_with_all_that_belongs_to_it(world: World) -> None:
    ours, theirs = world.ours, world.theirs
    Domain.objects.filter(pk=ours.backup.manifest.domain_id).update(vault=ours.vault)
    Job.objects.filter(disk__server=ours.server).exclude(state="ok").delete()
    until = ours.tenant.created_at
    EarlierSchedule.objects.create(definition=ours.definition, tenant=ours.tenant, active=True, until=until)
    boss = make_person(superadmin=True)

    move_server(server=ours.server, tenant=theirs.tenant, confirmation=ours.server.name, actor=boss)
    _look_now()

    moved = Backup.objects.get(pk=ours.backup.pk)
    assert (moved.tenant, moved.vault.tenant) == (theirs.tenant, ours.tenant)
    assert Disk.objects.get(server=ours.server).tenant == theirs.tenant
    assert {row.tenant for row in EarlierSchedule.objects.all()} == {theirs.tenant}


def test_a_backup_is_not_given_away_without_its_domain(world: World) -> None:
    """A vault of the former tenant is right only as long as the domain there is held for the new one."""
    with pytest.raises(IntegrityError), transaction.atomic():
        Backup.objects.filter(pk=world.ours.backup.pk).update(
            tenant=world.theirs.tenant, server=None, disk=None, definition=None
        )
        _look_now()


def _look_now() -> None:
    """What PostgreSQL does at the end of a transaction."""
    connection.check_constraints()
