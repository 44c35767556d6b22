"""The machine of test_repack_stateful.py with a disk, a stream and a tree in one domain: all bytes stay.

A machine of its own: what mutants need to be found by the other one is drawn from its source.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from unittest import mock
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from backups.models import Backup, Job
from backups.states import BackupStatus, JobKind
from engine.relocations import Relocations
from tests import factories
from tests.removal.chunk_movers import mover_of
from tests.removal.real_writer import BLOCK, KillableStore
from tests.removal.test_repack_stateful import BLOCKS, SETTINGS, RepackMachine
from tests.removal.world import advance, now, running

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(900)]


class ContentsMachine(RepackMachine):
    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        logging.disable(logging.CRITICAL)
        self.stack = ExitStack()
        self.world, self.clock = self.stack.enter_context(running(KillableStore(now=now)))
        self.world.wait = lambda by: advance(self.clock, self.world, by)
        image = b"".join(bytes([n + 1]) * BLOCK for n in range(BLOCKS))
        self.movers = {
            content: self.stack.enter_context(mover_of(self.world, content, bytearray(image), own_disk=True))
            for content in ("disk", "stream", "tree")
        }
        self.bytes_of: dict[UUID, bytes] = {}
        self.restores: list[tuple[Job, list[Relocations]]] = []
        self.count = 0
        self.world.reconcile()

    @rule(blocks=st.sets(st.integers(0, BLOCKS - 1), max_size=8), repacks=st.booleans())
    def back_up(self, blocks: set[int], repacks: bool) -> None:
        """Blocks change and are backed up, perhaps while a repack runs."""
        mover = list(self.movers.values())[sum(blocks) % len(self.movers)]
        for block in blocks:
            self.count += 1
            mover.image[block * BLOCK : block * BLOCK + 8] = b"%08d" % self.count
        with ExitStack() as stack:
            if repacks:
                write = mover._write
                late = mock.patch.object(mover, "_write", lambda *args: (write(*args), self._repack())[0])
                stack.enter_context(late)
            backup = mover.back_up()
        self.bytes_of[backup.pk] = bytes(mover.image)

    @precondition(lambda self: not self.restores)
    @rule()
    def begin_restore(self) -> None:
        backup = Backup.objects.in_catalogue().filter(status=BackupStatus.OK).order_by("sequence").first()
        if backup is not None:
            job = factories.make_job(backup.server, kind=JobKind.RESTORE, backup=backup)
            self.restores.append((job, self.movers[backup.content].relocations()))

    @invariant()
    def every_backup_has_its_bytes(self) -> None:
        self.world.check()
        for backup in Backup.objects.in_catalogue().exclude(manifest=None).select_related("manifest"):
            assert self.movers[backup.content].restored(backup) == self.bytes_of[backup.pk]
        for job, relocations in self.restores:
            found = self.movers[job.backup.content].restored(job.backup, relocations=relocations)
            assert found == self.bytes_of[job.backup.pk]


def test_all_bytes_of_every_content_stay_in_any_order_of_events() -> None:
    run_state_machine_as_test(ContentsMachine, settings=SETTINGS)
