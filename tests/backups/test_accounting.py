"""Bytes are counted exactly: step by step, from scratch and by a plain model, after any sequence of what can happen."""

from __future__ import annotations

import itertools
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from agents.models import Disk, Server
from backups.accounting import Usage, account_commit, account_removal, add_uses, hold_accounts, recompute, usage_of
from backups.models import Backup, Job, Session
from backups.states import JobKind, JobState
from tests.factories import make_backup, make_disk, make_server, make_tenant
from vaults.models import Domain, ObjectUse, StoredObject

NOW = timezone.now()
_numbers = itertools.count(1)


@dataclass
class Home:
    """A server with two disks whose backups share one domain."""

    server: Server
    disks: list[Disk]
    sessions: dict[uuid.UUID, Session] = field(default_factory=dict)

    @property
    def domain(self) -> Domain:
        assert self.server.domain is not None
        return self.server.domain


def make_home(tenant: Any = None) -> Home:
    server = make_server(tenant)
    make_disk(server)
    vault = server.tenant.vaults.get()
    server.domain = Domain.objects.create(tenant=server.tenant, vault=vault, wrapped_id_key=b"x", wrapped_map_key=b"x")
    server.save()
    home = Home(server, list(server.disks.order_by("number")))
    for disk in home.disks:
        disk.server = server
        job = Job.objects.create(
            kind=JobKind.BACKUP, tenant=server.tenant, disk=disk, node=server.node, state=JobState.OK
        )
        home.sessions[disk.pk] = Session.objects.create(job=job, fence=1, token_hash=str(uuid.uuid4()))
    return home


def make_object(home: Home, disk: Disk, *, size_bytes: int, kind: str = "p", lock_days: int = 10) -> StoredObject:
    number = next(_numbers)
    return StoredObject.objects.create(
        vault=home.domain.vault,
        domain=home.domain,
        session_id=home.sessions[disk.pk].pk,
        kind=kind,
        key=f"{kind}/{number}",
        size_bytes=size_bytes,
        sha256=f"{number:064x}",
        md5_base64="",
        status="stored",
        version_id="1",
        retain_until=NOW + timedelta(days=lock_days),
        granted_at=NOW,
    )


def commit(home: Home, disk: Disk, named: list[StoredObject], *, manifest_bytes: int = 7) -> Backup:
    """As the committer: uses and backup in one transaction, then the figures."""
    with transaction.atomic():
        manifest = make_object(home, disk, size_bytes=manifest_bytes, kind="m")
        pending = make_backup(home.server, status="pending")
        Backup.objects.filter(pk=pending.pk).update(status="ok", disk=disk, manifest=manifest)
        ObjectUse.objects.bulk_create([ObjectUse(manifest=manifest, needed=row) for row in named])
        account_commit(manifest.pk)
    return Backup.objects.select_related("manifest").get(pk=pending.pk)


def remove(backups: list[Backup]) -> None:
    with transaction.atomic():
        hold_accounts({backup.manifest.domain_id for backup in backups})
        Backup.objects.filter(pk__in=[backup.pk for backup in backups]).update(removed_at=NOW)
        account_removal([backup.manifest_id for backup in backups])


def figures(backup: Backup) -> tuple[int, int]:
    return Backup.objects.values_list("unique_bytes", "shared_bytes").get(pk=backup.pk)


@pytest.fixture
def home(db: None) -> Home:
    return make_home()


def test_what_only_one_backup_needs_is_unique_and_its_manifest_is(home: Home) -> None:
    disk = home.disks[0]
    first, second = (make_object(home, disk, size_bytes=size) for size in (100, 10))

    alone = commit(home, disk, [first, second])
    assert figures(alone) == (117, 0)
    other = commit(home, disk, [first])

    assert figures(alone) == (17, 100)
    assert figures(other) == (7, 100)


def test_what_a_removed_backup_left_belongs_to_the_last_one_that_needs_it(home: Home) -> None:
    disk = home.disks[0]
    pack = make_object(home, disk, size_bytes=100)
    one, two, three = (commit(home, disk, [pack]) for _ in range(3))

    remove([one])
    assert figures(two) == figures(three) == (7, 100)
    remove([two])

    assert figures(three) == (107, 0)
    assert figures(one) == figures(two) == (0, 0)


def test_backups_that_go_together_give_what_they_shared_once(home: Home) -> None:
    disk = home.disks[0]
    pack = make_object(home, disk, size_bytes=100)
    backups = [commit(home, disk, [pack]) for _ in range(4)]

    remove(backups[:3])

    assert figures(backups[3]) == (107, 0)


