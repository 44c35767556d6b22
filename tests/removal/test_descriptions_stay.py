"""No manifest names a domain's description: the newest one stays all the same, as long as it describes anything."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backups.models import Backup
from engine.store.base import ObjectKind
from tenants.models import Tenant
from tests.removal.test_removal import _back_up, _months
from tests.removal.world import World, running
from vaults.models import StoredObject

pytestmark = pytest.mark.django_db


def _describe(world: World, text: bytes) -> StoredObject:
    """An object of the kind that descriptions have, of a session that is over."""
    writer = world.start_session()
    assert writer is not None
    row = world._put(writer, ObjectKind.CONFIG, text)
    row.status = "stored"
    row.save()
    world.fail(writer)
    return row


def _there(world: World, *rows: StoredObject) -> list[bool]:
    return [f"{world.vault.bucket}/{row.key}" in world.keys_in_store() for row in rows]


def test_only_the_newest_description_stays() -> None:
    with running() as (world, clock):
        backup = _back_up(world)
        older = _describe(world, b"first")
        clock.shift(timedelta(hours=1))
        newest = _describe(world, b"second")
        world.remove_backup(0)

        _months(world, clock)

        assert _there(world, older, newest) == [False, True]
        assert not Backup.objects.in_catalogue().filter(pk=backup.pk).exists()


@pytest.mark.parametrize("has_backup", [True, False])
def test_of_a_tenant_that_is_deleted_it_goes_with_the_last_backup(has_backup: bool) -> None:
    with running() as (world, clock):
        _back_up(world)
        newest = _describe(world, b"only")
        if not has_backup:
            world.remove_backup(0)
        Tenant.objects.filter(pk=world.vault.tenant_id).update(status=Tenant.Status.DELETING)

        _months(world, clock)

        assert _there(world, newest) == [has_backup]
        if not has_backup:
            assert not world.keys_in_store(), "something keeps a deleted tenant's vault from becoming empty"
