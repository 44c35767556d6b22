"""Policies: who gets which, what follows from a change, and what a tenant may not touch."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest

from agents.models import Server
from agents.services import add_disk
from common.errors import ApprovalNeededError, ConflictError, InvalidInputError, NotAllowedError
from common.ids import new_id
from definitions.keeping import surplus_of
from definitions.models import Definition, Policy
from definitions.planner import heat_map
from definitions.policies import assign, create_policy, delete_policy, policy_for, set_tags, unassign, update_policy
from definitions.retention import Candidate, Rules
from definitions.schedule import next_run
from definitions.services import Fate, create_definition, delete_definition, update_definition
from definitions.spreading import preview_spread, spread, undo_spread
from tenants.approval_states import ApprovalKind
from tenants.approvals import approve, keep
from tenants.models import ApprovalRule, Person
from tests.factories import disk_of, make_backup, make_definition, make_person, make_server, make_storage
from vaults.models import Region

NOW = datetime(2026, 1, 14, 12, tzinfo=UTC)
DAY = timedelta(days=1)
pytestmark = pytest.mark.django_db


@pytest.fixture
def boss() -> Person:
    return make_person("boss", superadmin=True)


def policy(boss: Person, name: str = "standard", **values: Any) -> Policy:
    return create_policy(name=name, actor=boss, **{"time_zone": "Europe/Berlin", **values})


def followed(server: Server) -> Definition:
    return Definition.objects.get(disk__server=server, policy__isnull=False)


def test_the_default_is_what_the_provider_promises(boss: Person) -> None:
    made = policy(boss)

    assert (made.window_start, made.window_end, made.restricted) == (time(22), time(6), True)
    assert made.rules == Rules(days=14)


def test_an_assignment_gives_every_server_a_definition_within_the_window(boss: Person) -> None:
    server = make_server()

    assign(policy=policy(boss), tenant=server.tenant, actor=boss, now=NOW)

    made = followed(server)
    assert (made.name, made.time_zone, made.rules, made.active) == ("standard", "Europe/Berlin", Rules(days=14), True)
    minute, hour = (int(value) for value in made.cron.split()[:2])
    assert hour in {22, 23, 0, 1, 2, 3, 4, 5} and 0 <= minute < 60
    assert made.next_run_at == next_run(cron=made.cron, time_zone=made.time_zone, after=NOW)


def test_a_new_server_gets_its_own_at_once(boss: Person) -> None:
    server = make_server()
    server.disks.all().delete()
    assign(policy=policy(boss), region=server.region, actor=boss, now=NOW)
    assert not Definition.objects.filter(disk__server=server).exists()

    storage = make_storage(server.node)
    add_disk(server=server, number=1, driver="image", storage=storage, path="a.img", size_bytes=1 << 30, actor=boss)

    assert followed(server).policy == Policy.objects.get()


def test_the_nearest_assignment_counts_and_taking_it_back_gives_the_next(boss: Person) -> None:
    server, other = make_server(), make_server()
    names = ("of-region", "of-tenant", "of-tag", "of-server")
    targets: list[dict[str, Any]] = [
        {"region": server.region},
        {"tenant": server.tenant},
        {"tag": "gold"},
        {"server": server},
    ]
    set_tags(server=server, tags=["gold", "web"], actor=boss, now=NOW)
    given = []
    for name, target in zip(names, targets, strict=True):
        given.append(assign(policy=policy(boss, name), actor=boss, now=NOW, **target))
        assert policy_for(server) == followed(server).policy == Policy.objects.get(name=name)

    assert str(policy_for(other)) == "of-region"
    unassign(assignment=given[3], actor=boss, now=NOW)
    assert str(followed(server).policy) == "of-tag"
    set_tags(server=server, tags=[], actor=boss, now=NOW)
    assert str(followed(server).policy) == "of-tenant"
    assert Definition.objects.filter(disk__server=server).count() == 1


def test_without_any_left_the_definition_stays_and_is_free(boss: Person) -> None:
    server = make_server()
    given = assign(policy=policy(boss), server=server, actor=boss, now=NOW)

    unassign(assignment=given, actor=boss, now=NOW)

    assert Definition.objects.get(disk__server=server).policy is None


def test_what_a_person_made_stays_beside_it(boss: Person) -> None:
    server = make_server()
    own = make_definition(server, name="standard", cron="5 5 * * *")

    assign(policy=policy(boss), server=server, actor=boss, now=NOW)

    own.refresh_from_db()
    assert (own.policy, own.cron, followed(server).name) == (None, "5 5 * * *", "standard-2")


def test_a_change_holds_for_future_backups_only(boss: Person) -> None:
    server = make_server()
    given = policy(boss, retention_days=30)
    assign(policy=given, server=server, actor=boss, now=NOW - 60 * DAY)
    old = [Candidate(new_id(), NOW - days * DAY, NOW - days * DAY) for days in (20, 10)]

    update_policy(policy=given, changes={"retention_days": 3}, actor=boss, now=NOW)

    definition = followed(server)
    new = [Candidate(new_id(), NOW + days * DAY, NOW + days * DAY) for days in (1, 2, 8)]
    assert definition.rules == Rules(days=3)
    surplus = surplus_of(definition, [*old, *new], now=NOW + 8 * DAY)
    # Ten days later the old ones are 28 and 18 days old; of the new ones those older than three days go.
    assert set(surplus) == {new[0], new[1]}
    assert surplus_of(definition, old, now=NOW + 25 * DAY) == [old[0]]


def test_after_several_changes_each_backup_goes_by_the_rules_of_its_time(boss: Person) -> None:
    server, given = make_server(), policy(boss, retention_days=30)
    assign(policy=given, server=server, actor=boss, now=NOW - 60 * DAY)
    definition = followed(server)
    changes = {NOW: 10, NOW + DAY: 3}
    for at, days in changes.items():
        update_policy(policy=given, changes={"retention_days": days}, actor=boss, now=at)
    moment = timedelta(microseconds=1)
    times = [NOW - moment, NOW, NOW + DAY - moment, NOW + DAY, NOW + 2 * DAY, NOW + 100 * DAY]
    made = [Candidate(new_id(), at, at) for at in times]

    def gone(after: timedelta) -> set[int]:
        """Which are removed: the numbers of their times."""
        surplus = surplus_of(definition, made, now=NOW + after)
        return {number for number, one in enumerate(made) if one in surplus}

    definition = followed(server)
    assert gone(4.5 * DAY) == {3}
    assert gone(10 * DAY) == {1, 3, 4}
    assert gone(29 * DAY) == {1, 2, 3, 4}
    assert gone(30 * DAY) == {0, 1, 2, 3, 4}


def test_the_lock_is_never_shorter_than_the_vaults_and_may_be_the_whole_retention(boss: Person) -> None:
    server = make_server()
    given = policy(boss, retention_days=10, keep_monthly=12, lock_whole_retention=True)
    assign(policy=given, server=server, actor=boss, now=NOW)
    definition = followed(server)
    assert definition.immutable_days == 372

    update_policy(policy=given, changes={"lock_whole_retention": False, "lock_days": 1}, actor=boss, now=NOW)

    definition.refresh_from_db()
    assert definition.immutable_days == definition.vault.immutable_days


@pytest.mark.parametrize(
    "values",
    [
        {"lock_whole_retention": True, "retention_count": 5},
        {"lock_whole_retention": True, "keep_yearly": 11},
        {"time_zone": "Mars/Olympus"},
        {"lock_days": 4000},
        {"name": "-bad"},
    ],
)
def test_what_cannot_be_is_refused(boss: Person, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        create_policy(actor=boss, **{"name": "bad", **values})
    assert not Policy.objects.exists()


def test_another_window_moves_all_that_follow(boss: Person) -> None:
    servers = [make_server() for _ in range(4)]
    given = policy(boss)
    for server in servers:
        assign(policy=given, server=server, actor=boss, now=NOW)

    update_policy(policy=given, changes={"window_start": time(1), "window_end": time(3)}, actor=boss, now=NOW)

    assert {followed(server).cron.split()[1] for server in servers} <= {"1", "2"}
    assert all(made.next_run_at and made.next_run_at > NOW for made in Definition.objects.all())


def test_a_restricted_one_is_seen_and_not_changed_by_the_tenant(boss: Person) -> None:
    server = make_server()
    given = policy(boss)
    assign(policy=given, server=server, actor=boss, now=NOW)
    definition, admin = followed(server), make_person(administers=[server.tenant])

    for changes in ({"cron": "0 1 * * *"}, {"active": False}, {"retention_days": 400}):
        with pytest.raises(NotAllowedError):
            update_definition(definition=followed(server), changes=changes, now=NOW, actor=admin)
    with pytest.raises(NotAllowedError):
        delete_definition(definition=definition, actor=admin)
    update_definition(definition=definition, changes={"description": "ours"}, now=NOW, actor=admin)

    assert list(Policy.objects.for_user(admin)) == [given]
    update_policy(policy=given, changes={"restricted": False}, actor=boss, now=NOW)
    update_definition(definition=followed(server), changes={"cron": "0 1 * * *"}, now=NOW, actor=admin)


def test_only_a_super_admin_and_not_while_it_is_assigned(boss: Person) -> None:
    server = make_server()
    given = policy(boss)
    assign(policy=given, region=Region.objects.get(pk=server.region_id), actor=boss, now=NOW)

    with pytest.raises(ConflictError, match="servers in"):
        delete_policy(policy=given, actor=boss)
    with pytest.raises(NotAllowedError):
        create_policy(name="mine", actor=make_person(administers=[server.tenant]))


def test_spreading_moves_those_that_pile_up_and_can_be_undone(boss: Person) -> None:
    server = make_server(size_bytes=1 << 40)
    given = policy(boss)
    assign(policy=given, server=server, actor=boss, now=NOW)
    first = followed(server)
    first.cron = "0 22 * * *"
    first.save()
    rows = [make_definition(server, name=f"d{n}", cron="0 22 * * *", time_zone="Europe/Berlin") for n in range(4)]
    Definition.objects.filter(pk__in=[row.pk for row in rows]).update(policy=given)
    everything = Definition.objects.all()
    piled = heat_map(everything, now=NOW)

    moves = preview_spread(definitions=everything, actor=boss, now=NOW)
    act = spread(definitions=everything, actor=boss, now=NOW)

    assert [(item.node, item.hour) for item in piled.advice] == [(server.node.name, 21)]
    assert len(moves) == len(act.moves) >= 4
    assert len(set(everything.values_list("cron", flat=True))) == 5
    assert heat_map(everything, now=NOW).advice == ()
    changed = Definition.objects.get(pk=act.moves[0][0])
    changed.cron = "1 1 * * *"
    changed.save()
    assert undo_spread(act=act, actor=boss, now=NOW) == len(moves) - 1
    assert sorted(set(everything.values_list("cron", flat=True))) == ["0 22 * * *", "1 1 * * *"]
    with pytest.raises(ConflictError):
        undo_spread(act=act, actor=boss, now=NOW)


def test_a_reserved_name_brings_schedule_and_number() -> None:
    disk = disk_of(make_server())

    made = create_definition(disk=disk, name="weekly", now=NOW)
    own = create_definition(disk=disk, name="hourly", cron="7 * * * *", retention_days=2, now=NOW)

    assert made.retention_count == 12 and made.cron.endswith(made.cron.split()[4]) and made.cron.split()[4] != "*"
    assert (own.cron, own.rules) == ("7 * * * *", Rules(count=14, days=2))
    with pytest.raises(InvalidInputError, match="hourly, daily, weekly, monthly"):
        create_definition(disk=disk, name="nightly", now=NOW)


@pytest.mark.parametrize("values", [{"compression": "gzip"}, {"compression": "lzma"}, {"freeze_filesystem": True}])
def test_what_cannot_be_chosen_says_why(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        create_definition(disk=disk_of(make_server()), name="x", cron="0 1 * * *", now=NOW, **values)

    assert (caught.value.code, caught.value.field) == ("cannot_be_chosen", next(iter(values)))


def test_deleting_says_what_becomes_of_the_backups() -> None:
    server = make_server()
    leaving, heir, retiring = (make_definition(server, name=name) for name in ("a", "b", "c"))
    adopted, kept = make_backup(server, definition=leaving), make_backup(server, definition=retiring)

    with pytest.raises(InvalidInputError):
        delete_definition(definition=leaving, backups=Fate.ADOPT, adopter=make_definition(make_server()))
    delete_definition(definition=leaving, backups=Fate.ADOPT, adopter=heir)
    delete_definition(definition=retiring, backups=Fate.KEEP_UNTIL_AGE, days=90, now=NOW)

    adopted.refresh_from_db()
    kept.refresh_from_db()
    retiring.refresh_from_db()
    assert adopted.definition == heir
    assert kept.definition == retiring
    assert (retiring.rules, retiring.active, retiring.next_run_at) == (Rules(days=90), False, None)
    with pytest.raises(ConflictError):
        update_definition(definition=retiring, changes={"active": True}, now=NOW)


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_shorter_policy_may_need_a_second_person_once_for_all_its_servers(boss: Person, everywhere: bool) -> None:
    """The way around a definition's own rule would be the policy that it follows."""
    server = make_server()
    other, second = make_server(server.tenant), make_person("second", superadmin=True)
    given, short = policy(boss, retention_days=30, lock_days=30), policy(boss, "short", retention_days=3, lock_days=20)
    assign(policy=given, tenant=server.tenant, actor=boss, now=NOW)
    kinds = [ApprovalKind.RETENTION_SHORTEN, ApprovalKind.LOCK_SHORTEN]
    for kind in kinds:
        ApprovalRule.objects.create(tenant=None if everywhere else server.tenant, kind=kind, required=True)

    update_policy(policy=given, changes={"retention_days": 40}, actor=boss, now=NOW)
    for kind in kinds:
        with pytest.raises(ApprovalNeededError) as needed:
            assign(policy=short, tenant=server.tenant, actor=boss, now=NOW)
        request = needed.value.request
        assert (request.kind, followed(other).policy) == (kind, given)
        keep(request)
        approve(request=request, actor=second, now=NOW)
    assign(policy=short, tenant=server.tenant, actor=boss, now=NOW)

    assert {followed(one).policy for one in (server, other)} == {short}
    with pytest.raises(ApprovalNeededError):
        update_policy(policy=short, changes={"retention_days": 1}, actor=boss, now=NOW)
    assert followed(server).retention_days == 3