def test_usage_of_disks_server_and_tenant(home: Home) -> None:
    one, two = home.disks
    common, own, spare = (make_object(home, one, size_bytes=size) for size in (100, 20, 3))
    over = make_object(home, two, size_bytes=1, lock_days=-1)
    commit(home, one, [common, own])
    commit(home, two, [common])

    assert usage_of(one, now=NOW) == Usage(27, 100, 3, 3)
    assert usage_of(two, now=NOW) == Usage(7, 100, 0, 1)
    assert usage_of(home.server, now=NOW) == usage_of(home.server.tenant, now=NOW) == Usage(34, 100, 3, 4)
    assert usage_of(home.server, now=NOW).used_bytes == 134
    assert usage_of(home.server, now=NOW).total_bytes == 138
    StoredObject.objects.filter(pk__in=[spare.pk, over.pk]).update(status="deleted")
    assert usage_of(home.server, now=NOW) == Usage(34, 100, 0, 0)


def test_a_removed_backup_s_bytes_are_pending_and_locked_until_their_lock_ends(home: Home) -> None:
    disk = home.disks[0]
    backup = commit(home, disk, [make_object(home, disk, size_bytes=50)])

    remove([backup])

    assert usage_of(disk, now=NOW) == Usage(0, 0, 57, 57)
    assert usage_of(disk, now=NOW + timedelta(days=11)) == Usage(0, 0, 0, 57)


def test_nothing_of_another_tenant_or_server_is_counted(home: Home) -> None:
    neighbour, stranger = make_home(home.server.tenant), make_home(make_tenant())
    for other in (neighbour, stranger):
        commit(other, other.disks[0], [make_object(other, other.disks[0], size_bytes=1000)])
        make_object(other, other.disks[0], size_bytes=5)
    commit(home, home.disks[0], [make_object(home, home.disks[0], size_bytes=1)])

    assert usage_of(home.server, now=NOW) == Usage(8, 0, 0, 0)
    assert usage_of(home.disks[1], now=NOW) == Usage(0, 0, 0, 0)
    assert usage_of(home.server.tenant, now=NOW) == Usage(1015, 0, 5, 5)


def test_a_server_without_any_backup_takes_up_nothing(db: None) -> None:
    server = make_server()

    assert usage_of(server, now=NOW) == Usage(0, 0, 0, 0)


def test_wrong_figures_are_found_and_corrected(home: Home) -> None:
    disk = home.disks[0]
    backup = commit(home, disk, [make_object(home, disk, size_bytes=50)])
    Backup.objects.filter(pk=backup.pk).update(unique_bytes=1)

    assert recompute(home.domain.pk) == 1
    assert figures(backup) == (57, 0)
    assert recompute(home.domain.pk) == 0


def test_what_a_rotation_adds_is_counted_at_once(home: Home) -> None:
    disk = home.disks[0]
    one, two, removed = (commit(home, disk, []) for _ in range(3))
    remove([removed])
    envelope = make_object(home, disk, size_bytes=30, kind="k")

    add_uses(envelope.pk, [one.manifest_id, removed.manifest_id])
    assert (figures(one), figures(two), figures(removed)) == ((37, 0), (7, 0), (0, 0))
    for _ in range(2):
        add_uses(envelope.pk, [one.manifest_id, two.manifest_id])
        assert figures(one) == figures(two) == (7, 30)

    assert recompute(home.domain.pk) == 0


def test_the_number_of_statements_does_not_grow_with_the_objects(home: Home) -> None:
    disk = home.disks[0]
    counts = []
    for number in (2, 200):
        packs = [make_object(home, disk, size_bytes=1) for _ in range(number)]
        commit(home, disk, packs)
        with CaptureQueriesContext(
            connection,
        ) as seen:
            last = commit(home, disk, packs)
            remove([last])
        counts.append(len(seen))

    assert counts[0] == counts[1]


# --- any sequence -----------------------------------------------------------------------------------------------------


