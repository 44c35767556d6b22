"""Sessions, commits, retention, removal, reconciling, reaping and the clock in any order: nothing good is ever lost.

The mutants show that the machine can see: without the fence it finds a backup whose bytes are gone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from backups.models import Backup, Job
from backups.states import BackupStatus, JobKind, JobState
from engine.store.memory import Fault, ModelStore
from tests import factories
from tests.removal.world import advance, now, running
from vaults.models import StoredObject

pytestmark = [pytest.mark.django_db, pytest.mark.long, pytest.mark.timeout(1500)]

EXAMPLES = int(os.environ.get("STATEFUL_EXAMPLES", "200"))
STEPS = 50
SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
NUMBER = st.integers(0, 7)
MOST_WHOLE_BACKUPS = 5


class FenceMachine(RuleBasedStateMachine):
    """The few events between which data has been lost elsewhere: sessions, retention, removal, time."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        # The invariant, which counts, is asked once before the first step.
        type(self).steps -= 1
        logging.disable(logging.CRITICAL)
        self.stack = ExitStack()
        self.world, self.clock = self.stack.enter_context(running(ModelStore(now=now)))
        self.restores: list[Job] = []
        self.world.reconcile()

    def teardown(self) -> None:
        self.stack.close()
        logging.disable(logging.NOTSET)

    @rule(meanwhile=st.lists(st.sampled_from(["retention", "service"]), max_size=5))
    def a_backup(self, meanwhile: list[str]) -> None:
        """A session from its opening to its commit, and what happens in between."""
        self.world.start_session()
        for event in meanwhile:
            if event == "retention":
                self.world.remove_backup(0)
            else:
                self.an_hour_of_service(faults={})
        if self.world.open:
            self.world.commit(self.world.open[0])

    @rule(number=NUMBER)
    def retention(self, number: int) -> None:
        self.world.remove_backup(number)

    @rule(faults=st.dictionaries(st.integers(0, 20), st.sampled_from([Fault.BEFORE, Fault.AFTER]), max_size=2))
    def an_hour_of_service(self, faults: dict[int, Fault]) -> None:
        """Compare, mark, condemn, delete, some of it in vain."""
        self._advance(timedelta(hours=1))
        begun = self.world.store.operation_count
        self.world.store.faults = {begun + number: fault for number, fault in faults.items()}
        self.world.reconcile()
        self.world.remove_what_is_due()
        self.world.store.faults = {}

    @rule()
    def a_month(self) -> None:
        """A session lasts a day at most: whoever waits longer has lost it."""
        self.world.settle()
        self._advance(timedelta(days=30))

    @invariant()
    def nothing_good_is_lost(self) -> None:
        type(self).steps += 1
        self.world.check()
        for job in self.restores:
            self.world.check_whole(job.backup)

    def _advance(self, by: timedelta) -> None:
        advance(self.clock, self.world, by)
        for writer in list(self.world.open):
            if writer.session.created_at + timedelta(hours=24) <= now():
                self.world.fail(writer)


class VaultMachine(FenceMachine):
    """Everything that can happen."""

    # More of them at once show nothing new, and cost two thirds of the time.
    @precondition(lambda self: Backup.objects.in_catalogue().count() < MOST_WHOLE_BACKUPS)
    @rule()
    def a_backup(self) -> None:
        """What happens in the midst of one comes by the other rules here, and so do more of them."""
        super().a_backup(meanwhile=[])

    @rule()
    def start_session(self) -> None:
        self.world.start_session()

    @precondition(lambda self: self.world.open)
    @rule()
    def commit(self) -> None:
        self.world.commit(self.world.open[0])

    @precondition(lambda self: self.world.open)
    @rule(count=st.integers(1, 3))
    def put_packs(self, count: int) -> None:
        for _ in range(count):
            self.world.put_pack(self.world.open[0])

    @precondition(lambda self: self.world.open)
    @rule(number=NUMBER)
    def change_block(self, number: int) -> None:
        self.world.forget_reused(self.world.open[0], number)

    @precondition(lambda self: self.world.open)
    @rule()
    def crash(self) -> None:
        self.world.fail(self.world.open[0])

    @rule(number=NUMBER)
    def begin_restore(self, number: int) -> None:
        backups = list(Backup.objects.in_catalogue().filter(status=BackupStatus.OK).order_by("sequence"))
        if backups:
            backup = backups[number % len(backups)]
            self.restores.append(factories.make_job(backup.server, kind=JobKind.RESTORE, backup=backup))

    @precondition(lambda self: self.restores)
    @rule()
    def end_restore(self) -> None:
        Job.objects.filter(pk=self.restores.pop().pk).update(state=JobState.CANCELED)

    @rule()
    def removal_run(self) -> None:
        self.world.run_removal()

    @rule()
    def reap(self) -> None:
        self.world.reap()

    @rule(hours=st.sampled_from([7, 25]))
    def hours(self, hours: int) -> None:
        self._advance(timedelta(hours=hours))

    @rule()
    def three_days(self) -> None:
        self.world.settle()
        self._advance(timedelta(days=3))


def test_nothing_good_is_lost_in_any_order_of_events(record_property: Callable[[str, object], None]) -> None:
    VaultMachine.steps = 0

    # Left to itself a run now and then ends after a few steps.
    run_state_machine_as_test(VaultMachine, settings=SETTINGS, _min_steps=STEPS - 1)

    assert VaultMachine.steps >= EXAMPLES * STEPS
    record_property("counted", ("stateful steps over a vault", VaultMachine.steps))


@pytest.mark.parametrize("mutant", ["no_fence", "no_sessions", "no_lock_check"])
def test_the_machine_finds_the_mutants(mutant: str) -> None:
    """Each mutant leaves out one wall; the machine must see through it."""
    smaller = settings(SETTINGS, max_examples=400, phases=[Phase.generate], derandomize=True)
    with ExitStack() as stack:
        for patch in _MUTANTS[mutant]():
            stack.enter_context(patch)
        with pytest.raises((AssertionError, KeyError)):
            run_state_machine_as_test(FenceMachine, settings=smaller)


def _blind_mark() -> list:
    """Sessions are not seen by the mark, and nobody waits: neither for them, nor a day."""
    return [
        mock.patch("backups.removal.roots.open_sessions", lambda vault: []),
        mock.patch("backups.removal.run.oldest_open_epoch", lambda vault: None),
        mock.patch("vaults.removal_rules.GRACE", timedelta(0)),
        # The cap is no fence: a vault with less in it than a day's share has none.
        mock.patch("vaults.removal_rules.LARGEST_SHARE_PERCENT", 1000),
    ]


_MUTANTS = {
    # The commit does not look at what is being removed, and the mark does not look at sessions: bytes are lost.
    "no_fence": lambda: [
        *_blind_mark(),
        mock.patch("backups.committer.hold_for_commit", lambda ids: None),
        mock.patch("backups.committer._USABLE", list(StoredObject.Status)),
        mock.patch("backups.opening._distrusted", lambda base: []),
    ],
    # The commit still refuses, so nothing is lost: but good sessions fail.
    "no_sessions": _blind_mark,
    # Locks of what is reused are not looked at.
    "no_lock_check": lambda: [mock.patch("backups.committer.keep_locked", lambda *_, **__: [])],
}
