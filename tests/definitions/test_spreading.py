"""The act of spreading: which definitions move, within which hours, who may, and taking it back."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest

from agents.models import Node, Server
from backups.models import Backup
from common.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from definitions.models import Definition, Policy, SpreadAct
from definitions.planner import heat_map, pile_of, placed_of
from definitions.policies import create_policy
from definitions.schedule import next_run
from definitions.spreading import NIGHT, find_act, movable_pile, preview_pile, spread, spread_pile, undo_spread
from tenants.models import AuditEvent, Person
from tests.factories import make_backup, make_definition, make_person, make_server
from tests.worlds import World

NOW = datetime(2026, 1, 14, 12, tzinfo=UTC)
CRON = "0 22 * * *"
pytestmark = pytest.mark.django_db


@pytest.fixture
def boss() -> Person:
    return make_person("boss", superadmin=True)


def pile(server: Server, count: int = 6, **values: Any) -> list[Definition]:
    rows = [make_definition(server, name=f"p{number}", **{"cron": CRON, **values}) for number in range(count)]
    due = next_run(cron=rows[0].cron, time_zone=rows[0].time_zone, after=NOW)
    Definition.objects.filter(pk__in=[row.pk for row in rows]).update(next_run_at=due)
    return rows


def crons(rows: list[Definition]) -> list[str]:
    return list(
        Definition.objects.filter(pk__in=[row.pk for row in rows]).order_by("name").values_list("cron", flat=True)
    )


def of_node(server: Server, actor: Person, **values: Any) -> dict[str, Any]:
    chosen = {"hour": 22, "start": NIGHT[0], "end": NIGHT[1], **values}
    mine = Definition.objects.for_user(actor, "edit")
    return {"definitions": mine, "node": server.node, "actor": actor, "now": NOW, **chosen}


def test_piles_are_spread_node_by_node_and_taken_back_node_by_node(boss: Person) -> None:
    """Each node as if there were no other: level afterwards, all in the window, and nothing else moved."""
    servers = [make_server(size_bytes=1 << 40) for _ in range(3)]
    piles = [pile(server) for server in servers]
    quiet = [make_definition(server, name="quiet", cron="0 4 * * *") for server in servers]
    acts: list[SpreadAct] = []
    for number, server in enumerate(servers):
        piled = heat_map(Definition.objects.all(), now=NOW).advice
        assert {item.node for item in piled} == {one.node.name for one in servers[number:]}

        looked = preview_pile(**of_node(server, boss))
        acts.append(spread_pile(**of_node(server, boss)))

        assert [[str(move.definition.pk), move.before, move.after] for move in looked] == acts[-1].moves
        assert len(set(crons(piles[number]))) == 6
        assert {int(cron.split()[1]) for cron in crons(piles[number])} <= {22, 23, 0, 1, 2, 3, 4, 5}
        for later in piles[number + 1 :]:
            assert set(crons(later)) == {CRON}
    assert crons(quiet) == ["0 4 * * *"] * 3
    assert heat_map(Definition.objects.all(), now=NOW).advice == ()
    moved = Definition.objects.get(pk=acts[0].moves[0][0])
    assert moved.next_run_at == next_run(cron=moved.cron, time_zone=moved.time_zone, after=NOW)

    for number, act in enumerate(acts):
        undo_spread(act=act, actor=boss, now=NOW)
        assert [set(crons(rows)) == {CRON} for rows in piles] == [position <= number for position in range(3)]
    told = AuditEvent.objects.filter(action__in=["definition.spread", "definition.unspread"])
    assert told.count() == 2 * sum(len(act.moves) for act in acts)
    assert set(told.values_list("tenant", flat=True)) == {server.tenant_id for server in servers}


def test_the_window_is_of_each_ones_own_zone_and_a_policys_is_its_own(boss: Person) -> None:
    server = make_server(size_bytes=1 << 40)
    own = pile(server, 3)
    tokyo = [make_definition(server, name=f"t{n}", cron="0 7 * * *", time_zone="Asia/Tokyo") for n in range(3)]
    policy = create_policy(name="late", actor=boss, window_start=time(22), window_end=time(23), time_zone="UTC")
    followers = [make_definition(server, name=f"f{n}", cron=CRON, policy=policy) for n in range(3)]

    spread_pile(**of_node(server, boss, start=time(1), end=time(5)))

    assert {cron.split()[1] for cron in crons(followers)} == {"22"}
    for rows in (own, tokyo):
        assert {int(cron.split()[1]) for cron in crons(rows)} <= {1, 2, 3, 4}
    assert set(Definition.objects.filter(name__startswith="t").values_list("time_zone", flat=True)) == {"Asia/Tokyo"}


def test_an_administrator_moves_his_own_that_no_restricted_policy_gives_beside_all_others(boss: Person) -> None:
    server, other = make_server(), make_server()
    Server.objects.filter(pk=other.pk).update(node=server.node)
    mine, foreign = pile(server, 3), pile(other, 3)
    given = create_policy(name="given", actor=boss)
    free = create_policy(name="free", actor=boss, restricted=False)
    bound = make_definition(server, name="bound", cron=CRON, policy=given)
    loose = make_definition(server, name="loose", cron=CRON, policy=free)
    # All that they could run at but one hour is full of the other tenant's work.
    busy = sorted(f"{minute} {hour} * * *" for minute in range(0, 60, 5) for hour in (1, 2))
    full = [make_definition(other, name=f"b{number:02}", cron=cron) for number, cron in enumerate(busy)]
    admin = make_person(administers=[server.tenant])

    chosen = {name: value for name, value in of_node(server, admin).items() if name not in {"start", "end"}}
    assert {one.pk for one in movable_pile(**chosen)} == {one.pk for one in (*mine, loose)}
    act = spread_pile(**of_node(server, admin, start=time(1), end=time(4)))

    assert {key for key, _, _ in act.moves} <= {str(one.pk) for one in (*mine, loose)}
    assert {cron.split()[1] for cron in crons(mine)} == {"3"}
    assert crons([bound]) == [CRON] and set(crons(foreign)) == {CRON}
    assert crons(full) == busy
    stranger = make_person(administers=[other.tenant])
    with pytest.raises(NotFoundError):
        find_act(act.pk, actor=stranger)
    with pytest.raises(NotAllowedError):
        undo_spread(act=act, actor=stranger, now=NOW)
    assert find_act(act.pk, actor=admin) == find_act(act.pk, actor=boss) == act
    assert undo_spread(act=act, actor=admin, now=NOW) == len(act.moves)
    assert set(crons(mine)) == {CRON}


def test_who_lost_the_tenant_gives_nothing_back(boss: Person) -> None:
    server = make_server(size_bytes=1 << 40)
    rows, admin = pile(server), make_person(administers=[server.tenant])
    act = spread_pile(**of_node(server, admin))
    after = crons(rows)

    assert undo_spread(act=act, actor=Person.objects.get(pk=make_admin_no_more(admin).pk), now=NOW) == 0
    assert crons(rows) == after


def make_admin_no_more(person: Person) -> Person:
    person.tenantuserpermission_set.all().delete()
    return person


def test_a_run_that_is_due_already_stays_due(boss: Person) -> None:
    server = make_server(size_bytes=1 << 40)
    rows = pile(server)
    Definition.objects.update(next_run_at=NOW - timedelta(minutes=1))

    spread_pile(**of_node(server, boss))

    assert set(Definition.objects.values_list("next_run_at", flat=True)) == {NOW - timedelta(minutes=1)}
    assert len(set(crons(rows))) > 1


def test_what_cannot_be_is_refused_and_changes_nothing(boss: Person) -> None:
    server = make_server()
    rows = pile(server)

    with pytest.raises(ConflictError, match="better time"):
        spread_pile(**of_node(server, boss, hour=3))
    with pytest.raises(InvalidInputError):
        spread_pile(**of_node(server, boss, hour=24))
    with pytest.raises(ConflictError):
        spread_pile(**of_node(server, make_person(owns=[server])))

    assert set(crons(rows)) == {CRON} and not SpreadAct.objects.exists()


@pytest.mark.parametrize(
    "own", [{"cron": "0 22 * * sun"}, {"cron": "30 */6 * * *"}, {"cron": "0 22 * * *", "time_zone": "Asia/Tokyo"}]
)
def test_the_schedule_that_a_person_gave_a_follower_is_not_made_a_daily_one(boss: Person, own: dict[str, str]) -> None:
    """An open policy's definitions may run otherwise than once a day in its window: those keep what they have."""
    server = make_server(size_bytes=1 << 40)
    policy = create_policy(name="open", actor=boss, restricted=False)
    row = make_definition(server, policy=policy, **own)
    crowd = pile(server, 4)
    Definition.objects.filter(pk__in=[one.pk for one in crowd]).update(policy=Policy.objects.get())

    act = spread(definitions=Definition.objects.all(), actor=boss, now=NOW)

    assert str(row.pk) not in {key for key, _, _ in act.moves}
    assert crons([row]) == [own["cron"]]


