"""Chains of ZFS snapshots over a `zfs` that keeps real state: what is sent and kept, and every call failing once."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agents.drivers.base import DiskFullError, DriverError
from agents.drivers.zfs_commands import Host, StreamCutError, ZfsError, ZfsModifiedError
from agents.drivers.zfs_sets import Base, SendWish, SentSet, forget_points, remove_set, send_set
from agents.drivers.zfs_swap import SwapWish, restore_set
from engine.errors import CanceledError
from tests.copies import fake_zfs
from tests.copies.quick_zfs import Machine, machine

DISK = "disk-1"


@dataclass
class Pair:
    source: Machine
    target: Machine

    def send(self, number: int, *earlier: SentSet, **changes: Any) -> SentSet:
        """Backup `number`, after earlier ones of the same definition, newest first."""
        names = frozenset(one.place.partition("@")[2] for one in earlier)
        wish = SendWish(
            source="tank/web",
            disk=DISK,
            snapshot=f"bs-{number}",
            chain=f"tank/copies/web-{number}",
            bases=[Base(one.place, one.guid) for one in earlier],
            kept=frozenset(list(names)[:0]) | frozenset(one.place.partition("@")[2] for one in earlier[:1]),
            known=names,
        )
        return send_set(self.source.host, self.target.host, replace(wish, **changes))


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    pair = Pair(machine(tmp_path, "a"), machine(tmp_path, "b"))
    pair.source.write("tank/web", "first content of the disk " * 50)
    return pair


def test_a_chain_goes_on_and_keeps_only_its_base_on_the_disk(pair: Pair) -> None:
    first = pair.send(1)
    pair.source.write("tank/web", "second")
    second = pair.send(2, first)
    pair.source.write("tank/web", "third")
    third = pair.send(3, second, first)

    assert [one.full_reason for one in (first, second, third)] == ["first_backup", "", ""]
    assert {one.place.partition("@")[0] for one in (first, second, third)} == {"tank/copies/web-1"}
    assert pair.target.names()["tank/copies/web-1"] == ["bs-1", "bs-2", "bs-3"]
    # Of what is no base any more, a bookmark is left.
    assert (pair.source.names()["tank/web"], pair.source.names("bookmarks")["tank/web"]) == (
        ["bs-2", "bs-3"],
        ["bs-1"],
    )
    # The newest two are gone on the target: the bookmark is base enough.
    for one in (third, second):
        assert remove_set(pair.target.host, one.place, disk=DISK) and not remove_set(
            pair.target.host, one.place, disk=DISK
        )
    fourth = pair.send(4, first)
    assert (fourth.place, fourth.full_reason) == ("tank/copies/web-1@bs-4", "")
    for one in (first, fourth):
        remove_set(pair.target.host, one.place, disk=DISK)
    assert list(pair.target.names()) == ["tank", "tank/copies"]


@pytest.mark.case("DP-26")
@pytest.mark.parametrize("loss", ["destroyed", "replaced", "target changed", "target rolled back"])
def test_a_lost_base_begins_a_new_chain_and_leaves_the_old_one(pair: Pair, loss: str) -> None:
    first = pair.send(1)
    for side, gone in ((pair.source, loss in {"destroyed", "replaced"}), (pair.target, loss == "target rolled back")):
        sets = side.state["sets"]
        if gone:
            sets["tank/web" if side is pair.source else "tank/copies/web-1"]["snapshots"].clear()
            side.change(sets=sets)
    if loss == "replaced":
        pair.source.host.snapshot("tank/web", "bs-1", disk="another disk")
    if loss == "target changed":
        pair.target.write("tank/copies/web-1", "somebody mounted it")
    before = pair.target.state["sets"]["tank/copies/web-1"]

    second = pair.send(2, first)

    assert second.place == "tank/copies/web-2@bs-2"
    assert second.full_reason == ("target_changed" if loss == "target changed" else "base_lost")
    assert pair.target.state["sets"]["tank/copies/web-1"] == before
    assert "-F" not in pair.target.state["calls"]


def test_two_definitions_and_strangers_keep_their_snapshots(pair: Pair) -> None:
    sets = pair.source.state["sets"]
    stranger = {"guid": "7", "txg": 0, "content": "", "props": {}, "holds": []}
    sets["tank/web"]["snapshots"] = {"bs-stranger": stranger, "daily": stranger}
    pair.source.change(sets=sets)
    first = pair.send(1)
    other = pair.send(2, kept=frozenset({"bs-1"}), known=frozenset({"bs-1"}), chain="tank/copies/other-2")

    again = pair.send(3, first, kept=frozenset({"bs-1", "bs-2"}), known=frozenset({"bs-1", "bs-2"}))

    assert (again.full_reason, other.full_reason) == ("", "first_backup")
    removed = forget_points(pair.source.host, "tank/web", disk=DISK, kept=frozenset(), known=frozenset())
    assert sorted(removed) == ["bs-1", "bs-2", "bs-3"]
    assert pair.source.names()["tank/web"] == ["bs-stranger", "daily"]


@pytest.mark.case("DP-27")
def test_a_cut_stream_is_gone_on_with_and_a_stale_one_forgotten(pair: Pair) -> None:
    pair.source.change(faults={"send": "cut"})
    first = pair.send(1)

    assert pair.target.content("tank/copies/web-1") == pair.source.content("tank/web")
    assert pair.target.state["calls"].count("receive") == 2
    # An attempt that was killed left half a stream of another backup.
    pair.source.write("tank/web", "second " * 40)
    pair.source.host.snapshot("tank/web", "bs-2", disk=DISK)
    whole = subprocess.run(pair.source.host.command("send", "-i", "@bs-1", "tank/web@bs-2"), capture_output=True).stdout
    receive = pair.target.host.command("receive", "-s", "-u", "tank/copies/web-1")
    assert subprocess.run(receive, input=whole[:-40], capture_output=True).returncode == 1
    assert pair.target.host.resume_token("tank/copies/web-1")

    third = pair.send(3, first)
    assert third.full_reason == "" and pair.target.content("tank/copies/web-1") == "second " * 40
    assert pair.source.names()["tank/web"] == ["bs-1", "bs-3"]


def test_an_old_program_does_the_same_without_what_it_lacks(tmp_path: Path) -> None:
    pair = Pair(*(machine(tmp_path, name, modern=False, kind=Host) for name in "ab"))
    pair.source.write("tank/web", "one " * 30)
    first = pair.send(1)
    pair.source.write("tank/web", "two " * 30)
    second = pair.send(2, first)
    pair.source.change(faults={"send": "cut"})
    with pytest.raises((StreamCutError, ZfsError)):
        pair.send(3, second, first)

    assert (second.full_reason, pair.source.host.abilities.resumes) == ("", False)
    assert pair.target.names()["tank/copies/web-1"] == ["bs-1", "bs-2"]
    assert pair.source.names()["tank/web"] == ["bs-2"]


def calls_of(pair: Pair, act: Any) -> list[tuple[str, str]]:
    """Which side calls what, once each, in the course of `act`."""
    for side in (pair.source, pair.target):
        side.change(calls=[])
    act()
    return sorted(
        {(name, verb) for name, side in (("source", pair.source), ("target", pair.target))
         for verb in side.state["calls"] if verb != "-?"}
    )  # fmt: skip


def test_a_fault_at_each_call_leaves_nothing_and_destroys_nothing(tmp_path: Path) -> None:
    pair = Pair(machine(tmp_path, "a"), machine(tmp_path, "b"))
    pair.source.write("tank/web", "first " * 30)
    first = pair.send(1)
    pair.source.write("tank/web", "second " * 30)
    good = {name: getattr(pair, name).state["sets"] for name in ("source", "target")}

    def reset() -> None:
        for name, sets in good.items():
            getattr(pair, name).change(sets=sets, faults={})

    for earlier in ((first,), ()):
        options = {} if earlier else {"kept": frozenset({"bs-1"}), "known": frozenset({"bs-1"})}
        act = partial(pair.send, 2, *earlier, **options)
        for name, verb in calls_of(pair, act):
            reset()
            getattr(pair, name).change(faults={verb: "fail"})
            with suppress(DriverError):
                act()
            found = pair.target.names()
            assert "bs-1" in found["tank/copies/web-1"] and "bs-1" in pair.source.names()["tank/web"], (name, verb)
            if pair.source.names()["tank/web"] == ["bs-1", "bs-2"] and "bs-2" not in str(found):
                # What undoes failed itself: the next run tidies.
                again = pair.send(4, first)
                assert again.full_reason == "" and pair.source.names()["tank/web"] == ["bs-1", "bs-4"], (name, verb)
        reset()


def test_a_restore_swaps_and_undoes_at_each_fault(tmp_path: Path) -> None:
    pair = Pair(machine(tmp_path, "a"), machine(tmp_path, "b"))
    pair.source.write("tank/web", "good content")
    first = pair.send(1)
    pair.source.write("tank/web", "broken later")
    wish = SwapWish("tank/web", DISK, "job1")
    good = pair.source.state["sets"]

    def restore() -> None:
        restore_set(pair.target.host, first.place, pair.source.host, wish)

    verbs = calls_of(pair, restore)
    assert pair.source.content("tank/web") == "good content" and list(pair.source.state["sets"]) == ["tank", "tank/web"]
    # What was restored is the base of the next backup.
    assert pair.send(2, first).full_reason == ""
    for side_name, verb in verbs:
        pair.source.change(sets=good, faults={})
        side = getattr(pair, side_name)
        side.change(faults={verb: "fail"})
        try:
            restore()
        except DriverError:
            assert pair.source.content("tank/web") == "broken later", verb
        side.change(faults={})
        restore()
        assert pair.source.content("tank/web") == "good content", verb
        assert set(pair.source.state["sets"]) <= {"tank", "tank/web", "tank/web-before-job1"}, verb
    pair.source.change(sets={**good, "tank/web/child": fake_zfs.new_set()})
    with pytest.raises(DriverError, match="below"):
        restore()


def test_a_full_pool_is_told_before_anything_is_sent(pair: Pair) -> None:
    pair.target.change(available=100)

    with pytest.raises(DiskFullError, match="100 bytes free"):
        pair.send(1)

    assert "receive" not in pair.target.state["calls"] and pair.source.names()["tank/web"] == []


def test_a_cancel_leaves_nothing(pair: Pair) -> None:
    pair.source.write("tank/web", "more than one step " * 30_000)
    told: list[int] = []
    wish = SendWish(source="tank/web", disk=DISK, snapshot="bs-1", chain="tank/copies/web-1")
    with pytest.raises(CanceledError):
        send_set(
            pair.source.host, pair.target.host, wish, tell=lambda done, _: told.append(done), cancel=lambda: bool(told)
        )

    assert pair.source.names()["tank/web"] == [] and "tank/copies/web-1" not in pair.target.names()


@pytest.mark.parametrize("name", ["daily", "bs-1/../x", "bs-a@b", "-r", "bs-x;ls"])
def test_only_snapshots_of_ours_are_touched(pair: Pair, name: str) -> None:
    for act in (pair.source.host.destroy_own, pair.source.host.release, pair.source.host.bookmark):
        with pytest.raises(ZfsError):
            act("tank/web", name)
    with pytest.raises(ZfsError, match="left alone"):
        pair.source.host.destroy_dataset("tank/web", disk=DISK)
    assert "destroy" not in pair.source.state["calls"]


def test_errors_are_told_apart() -> None:
    host = Host(("ssh", "host"), name="host")
    assert host.command("list", "tank/a b") == ["ssh", "host", "zfs list 'tank/a b'"]
    assert host.error("Host key verification failed.", 255).code == "host_unreachable"
    assert isinstance(host.error("destination x has been modified", 1), ZfsModifiedError)
    assert host.error("cannot receive: out of space", 1).code == "no_space"
    assert host.error("cannot snapshot: permission denied", 1).code == "zfs_denied"
