"""Every operation on the store, three ways to fail at it: the service always comes to the same good end.

The points are enumerated, not sampled. After each: every good backup restores byte for byte, every lock is as long as
was promised, no pack was sent twice, and after some months of service the vault holds what backups need and no more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import transaction

from backups.models import Backup
from common.errors import BackupsiteError
from engine.errors import EngineError
from engine.store.memory import Fault
from tests.removal.real_writer import BLOCK, IMAGE_BLOCKS, KillableStore, KilledError, Mover
from tests.removal.world import World, advance, now, running
from vaults.models import StoredObject

pytestmark = [pytest.mark.django_db, pytest.mark.long, pytest.mark.timeout(900)]

FAILURES = ("killed before", "killed after", "reply lost")
DAY = timedelta(days=1)
# Together at least 450.
LEAST_POINTS = {"first": 155, "second": 195, "removal": 100, "repack": 60}


@contextmanager
def _quiet_world() -> Iterator[tuple[World, Mover]]:
    logging.disable(logging.CRITICAL)
    try:
        with running(KillableStore(now=now)) as (world, clock):
            world.wait = lambda by: advance(clock, world, by)
            image = b"".join(bytes([number + 1]) * BLOCK for number in range(IMAGE_BLOCKS))
            yield world, Mover(world, bytearray(image))
    finally:
        logging.disable(logging.NOTSET)


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[[int], None]:
    """Let the points be told at the end of the run, with those of the other tests."""
    return lambda points: record_property("counted", ("crash points (an operation and a way to fail at it)", points))


def _change(mover: Mover, *blocks: int) -> None:
    for number in blocks:
        mover.image[number * BLOCK : number * BLOCK + 4] = b"new!"


def _enumerate(world: World, mover: Mover, name: str, run: Callable[[], None], check: Callable[[], None]) -> int:
    """Run `run` once without trouble to count its operations, then once per operation and way to fail.

    Returns the number of points.
    """
    store = world.store
    base, image = store.snapshot(), bytes(mover.image)
    begun, points = world.clock_now(), 0
    operations = _once(world, mover, base, image, run, check, point=None, failure="")
    for point in range(operations):
        for failure in FAILURES:
            try:
                _once(world, mover, base, image, run, check, point=point, failure=failure)
            except AssertionError as error:
                raise AssertionError(f"{name}: {failure} at operation {point} of {operations}: {error}") from error
            points += 1
            assert world.clock_now() == begun
    # Fewer would mean that operations were left out.
    assert points >= LEAST_POINTS[name], f"{name}: only {points} points"
    return points


def _once(world, mover, base, image, run, check, *, point, failure) -> int:
    store, moment = world.store, world.clock_now()
    store.bring_back(base)
    mover.image[:], mover.sent = image, []
    begun = store.operation_count
    if failure == "reply lost":
        store.faults = {begun + point: Fault.AFTER}
    elif failure:
        store.kill_at, store.kill_after = begun + point, failure == "killed after"
    savepoint = transaction.savepoint()
    try:
        run()
        operations = store.operation_count - begun
        store.faults, store.kill_at = {}, None
        check()
    finally:
        transaction.savepoint_rollback(savepoint)
        world.move_clock_to(moment)
    return operations


def _all_restore(world: World, mover: Mover, contents: dict[int, bytes]) -> None:
    world.check()
    backups = list(Backup.objects.in_catalogue().exclude(manifest=None).select_related("manifest"))
    assert backups
    for backup in backups:
        assert mover.restored(backup) == contents[backup.sequence]


def _service(world: World, *, hours: int) -> None:
    """One round of the service; what is killed starts again later."""
    for step in (world.reconcile, world.run_removal, world.reap):
        try:
            step()
        except KilledError:
            continue
    world.wait(timedelta(hours=hours))


def _only_what_is_needed(world: World) -> None:
    for _ in range(60):
        if world.keys_in_store() == world.keys_needed():
            return
        _service(world, hours=25)
    assert world.keys_in_store() == world.keys_needed()


def test_a_first_backup_comes_through_every_crash(count: Callable[[int], None]) -> None:
    with _quiet_world() as (world, mover):

        def run() -> None:
            mover.back_up()

        def check() -> None:
            backup = Backup.objects.exclude(manifest=None).get()
            assert mover.restored(backup) == bytes(mover.image)
            world.check()
            # All that ever arrived is used: nothing that was in the vault was sent once more under another name.
            packs = {key for key in world.keys_in_store() if "/p/" in key}
            assert packs <= world.keys_needed()
            assert len(mover.sent) == len(set(mover.sent))

        count(_enumerate(world, mover, "first", run, check))


def test_a_second_backup_comes_through_every_crash_and_the_first_stays_whole(count: Callable[[int], None]) -> None:
    with _quiet_world() as (world, mover):
        first = mover.back_up()
        contents = {first.sequence: bytes(mover.image)}
        _change(mover, 3, 4, 5, 20, 21, 22, 40, 41, 42, 43, 60)

        def run() -> None:
            # Locks end before the promise of the second: each pack that is used again must be extended.
            world.wait(timedelta(days=11))
            mover.back_up()

        def check() -> None:
            newest = Backup.objects.in_catalogue().order_by("-sequence").first()
            _all_restore(world, mover, {**contents, newest.sequence: bytes(mover.image)})

        count(_enumerate(world, mover, "second", run, check))


@pytest.mark.case("CP-23")
def test_removal_comes_through_every_crash(count: Callable[[int], None]) -> None:
    with _quiet_world() as (world, mover):
        mover.back_up()
        _change(mover, *range(48))
        second = mover.back_up()
        contents = {second.sequence: bytes(mover.image)}
        world.remove_backup(0)
        world.wait(timedelta(days=40))

        def run() -> None:
            for _ in range(9):
                _service(world, hours=25)

        def check() -> None:
            _all_restore(world, mover, contents)
            _only_what_is_needed(world)
            _all_restore(world, mover, contents)

        count(_enumerate(world, mover, "removal", run, check))


def test_a_repack_comes_through_every_crash(count: Callable[[int], None]) -> None:
    """Wherever it ends, what it left goes, a later one does the work, and the old packs go only then."""
    with _quiet_world() as (world, mover):
        mover.back_up()
        _change(mover, 0, 1, 3, 4, *range(9, 64))
        second = mover.back_up()
        contents = {second.sequence: bytes(mover.image)}
        world.remove_backup(0)
        world.wait(timedelta(days=3))
        world.reconcile()

        def run() -> None:
            for _ in range(2):
                try:
                    world.repack()
                except (KilledError, BackupsiteError, EngineError):
                    """The next round tries again."""

        def check() -> None:
            _all_restore(world, mover, contents)
            old = set(StoredObject.objects.filter(moved_from__manifest=second.manifest))
            assert len(old) == 2
            for _ in range(8):
                _service(world, hours=168)
            _all_restore(world, mover, contents)
            assert {row.status for row in StoredObject.objects.filter(pk__in=[row.pk for row in old])} == {"deleted"}
            assert world.keys_in_store() == world.keys_needed()

        count(_enumerate(world, mover, "repack", run, check))


def test_the_points_are_as_many_as_were_promised() -> None:
    assert sum(LEAST_POINTS.values()) >= 450