def test_a_pile_is_what_starts_in_the_hour_of_the_utc_day(boss: Person) -> None:
    server = make_server()
    names = {"first": "0 22 * * *", "last": "59 22 * * *", "next": "0 23 * * *", "weekly": "0 22 * * 1"}
    for name, cron in names.items():
        make_definition(server, name=name, cron=cron)
    make_definition(server, name="berlin", cron="30 23 * * *", time_zone="Europe/Berlin")
    make_definition(server, name="off", cron="0 22 * * *", active=False, next_run_at=None)
    make_definition(make_server(), name="elsewhere", cron="0 22 * * *")

    found = pile_of(Definition.objects.all(), node=server.node, hour=22, now=NOW)

    assert [one.name for one in found] == ["berlin", "first", "last"]


def test_a_run_is_expected_to_be_as_those_of_the_last_week_were() -> None:
    server = make_server(size_bytes=1 << 40)
    known, new = make_definition(server, name="known"), make_definition(server, name="new")
    for minutes, days in ((10, 1), (20, 6), (200, 8)):
        row = make_backup(server, definition=known, duration_seconds=minutes * 60, read_bytes=minutes * 60 * 1000)
        Backup.objects.filter(pk=row.pk).update(created_at=NOW - timedelta(days=days))

    tasks = {item.task.key: item.task for item in placed_of(Definition.objects.all(), now=NOW)}

    assert (tasks[str(known.pk)].minutes, tasks[str(known.pk)].load) == (15, 1000)
    # Without any, by the size of its disk.
    assert tasks[str(new.pk)].minutes == 87


