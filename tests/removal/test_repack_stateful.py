"""Backups, retention, repack, removal, restores and faults in any order, with the engine's own writer: all bytes stay.

Each mutant leaves out one wall of the repack; the machine must see through it.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from backups.models import Backup, Job
from backups.removal import repacking
from backups.states import BackupStatus, JobKind, JobState
from common.errors import BackupsiteError
from engine.errors import EngineError
from engine.relocations import Relocations
from engine.store.memory import Fault
from tests import factories
from tests.removal.real_writer import BLOCK, KillableStore, Mover
from tests.removal.world import advance, now, running
from vaults.models import MovedPack, StoredObject

pytestmark = [pytest.mark.django_db, pytest.mark.long, pytest.mark.timeout(900)]

EXAMPLES = int(os.environ.get("STATEFUL_EXAMPLES", "200")) // 20
SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=25,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
BLOCKS = 12
FAULTS = st.dictionaries(st.integers(0, 25), st.sampled_from([Fault.BEFORE, Fault.AFTER]), max_size=1)


class RepackMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.CRITICAL)
        self.stack = ExitStack()
        self.world, self.clock = self.stack.enter_context(running(KillableStore(now=now)))
        self.world.wait = lambda by: advance(self.clock, self.world, by)
        self.mover = Mover(self.world, bytearray(b"".join(bytes([n + 1]) * BLOCK for n in range(BLOCKS))))
        self.contents: dict[int, bytes] = {}
        self.restores: list[tuple[Job, list[Relocations]]] = []
        self.count = 0
        self.world.reconcile()

    def teardown(self) -> None:
        self.stack.close()
        logging.disable(logging.NOTSET)

    @rule(blocks=st.sets(st.integers(0, BLOCKS - 1), max_size=8), repacks=st.booleans())
    def back_up(self, blocks: set[int], repacks: bool) -> None:
        """Blocks change and are backed up, perhaps while a repack runs."""
        for number in blocks:
            self.count += 1
            self.mover.image[number * BLOCK : number * BLOCK + 8] = b"%08d" % self.count
        with ExitStack() as stack:
            if repacks:
                write = self.mover._write
                late = mock.patch.object(self.mover, "_write", lambda *args: (write(*args), self._repack())[0])
                stack.enter_context(late)
            backup = self.mover.back_up()
        self.contents[backup.sequence] = bytes(self.mover.image)

    @rule(number=st.integers(0, 3))
    def retention(self, number: int) -> None:
        if Backup.objects.in_catalogue().filter(status=BackupStatus.OK).count() > 1:
            self.world.remove_backup(number)

    @rule(faults=FAULTS)
    def repack(self, faults: dict[int, Fault]) -> None:
        begun = self.world.store.operation_count
        self.world.store.faults = {begun + number: fault for number, fault in faults.items()}
        self._repack()
        self.world.store.faults = {}

    def _repack(self) -> None:
        try:
            self.world.repack()
        except (BackupsiteError, EngineError):
            """The round tells it and goes on."""

    @rule(count=st.sampled_from([1, 3, 15]))
    def days_of_service(self, count: int) -> None:
        for _ in range(3):
            self.world.wait(timedelta(days=count))
            self.world.reconcile()
            self.world.run_removal()
            self.world.reap()

    @precondition(lambda self: not self.restores)
    @rule()
    def begin_restore(self) -> None:
        backup = Backup.objects.in_catalogue().filter(status=BackupStatus.OK).order_by("sequence").first()
        if backup is not None:
            job = factories.make_job(backup.server, kind=JobKind.RESTORE, backup=backup)
            self.restores.append((job, self.mover.relocations()))

    @precondition(lambda self: self.restores)
    @rule()
    def end_restore(self) -> None:
        Job.objects.filter(pk=self.restores.pop()[0].pk).update(state=JobState.CANCELED)

    @invariant()
    def every_backup_has_its_bytes(self) -> None:
        self.world.check()
        for backup in Backup.objects.in_catalogue().exclude(manifest=None).select_related("manifest"):
            assert self.mover.restored(backup) == self.contents[backup.sequence]
        for job, relocations in self.restores:
            found = self.mover.restored(job.backup, relocations=relocations)
            assert found == self.contents[job.backup.sequence]


def test_all_bytes_stay_in_any_order_of_events() -> None:
    run_state_machine_as_test(RepackMachine, settings=SETTINGS)


@pytest.mark.parametrize("mutant", ["no_proof", "no_stand_ins_at_the_commit"])
def test_the_machine_finds_the_mutants(mutant: str) -> None:
    smaller = settings(SETTINGS, max_examples=300, phases=[Phase.generate], derandomize=True)
    with ExitStack() as stack:
        for patch in _MUTANTS[mutant]():
            stack.enter_context(patch)
        with pytest.raises((AssertionError, EngineError)):
            run_state_machine_as_test(RepackMachine, settings=smaller)


def test_the_proof_alone_keeps_all_bytes_when_the_copy_forgets_a_record() -> None:
    with _forgetful_copy():
        run_state_machine_as_test(RepackMachine, settings=settings(SETTINGS, max_examples=5))


def _forgetful_copy():
    """A fault in the copying itself: one live record of each pack is left out."""
    real = repacking.repack

    def forgetful(sources, **options):
        return real([replace(source, live=sorted(source.live)[1:]) for source in sources], **options)

    return mock.patch("backups.removal.repacking.repack", forgetful)


def _moved_on_a_guess(domain, packs, live, *, new, until):
    """The old packs are let go as soon as something was stored: nobody looks whether it is what they held."""
    rows = [row for row in new if row.kind in "pr"]
    for pack in packs:
        for manifest_id in live.needed_by(pack):
            manifest = StoredObject.objects.get(pk=manifest_id)
            manifest.uses.filter(needed=pack).delete()
            for row in rows:
                manifest.uses.get_or_create(needed=row)
                if row.kind == "r":
                    row.relocated_packs.get_or_create(pack=pack)
            MovedPack.objects.get_or_create(manifest=manifest, pack=pack)
    return len(packs)


_MUTANTS = {
    "no_proof": lambda: [_forgetful_copy(), mock.patch("backups.removal.repacking.switch", _moved_on_a_guess)],
    # The commit does not know of moves, and asks for packs that are going: good sessions fail.
    "no_stand_ins_at_the_commit": lambda: [mock.patch("backups.committer._moved_packs", lambda *_: [])],
}
