"""Retention waits while something is wrong with the vault: an old backup may be the only good one."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from agents.program.naming_files import _READING
from backups.models import Backup
from backups.retainer import MOUNT_MISSING, apply_retention, apply_retention_everywhere
from common.ids import new_id
from engine.tree_walk import ProblemKind
from tests import factories
from vaults.alarms import clear_alarm, raise_alarm

pytestmark = pytest.mark.django_db


def test_nothing_is_removed_while_an_alarm_stands_and_all_that_is_due_afterwards() -> None:
    server, now = factories.make_server(), timezone.now()
    definition = factories.make_definition(server, retention_count=1)
    for day in range(3):
        backup = factories.make_backup(
            server, definition=definition, slot_at=now - timedelta(days=day), sequence=9 - day
        )
        Backup.objects.filter(pk=backup.pk).update(created_at=now - timedelta(days=day))
    raise_alarm(definition.vault, code="damaged_objects", message="One object is damaged.", now=now)

    assert apply_retention(definition_id=str(definition.pk), now=now) == 0

    clear_alarm(definition.vault, code="damaged_objects", now=now)
    assert apply_retention(definition_id=str(definition.pk), now=now) == 2
    assert Backup.objects.in_catalogue().get().sequence == 9


def test_nothing_is_removed_while_the_newest_backup_lacks_a_file_system() -> None:
    server, now = factories.make_server(), timezone.now()
    definition = factories.make_definition(server, retention_count=1)
    for day in range(3):
        backup = factories.make_backup(
            server, definition=definition, slot_at=now - timedelta(days=day), sequence=9 - day
        )
        Backup.objects.filter(pk=backup.pk).update(created_at=now - timedelta(days=day))
    assert _READING[ProblemKind.NOT_MOUNTED][0] == MOUNT_MISSING
    Backup.objects.filter(sequence=9).update(warnings=[{"code": MOUNT_MISSING, "message": "/data is not mounted."}])

    assert apply_retention(definition_id=str(definition.pk), now=now) == 0

    Backup.objects.filter(sequence=9).update(warnings=[])
    assert apply_retention(definition_id=str(definition.pk), now=now) == 2


def test_the_daily_run_takes_every_definition_and_a_deleted_one_is_no_trouble() -> None:
    server, now = factories.make_server(), timezone.now()
    definition = factories.make_definition(server, retention_count=1)
    for day in range(2):
        backup = factories.make_backup(
            server, definition=definition, slot_at=now - timedelta(days=day), sequence=day + 1
        )
        Backup.objects.filter(pk=backup.pk).update(created_at=now - timedelta(days=day))

    assert apply_retention_everywhere(now=now) == 1
    assert apply_retention_everywhere(now=now) == 0
    assert apply_retention(definition_id=str(new_id()), now=now) == 0