def test_by_page_and_api_who_sees_the_node_and_may_edit(world: World) -> None:
    ours = world.ours
    for number in range(4):
        make_definition(ours.server, name=f"n{number}", cron=CRON)
    client, address = world.client("admin_a"), f"/definitions/load/spread/?node={ours.node.pk}&hour=22"
    before = list(Definition.objects.order_by("pk").values_list("cron", flat=True))
    follower = str(ours.definition.pk)

    load = client.get("/definitions/load/").content.decode()
    page = client.get(address)
    looked = client.post(address, {"start": "01:00", "end": "03:00", "look": "1"}, format="multipart")
    body = {"node": str(ours.node.pk), "hour": 22, "window_start": "01:00", "window_end": "03:00"}
    seen = client.post("/api/v1/definitions/spread/", body)

    assert f"node={ours.node.pk}&amp;hour=22" in load
    assert page.status_code == looked.status_code == 200 and page.context["rows"] and looked.context["moves"]
    assert seen.status_code == 200 and seen.json()["spread"] is None
    hours = {move["after"].split()[1] for move in seen.json()["moves"] if move["definition"] != follower}
    assert hours and hours <= {"1", "2"}
    assert list(Definition.objects.order_by("pk").values_list("cron", flat=True)) == before
    assert client.post(address, {"start": "", "end": "06:00"}, format="multipart").status_code == 400

    done = client.post(address, {"start": "01:00", "end": "03:00"}, format="multipart")
    assert (done.status_code, done["Location"]) == (302, "/definitions/load/")
    act = client.get("/definitions/load/").context["last_act"]
    assert {after.split()[1] for key, _, after in act.moves if key != follower} <= {"1", "2"}
    assert world.client("admin_b").get("/definitions/load/").context["last_act"] is None
    undo = "/api/v1/definitions/undo-spread/"
    assert world.client("admin_b").post(undo, {"spread": str(act.pk)}).status_code == 404
    assert client.post(undo, {"spread": str(act.pk)}).status_code == 204
    assert list(Definition.objects.order_by("pk").values_list("cron", flat=True)) == before

    half = client.post("/api/v1/definitions/spread/", {"node": str(ours.node.pk)})
    assert half.status_code == 400 and "hour" in half.content.decode()
    for name, status in (("admin_b", 404), ("owner_a1", 404)):
        assert world.client(name).get(address).status_code == status
    assert world.client("admin_b").post("/api/v1/definitions/spread/", body).status_code == 404
    assert Node.objects.filter(pk=ours.node.pk).exists()