class Accounts(RuleBasedStateMachine):
    """Commits, removals and deletions at random; beside them a model of plain sets."""

    def __init__(self) -> None:
        super().__init__()
        self.undo = transaction.atomic()
        self.undo.__enter__()
        self.home = make_home()
        # Objects with size, lock, disk; backups with what they need, manifest included.
        self.objects: dict[int, tuple[StoredObject, Disk]] = {}
        self.needs: dict[uuid.UUID, set[int]] = {}
        self.backups: dict[uuid.UUID, Backup] = {}
        self.disk_of: dict[uuid.UUID, Disk] = {}

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.undo.__exit__(None, None, None)

    @rule(data=st.data(), disk=st.integers(0, 1), sizes=st.lists(st.integers(1, 50), max_size=4))
    def backup(self, data: st.DataObject, disk: int, sizes: list[int]) -> None:
        chosen = self.home.disks[disk]
        known = sorted(pk for pk, (row, _) in self.objects.items() if row.kind == "p")
        reused = data.draw(st.sets(st.sampled_from(known), max_size=6)) if known else set()
        new = [make_object(self.home, chosen, size_bytes=size, lock_days=size - 25) for size in sizes]
        named = [*new, *(self.objects[pk][0] for pk in reused)]
        backup = commit(self.home, chosen, named, manifest_bytes=data.draw(st.integers(1, 9)))
        for row in (*new, backup.manifest):
            self.objects[row.pk] = (row, chosen)
        self.backups[backup.pk], self.disk_of[backup.pk] = backup, chosen
        self.needs[backup.pk] = {row.pk for row in (*named, backup.manifest)}

    @precondition(lambda self: self.needs)
    @rule(data=st.data())
    def removal(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.needs)), min_size=1, max_size=3))
        remove([self.backups[pk] for pk in chosen])
        for pk in chosen:
            del self.needs[pk]

    @precondition(lambda self: self._unneeded())
    @rule(data=st.data())
    def deletion(self, data: st.DataObject) -> None:
        """As the reaper leaves it: the row says deleted, and a deleted manifest needs nothing any more."""
        for pk in data.draw(st.sets(st.sampled_from(sorted(self._unneeded())), min_size=1, max_size=4)):
            StoredObject.objects.filter(pk=pk).update(status="deleted")
            ObjectUse.objects.filter(manifest_id=pk).delete()
            del self.objects[pk]

    @precondition(lambda self: self.needs)
    @rule(data=st.data(), size=st.integers(1, 50), fresh=st.booleans())
    def rotation(self, data: st.DataObject, size: int, fresh: bool) -> None:
        """Manifests need another envelope, new or of an earlier round; those of removed backups need it as well."""
        known = sorted(pk for pk, (row, _) in self.objects.items() if row.kind == "k")
        if fresh or not known:
            row = make_object(self.home, self.home.disks[0], size_bytes=size, kind="k")
            self.objects[row.pk] = (row, self.home.disks[0])
        else:
            row = self.objects[data.draw(st.sampled_from(known))][0]
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.backups)), min_size=1, max_size=4))
        there = [pk for pk in chosen if self.backups[pk].manifest_id in self.objects]
        add_uses(row.pk, [self.backups[pk].manifest_id for pk in there])
        for pk in set(there) & set(self.needs):
            self.needs[pk].add(row.pk)

    @rule(disk=st.integers(0, 1), size=st.integers(1, 50))
    def orphan(self, disk: int, size: int) -> None:
        """What a session stored and never committed."""
        row = make_object(self.home, self.home.disks[disk], size_bytes=size, lock_days=size - 25)
        self.objects[row.pk] = (row, self.home.disks[disk])

    def _unneeded(self) -> set[int]:
        return set(self.objects) - set().union(*self.needs.values())

    def _size(self, pks: Any) -> int:
        return sum(self.objects[pk][0].size_bytes for pk in pks)

    def _unique(self, backup_id: uuid.UUID) -> set[int]:
        others = set().union(*(needs for pk, needs in self.needs.items() if pk != backup_id))
        return self.needs[backup_id] - others

    def _usage(self, disks: list[Disk]) -> Usage:
        mine = [pk for pk in self.needs if self.disk_of[pk] in disks]
        used = set().union(*(self.needs[pk] for pk in mine))
        unique = sum(self._size(self._unique(pk)) for pk in mine)
        spare = {pk for pk in self._unneeded() if self.objects[pk][1] in disks}
        locked = {pk for pk in spare if self.objects[pk][0].retain_until > NOW}
        return Usage(unique, self._size(used) - unique, self._size(locked), self._size(spare))

    @invariant()
    def every_backup_s_figures_are_the_model_s(self) -> None:
        for pk, needs in self.needs.items():
            unique = self._size(self._unique(pk))
            assert figures(self.backups[pk]) == (unique, self._size(needs) - unique)

    @invariant()
    def from_scratch_is_the_same(self) -> None:
        assert recompute(self.home.domain.pk) == 0

    @invariant()
    def sums_are_the_model_s(self) -> None:
        for disk in self.home.disks:
            assert usage_of(disk, now=NOW) == self._usage([disk])
        assert usage_of(self.home.server, now=NOW) == self._usage(self.home.disks)
        assert usage_of(self.home.server.tenant, now=NOW) == self._usage(self.home.disks)


def test_any_sequence_of_commits_removals_and_deletions(db: None) -> None:
    run_state_machine_as_test(
        Accounts,
        settings=settings(
            max_examples=20, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
