"""Removal by clocks that disagree: nothing goes until all three are right."""

from __future__ import annotations

from datetime import timedelta
from unittest import mock

import pytest
import time_machine

from tests.model_s3 import ModelClient
from tests.removal.test_removal import DAY, _back_up
from tests.removal.world import World, advance, now, running
from vaults import storage
from vaults.models import Alarm, RemovalRun, StoredObject

pytestmark = [pytest.mark.django_db, pytest.mark.case("CP-12")]
OFF = timedelta(hours=2)


def _client(world: World) -> ModelClient:
    return storage.client_for(world.vault.endpoint, storage.Credential.KEEPER)


def _due_world(world: World, clock: time_machine.Coordinates) -> None:
    """What a removed backup had is condemned, and its lock is over."""
    _back_up(world, packs=3)
    _back_up(world, packs=1, keep=0)
    world.remove_backup(0)
    advance(clock, world, DAY * 40)
    world.reconcile()
    world.run_removal()
    advance(clock, world, DAY + timedelta(hours=1))
    world.reconcile()


def _remove_with_wrong_clock(world: World, clock: time_machine.Coordinates, *, whose: str, by: timedelta) -> None:
    right = now()
    if whose == "database":
        with mock.patch("backups.removal.run.database_now", lambda: now() + by):
            world.run_removal()
    elif whose == "store":
        with mock.patch.object(_client(world), "_now", lambda: now() + by):
            world.run_removal()
    else:
        clock.shift(by)
        # The others' stay right: the worker's alone jumps.
        with (
            mock.patch.object(_client(world), "_now", lambda: right),
            mock.patch("backups.removal.run.database_now", lambda: right),
            mock.patch("backups.removal.run.is_reconciled", lambda vault, now: True),
        ):
            world.run_removal()
        clock.shift(-by)
    world.reap()


@pytest.mark.parametrize("by", [OFF, -OFF], ids=["ahead", "behind"])
@pytest.mark.parametrize("whose", ["database", "store", "worker"])
def test_removal_refuses_while_one_clock_is_wrong_and_goes_on_after(whose: str, by: timedelta) -> None:
    with running() as (world, clock):
        _due_world(world, clock)
        before, condemned = world.keys_in_store(), StoredObject.objects.filter(status="condemned").count()
        assert condemned

        _remove_with_wrong_clock(world, clock, whose=whose, by=by)

        assert world.keys_in_store() == before
        assert not StoredObject.objects.filter(status__in=["deleting", "deleted"]).exists()
        assert StoredObject.objects.filter(status="condemned").count() == condemned
        assert RemovalRun.objects.order_by("-epoch")[0].outcome == "clock_skew"
        assert Alarm.objects.standing().filter(code="removal_stopped", message__contains="clock").exists()

        advance(clock, world, timedelta(hours=1))
        world.run_removal()
        world.reap()
        assert StoredObject.objects.filter(status="deleted").exists()
        assert not Alarm.objects.standing().filter(code="removal_stopped").exists()
        world.check()
