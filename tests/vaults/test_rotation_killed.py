"""Replacing a key, killed at every call and statement, and in any order with sessions: the next round ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.db import connection
from hypothesis import HealthCheck
from hypothesis import settings as run_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from engine.store.memory import Fault
from tests.vaults.key_world import KeyWorld, Killed, key_world
from tests.vaults.rotating import expected, opens_with_the_active_key_alone, rotate, run_round
from vaults.custody import (
    companion_envelopes,
    session_data_keys,
    sessions_of,
)
from vaults.models import ObjectUse, StoredObject
from vaults.own_objects import NO_SESSION
from vaults.rotation import sessions_left

# --- killed anywhere --------------------------------------------------------------------------------------------------


def prepared(sessions: int) -> KeyWorld:
    world = KeyWorld()
    envelopes: list[StoredObject] = []
    for _ in range(sessions):
        envelopes = world.envelopes_of(world.back_up(reused=envelopes))
    rotate(world)
    world.places.clear()
    return world


@contextmanager
def fresh(sessions: int = 1) -> Iterator[KeyWorld]:
    """A prepared world of its own, in autocommit as in a worker: the test needs `transactional_db`."""
    with key_world():
        world = prepared(sessions)
        with (
            mock.patch("vaults.storage.client_for", world.client_for),
            mock.patch("vaults.storage.timezone.now", world.clock),
        ):
            yield world


def settles_after(world: KeyWorld) -> None:
    """After whatever happened, the next round brings everything to its end, and leaves nothing for a person."""
    run_round(world)
    assert sessions_left(world.tenant.pk) == 0
    opens_with_the_active_key_alone(world)
    assert session_data_keys(world.domain, list(world.sessions)) == expected(world)
    for versions in world.store._versions.values():
        assert len(versions) == 1
        assert versions[0].retain_until is not None
    in_ledger = {f"{row.vault.bucket}/{row.key}" for row in StoredObject.objects.filter(vault=world.vault)}
    assert set(world.store._versions) <= in_ledger


def test_killed_at_every_call_of_the_store(transactional_db: None) -> None:
    with fresh(sessions=2) as world:
        run_round(world)
        total = len(world.places)
    assert total >= 14

    for place in range(total):
        with fresh(sessions=2) as world:
            world.kill_at = place
            with pytest.raises(Killed):
                run_round(world)
            world.kill_at = None
            settles_after(world)


def test_every_call_of_the_store_fails_once(transactional_db: None) -> None:
    with fresh() as world:
        begin = world.store.operation_count
        run_round(world)
        total = world.store.operation_count - begin

    for number in range(total):
        for fault in Fault:
            with fresh() as world:
                world.store.faults[world.store.operation_count + number] = fault
                run_round(world)
                settles_after(world)


class _DiesAt:
    """Ends the process before the database's statement number `at`."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.count = 0

    def __call__(self, execute: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        if "SAVEPOINT" not in sql:
            if self.count == self.at:
                self.at = None
                raise Killed(sql)
            self.count += 1
        return execute(sql, *arguments)


def test_killed_at_every_statement_of_the_database(transactional_db: None) -> None:
    counter = _DiesAt(None)
    with fresh() as world, connection.execute_wrapper(counter):
        run_round(world)
    assert counter.count >= 15

    for number in range(counter.count):
        with fresh() as world:
            with connection.execute_wrapper(_DiesAt(number)), pytest.raises(Killed):
                run_round(world)
            settles_after(world)


# --- any order --------------------------------------------------------------------------------------------------------


class Rotations(RuleBasedStateMachine):
    """Backups, changes of the key, rounds, failures and time in any order: every backup opens at every moment."""

    @initialize()
    def begin(self) -> None:
        self.stack = key_world()
        self.world = self.stack.__enter__()
        self.public = bytes(self.world.key.public_key)
        self.opened_at = self.world.clock()

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.stack.__exit__(None, None, None)

    @rule()
    def open_session(self) -> None:
        self.public, self.opened_at = bytes(self.world.key.public_key), self.world.clock()

    @precondition(lambda self: self.world.clock() - self.opened_at < timedelta(hours=24))
    @rule(base=st.integers(0, 20), tells=st.booleans())
    def commit(self, base: int, tells: bool) -> None:
        reused: list[StoredObject] = []
        if self.world.manifests:
            manifest = self.world.manifests[base % len(self.world.manifests)]
            reused = [row for row in self.world.envelopes_of(manifest) if row.session_id != NO_SESSION]
            reused += companion_envelopes(reused) if tells else []
        self.world.back_up(reused=reused, public_key=self.public)

    @rule()
    def change_key(self) -> None:
        rotate(self.world)

    @rule(fault=st.sampled_from([None, *Fault]), number=st.integers(0, 12))
    def one_round(self, fault: Fault | None, number: int) -> None:
        if fault is not None:
            self.world.store.faults[self.world.store.operation_count + number] = fault
        run_round(self.world)
        self.world.store.faults.clear()

    @rule(hours=st.integers(1, 30))
    def time_passes(self, hours: int) -> None:
        self.world.pass_time(hours=hours)

    @precondition(lambda self: len(self.world.manifests) > 1)
    @rule(number=st.integers(0, 20))
    def a_backup_is_removed(self, number: int) -> None:
        manifest = self.world.manifests.pop(number % len(self.world.manifests))
        ObjectUse.objects.filter(manifest=manifest).delete()
        StoredObject.objects.filter(pk=manifest.pk).update(status=StoredObject.Status.DELETED)

    @invariant()
    def every_backup_opens(self) -> None:
        if not hasattr(self, "world"):
            return
        for manifest in self.world.manifests:
            needed = sessions_of(manifest)
            found = session_data_keys(self.world.domain, needed)
            assert found == {session: self.world.sessions[session].data_key for session in needed}
        if not sessions_left(self.world.tenant.pk):
            opens_with_the_active_key_alone(self.world)


def test_any_order(db: None) -> None:
    run_state_machine_as_test(
        Rotations,
        settings=run_settings(
            max_examples=10,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
