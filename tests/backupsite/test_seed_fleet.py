"""The made-up fleet: as large as was asked for, the same each time, and never into a database that is in use."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.db.models import F

from agents.models import Disk, Server
from backups.models import Backup, Job
from definitions.models import Definition
from tenants.audit_chain import verify
from tenants.models import AuditEvent, Person, Tenant
from tests.factories import make_tenant
from vaults.models import StoredObject

SIZE = {"tenants": 12, "servers": 60, "backups": 300, "at": "2026-11-20", "verbosity": 0}

pytestmark = pytest.mark.django_db


def _seed(**changes: Any) -> None:
    call_command("seed_fleet", **{**SIZE, **changes})


def test_it_is_as_large_as_asked_for() -> None:
    _seed()

    assert (Tenant.objects.count(), Server.objects.count(), Backup.objects.count()) == (12, 60, 300)
    assert not Disk.objects.exclude(tenant=F("server__tenant")).exists()
    # What Django itself checks at the end of a transaction.
    connection.check_constraints()


def test_everybody_has_what_he_ought_to() -> None:
    _seed()
    big, owner = Person.objects.get(username="admin-00000-1"), Person.objects.get(username="owner-00000-1")
    boss, reseller = Person.objects.get(username="super-1"), Person.objects.get(username="reseller-1")

    assert Server.objects.for_user(boss).count() == 60
    assert Server.objects.for_user(big).count() == 12
    assert 0 < Server.objects.for_user(owner).count() <= 10
    assert reseller.administered_tenants().count() == 2
    seen = Backup.objects.for_user(owner)
    assert seen and {backup.server_id for backup in seen} <= {one.pk for one in Server.objects.for_user(owner)}


def test_the_audit_is_a_whole_chain() -> None:
    _seed()

    found = verify()

    assert found.broken is None and found.count == AuditEvent.objects.count() == 60


def test_the_same_number_makes_the_same_rows_and_another_one_others() -> None:
    first, again, other = _rows(), _rows(), _rows(seed=5)

    assert first == again
    assert first != other


def test_the_database_goes_on_counting_behind_it() -> None:
    _seed()
    last = StoredObject.objects.order_by("-pk").values_list("pk", flat=True)[0]
    some = StoredObject.objects.values().first()
    assert some is not None

    made = StoredObject.objects.create(**{**some, "id": None, "key": "another"})

    assert made.pk == last + 1


def test_a_database_with_anything_in_it_is_left_alone() -> None:
    make_tenant()

    with pytest.raises(CommandError, match="holds tenants already"):
        _seed()

    assert not Server.objects.exists()


def test_it_does_not_run_twice() -> None:
    _seed()

    with pytest.raises(CommandError, match="already"):
        _seed()


@pytest.mark.parametrize("wrong", [{"tenants": 0}, {"servers": 5}, {"backups": 10}, {"at": "yesterday"}])
def test_a_shape_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(CommandError):
        _seed(**wrong)

    assert not Tenant.objects.exists()


def _rows(*, seed: int = 4) -> list[list[Any]]:
    """What one run writes; taken back at once."""
    with transaction.atomic():
        _seed(seed=seed)
        models = (Tenant, Person, Server, Definition, Backup, Job)
        found = [list(model.objects.order_by("pk").values_list("pk", flat=True)) for model in models]
        transaction.set_rollback(True)
    return found
