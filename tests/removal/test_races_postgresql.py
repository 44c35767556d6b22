"""Real transactions at the same time, on a real PostgreSQL: what the row locks are for. SQLite lets one writer in.

Run by hand on a cluster of your own with TEST_DATABASE_URL; without it this file starts a throw-away one for itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from unittest import mock

import msgspec
import pytest
from django.db import connection, connections, transaction

from backups import committer
from backups.models import Backup, Session
from backups.removal.run import remove_unneeded
from backups.states import JobState
from common.errors import BackupsiteError
from tests.postgres.test_on_postgresql import PROGRAMS, ROOT, postgresql_url
from tests.removal.world import World, committed_world, now
from vaults import ledger
from vaults.ledger import ObjectRemovedError
from vaults.models import ObjectUse, RemovalRun, StoredObject, Vault

__all__ = ["postgresql_url"]

ROUNDS = 12
inner = pytest.mark.skipif(
    connection.vendor != "postgresql", reason="runs inside of the test with the throw-away cluster"
)


@pytest.mark.postgres
@pytest.mark.timeout(300)
@pytest.mark.skipif(connection.vendor == "postgresql", reason="this is the inner run")
@pytest.mark.skipif(not PROGRAMS, reason="no PostgreSQL server: apt-get install postgresql")
def test_the_races_on_a_real_server(postgresql_url: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            __file__,
        ],
        cwd=ROOT,
        env={**os.environ, "TEST_DATABASE_URL": postgresql_url, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout[-6000:]
    assert "5 passed" in done.stdout


@pytest.fixture
def world(transactional_db: None) -> Iterator[World]:
    with committed_world() as world:
        world.reconcile()
        yield world


def _at_once(*runs: Callable[[], object]) -> list[object]:
    """Each in a thread with a connection of its own, begun together; their results or BackupsiteErrors."""
    barrier = threading.Barrier(len(runs))
    results: list[object] = [None] * len(runs)

    def work(number: int) -> None:
        try:
            barrier.wait(timeout=30)
            results[number] = runs[number]()
        except BackupsiteError as error:
            results[number] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads), "a transaction waits for ever"
    return results


def _condemned_pack(world: World) -> tuple[StoredObject, StoredObject, RemovalRun]:
    """A pack that no manifest names any more, condemned; the manifest that would name it; a run to order it."""
    writer = world.start_session()
    writer.reused = []
    world.put_pack(writer)
    job = world.commit(writer)
    assert job.state == JobState.OK, job.message
    manifest = job.backup.manifest
    pack = StoredObject.objects.get(used_by__manifest=manifest, kind="p")
    ObjectUse.objects.filter(needed=pack).delete()
    epoch = RemovalRun.objects.count() + 1
    StoredObject.objects.filter(pk=pack.pk).update(status="condemned", condemned_epoch=epoch, condemned_at=now())
    return (
        pack,
        manifest,
        RemovalRun.objects.create(vault=world.vault, epoch=epoch, started_at=now(), finished_at=now()),
    )


def _hold_and_name(pack: StoredObject, manifest: StoredObject) -> str:
    """The part of a commit that counts."""
    with transaction.atomic():
        committer.hold_for_commit([pack.pk])
        ObjectUse.objects.create(manifest=manifest, needed=pack)
    return "named"


def _violations(world: World) -> int:
    """Objects that a manifest needs and the reaper was told to delete."""
    count = 0
    for _ in range(ROUNDS):
        pack, manifest, run = _condemned_pack(world)
        _at_once(
            lambda pack=pack, manifest=manifest: _hold_and_name(pack, manifest),
            lambda pack=pack, run=run: ledger.order_removal(run, [pack.pk], now=now()),
        )
        pack.refresh_from_db()
        named = ObjectUse.objects.filter(needed=pack).exists()
        count += named and pack.status in {"deleting", "deleted"}
        assert named or pack.status == "deleting", "neither came through"
    return count


@inner
def test_a_commit_and_the_order_to_delete_never_both_have_an_object(world: World) -> None:
    assert _violations(world) == 0


@inner
def test_without_the_commits_row_lock_the_race_is_lost(world: World) -> None:
    """The same race, with a commit that looks and does not lock: it must be seen to fail."""

    def look_only(ids: list[int]) -> None:
        statuses = set(StoredObject.objects.filter(pk__in=ids).values_list("status", flat=True))
        if statuses & {"deleting", "deleted"}:
            raise ObjectRemovedError("gone")
        threading.Event().wait(0.02)

    with mock.patch.object(committer, "hold_for_commit", look_only):
        assert _violations(world) > 0


@inner
def test_two_removal_runs_at_once_are_one(world: World) -> None:
    vault_id = str(world.vault.pk)
    for number in range(ROUNDS):
        before = RemovalRun.objects.count()
        runs = _at_once(*[lambda: remove_unneeded(vault_id=vault_id, now=now())] * 3)

        made = [run for run in runs if isinstance(run, RemovalRun)]
        assert not [run for run in runs if isinstance(run, BackupsiteError)]
        assert 1 <= len(made) == RemovalRun.objects.count() - before
        assert len({run.epoch for run in made}) == len(made), number
        assert Vault.objects.get(pk=world.vault.pk).epoch >= max(run.epoch for run in made)


@inner
def test_a_commit_that_runs_twice_at_once_makes_one_backup(world: World) -> None:
    for _ in range(5):
        writer = world.start_session()
        world.put_pack(writer)
        session = _requested(world, writer)

        _at_once(*[lambda session=session: committer.commit_session(session_id=str(session.pk))] * 3)

        session.job.refresh_from_db()
        assert session.job.state == JobState.OK, session.job.message
        manifest = session.job.backup.manifest
        names = list(manifest.uses.values_list("needed__key", flat=True))
        assert len(names) == len(set(names)) >= 2


@inner
def test_a_resume_and_a_removal_run_at_once_lose_nothing(world: World) -> None:
    """What a cut attempt stored is condemned, ordered and resumed at the same moment."""
    for _ in range(8):
        cut = world.start_session()
        world.put_pack(cut)
        world.fail(cut)
        left = [cut.envelope, *cut.packs]
        for row in left:
            StoredObject.objects.filter(pk=row.pk).update(
                status="condemned", condemned_epoch=1, condemned_at=now() - timedelta(days=3), version_id=row.version_id
            )
        ids = [row.pk for row in left]
        writer = world.start_session()
        writer.envelope, writer.packs, writer.keys = cut.envelope, cut.packs, cut.keys
        session = _requested(world, writer, resumed=left)
        epoch = RemovalRun.objects.count() + 1000
        run = RemovalRun.objects.create(vault=world.vault, epoch=epoch, started_at=now(), finished_at=now())

        _at_once(
            lambda session=session: committer.commit_session(session_id=str(session.pk)),
            lambda run=run, ids=ids: ledger.order_removal(run, ids, now=now()),
        )

        session.job.refresh_from_db()
        statuses = set(StoredObject.objects.filter(pk__in=ids).values_list("status", flat=True))
        if session.job.state == JobState.OK:
            assert statuses == {"stored"}
        else:
            assert session.job.code in {"object_removed", "verification_failed"} and "deleting" in statuses
        needed = StoredObject.objects.filter(used_by__manifest__backup__in=Backup.objects.in_catalogue())
        assert not needed.filter(status__in=["deleting", "deleted"]).exists()


def _requested(world: World, writer, *, resumed=()) -> Session:
    """The writer is done and has asked for its commit, which nobody has begun."""
    with mock.patch.object(committer, "commit_session"):
        world.commit(writer, change=lambda request: _resumed(request, {row.key for row in resumed}))
    session = Session.objects.get(pk=writer.session.pk)
    assert session.commit_requested_at is not None
    return session


def _resumed(request, keys: set[str]):
    new = [message for message in request.new_objects if message.key not in keys]
    old = [message for message in request.new_objects if message.key in keys]
    return msgspec.structs.replace(request, new_objects=new, resumed_objects=old)