def test_by_api_definitions_are_looked_at_moved_to_an_hour_and_taken_back(world: World) -> None:
    """Named, or by the hour that they start in; across nodes; with the load before and after."""
    ours, client = world.ours, world.client("admin_a")
    rows = [make_definition(one, name=f"n{n}", cron=CRON) for n, one in enumerate((ours.server, ours.other_server))]
    ids, address = [str(one.pk) for one in rows], "/api/v1/definitions/move/"
    before = crons(rows)

    def ask(name: str = "admin_a", **body: Any) -> Any:
        return world.client(name).post(address, body)

    looked = ask(definitions=ids, hour=4, preview=True).json()
    assert looked["spread"] is None and crons(rows) == before
    assert [move["definition"] for move in looked["moves"]] == sorted(ids)
    for load in looked["loads"]:
        gained = [round(new - old, 3) for old, new in zip(load["before"], load["after"], strict=True)]
        assert gained[22] < 0 < sum(gained[4:8]), load
        assert abs(sum(gained)) < 0.01
    assert [load["node"] for load in looked["loads"]] == sorted({ours.node.name, ours.other_server.node.name})

    done = ask(definitions=ids, hour=4).json()
    assert (done["moves"], done["loads"]) == (looked["moves"], looked["loads"])
    assert [cron.split()[1] for cron in crons(rows)] == ["4", "4"]
    assert client.post("/api/v1/definitions/undo-spread/", {"spread": done["spread"]}).status_code == 204
    assert crons(rows) == before

    # What only the provider moves is left out of an hour, and refused by its name.
    type(ours.policy).objects.filter(pk=ours.policy.pk).update(restricted=True)
    pile = {"node": str(ours.node.pk), "from_hour": 22, "hour": 5}
    by_hour = ask(**pile, preview=True).json()
    assert str(ours.definition.pk) not in {move["definition"] for move in by_hour["moves"]}
    assert ids[0] in {move["definition"] for move in by_hour["moves"]}
    Definition.objects.filter(pk=rows[1].pk).update(cron="0 22 * * 1")
    refused = {
        "not_allowed": ask(definitions=[str(ours.definition.pk)], hour=5),
        "not_daily": ask(definitions=ids, hour=5),
        "not_found": ask(definitions=[ids[0], str(world.theirs.definition.pk)], hour=5),
        "nothing_to_spread": ask(node=str(ours.node.pk), from_hour=13, hour=5),
        "invalid": ask(definitions=ids, **pile),
        "required": ask(hour=5, node=str(ours.node.pk)),
    }
    assert {code: answer.json()["code"] for code, answer in refused.items()} == {
        **{code: code for code in refused},
        **dict.fromkeys(("invalid", "required"), "invalid_input"),
    }
    assert [answer.status_code for answer in refused.values()] == [403, 400, 404, 409, 400, 400]
    assert ask("owner_a1", definitions=[str(ours.definition.pk)], hour=5).status_code == 403
    assert ask("admin_b", **pile).status_code == 404
    assert crons(rows) == [before[0], "0 22 * * 1"]
