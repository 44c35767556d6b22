"""What is received does nothing on its node; what a restore brings back; and what programs that were killed leave."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import pytest

from agents.drivers import zfs_sets
from agents.drivers.base import DiskBusyError, DriverError
from agents.drivers.zfs_commands import OWNER, UNFINISHED, Host, StreamCutError, ZfsDeniedError
from agents.drivers.zfs_head import HEAD_BYTES, Head, StreamRefusedError, split_head
from agents.drivers.zfs_sets import drop_unfinished, finish_set
from agents.drivers.zfs_swap import SwapWish, restore_set, settle_swap, swap_in
from agents.program.zfs_gate import check
from tests.copies.quick_zfs import machine
from tests.copies.test_zfs_sets import DISK, Pair

CHAIN = "tank/copies/web-1"
HOSTILE = {"mountpoint": "/etc", "canmount": "on", "sharenfs": "rw=*", "setuid": "on", "exec": "on", "devices": "on"}


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    pair = Pair(machine(tmp_path, "a"), machine(tmp_path, "b"))
    pair.source.write("tank/web", "content " * 50)
    return pair


@pytest.mark.case("IN-15")
def test_a_stream_with_properties_is_refused_before_the_receiver_has_a_byte(pair: Pair) -> None:
    pair.source.write("tank/web", "content", **HOSTILE)
    pair.source.change(faults={"send": "package"})

    with pytest.raises(StreamRefusedError, match="Nothing was received"):
        pair.send(1)

    assert "receive" not in pair.target.state["calls"] and CHAIN not in pair.target.names()
    assert pair.source.names()["tank/web"] == []


@pytest.mark.case("IN-15")
@pytest.mark.parametrize("kind", ["filesystem", "volume"])
def test_what_is_received_is_never_mounted_shared_or_run(pair: Pair, kind: str) -> None:
    pair.source.write("tank/web", "content", type=kind, **({} if kind == "volume" else HOSTILE))

    first = pair.send(1)

    props = pair.target.props(CHAIN)
    safe = {name: props.get(name) for name in ("canmount", "mountpoint", "sharenfs", "exec", "setuid", "devices")}
    if kind == "volume":
        assert set(safe.values()) == {None} and (props["volmode"], props["snapdev"]) == ("none", "hidden")
    else:
        assert set(safe.values()) == {"off", "none"} and props["mountpoint"] == "none"
    assert (props["readonly"], props[OWNER], props[UNFINISHED]) == ("on", DISK, "bs-1")
    for _ in range(2):
        finish_set(pair.target.host, first.place)
    assert UNFINISHED not in pair.target.props(CHAIN)
    pair.target.change(denied="readonly")
    with pytest.raises(ZfsDeniedError, match="readonly"):
        pair.send(2, first)
    assert pair.target.names()[CHAIN] == ["bs-1"] and UNFINISHED not in pair.target.props(CHAIN)


@pytest.mark.parametrize("cut_at", [0, 100, HEAD_BYTES - 1])
def test_half_a_first_record_is_a_cut_stream(cut_at: int) -> None:
    assert split_head(iter([b"x" * cut_at] if cut_at else [])) == (None, b"x" * cut_at)


@pytest.mark.parametrize(("order", "version", "kind"), [("<", 1, 2), (">", 1, 3), ("<", 2, 2), ("<", 1, 9)])
def test_the_first_record_says_what_the_stream_is(order: str, version: int, kind: int) -> None:
    data = struct.pack(f"{order}8xQQQI", 0x2F5BACBAC, version | 1 << 17, 0, kind).ljust(HEAD_BYTES, b"\0") + b"rest"
    steps = iter([data[:20], data[20:], b"more"])
    if (version, kind) in {(1, 2), (1, 3)}:
        assert split_head(steps) == (Head(is_volume=kind == 3), data) and next(steps) == b"more"
        return
    with pytest.raises(StreamRefusedError):
        split_head(steps)
    with pytest.raises(StreamRefusedError, match="no stream"):
        split_head(iter([b"\0" * 400]))


def test_a_restore_brings_back_what_was_set_and_takes_nothing_risky_from_the_stream(pair: Pair) -> None:
    own = {"quota": "1000000", "mountpoint": "/srv/web", "compression": "zstd", "org.example:note": "ours"}
    pair.source.write("tank/web", "good", **own, recordsize="1048576")
    first = pair.send(1)
    # What counts is what is set when it is restored.
    pair.source.write("tank/web", "bad", recordsize="16384")
    lines: list[tuple[str, ...]] = []
    real = type(pair.source.host).start

    def start(host: Host, *arguments: str, reads: bool = False) -> object:
        lines.append(arguments)
        return real(host, *arguments, reads=reads)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(pair.source.host), "start", start)
        restore_set(pair.target.host, first.place, pair.source.host, SwapWish("tank/web", DISK, "abc1"))

    props = {name: value for name, value in pair.source.props("tank/web").items() if name != "encryption"}
    assert props == {**own, "recordsize": "16384"} and pair.source.content("tank/web") == "good"
    received = next(line for line in lines if line[0] == "receive")
    excluded = {name for option, name in pairwise(received) if option == "-x"}
    assert excluded == {"canmount", "sharenfs", "sharesmb", "exec", "setuid", "devices"}


def test_a_new_dataset_is_ours_and_never_one_that_is_there(pair: Pair) -> None:
    first = pair.send(1)
    wish = SwapWish("tank/new", "disk-2", "abc2", create=True)

    restore_set(pair.target.host, first.place, pair.source.host, wish)

    assert pair.source.content("tank/new") == "content " * 50 and pair.source.props("tank/new")[OWNER] == "disk-2"
    # The same job again, whose worker was killed before it could tell: what it made is made anew.
    restore_set(pair.target.host, first.place, pair.source.host, wish)
    # A sweep after the job was given up.
    assert settle_swap(pair.source.host, wish) and not settle_swap(pair.source.host, wish)
    assert "tank/new" not in pair.source.names()
    pair.source.write("tank/new", "somebody else's")
    with pytest.raises(DiskBusyError, match="already"):
        restore_set(pair.target.host, first.place, pair.source.host, wish)
    assert not settle_swap(pair.source.host, wish) and pair.source.content("tank/new") == "somebody else's"
    # A child of a marked dataset has the mark only from above: it is not ours.
    pair.source.write("tank/ours", "", **{OWNER: "disk-3"})
    pair.source.write("tank/ours/child", "a person's")
    with pytest.raises(DriverError, match="left alone"):
        pair.source.host.destroy_dataset("tank/ours/child", disk="disk-3")


@pytest.mark.parametrize("killed", ["beside", "swapping", "swapped"])
def test_a_restore_that_was_killed_is_settled(pair: Pair, killed: str) -> None:
    first = pair.send(1)
    pair.source.write("tank/web", "later")
    host, wish = pair.source.host, SwapWish("tank/web", DISK, "abc3")
    steps = pair.target.host.start("send", first.place).stdout
    assert steps is not None
    swap_in(host, SwapWish("tank/web-new-abc3", DISK, "abc3"), iter([steps.read()]))
    host.set("tank/web-new-abc3", OWNER, "abc3")
    if killed != "beside":
        host.rename("tank/web", "tank/web-before-abc3")
    if killed == "swapped":
        host.rename("tank/web-new-abc3", "tank/web")

    assert settle_swap(host, wish) and not settle_swap(host, wish)

    assert pair.source.content("tank/web") == ("content " * 50 if killed == "swapped" else "later")
    assert set(pair.source.state["sets"]) == {"tank", "tank/web"} and OWNER not in pair.source.props("tank/web")


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("is_whole", [True, False])
def test_what_a_killed_backup_left_is_told_from_what_counts(pair: Pair, is_first: bool, is_whole: bool) -> None:
    """Killed while it was received, or before the control plane was told of it."""
    earlier = [] if is_first else [pair.send(7)]
    for one in earlier:
        finish_set(pair.target.host, one.place)
    pair.source.write("tank/web", "second " * 60)
    with pytest.MonkeyPatch.context() as patched:
        if not is_whole:
            patched.setattr(zfs_sets, "MOST_RESUMES", 0)
            patched.setattr(zfs_sets, "_undo", lambda *_: None)
            pair.source.change(faults={"send": "cut"})
            with pytest.raises(StreamCutError):
                pair.send(1, *earlier)
        else:
            pair.send(1, *earlier)
    chain = CHAIN if is_first else "tank/copies/web-7"
    host = pair.target.host
    assert host.own_values_below("tank", UNFINISHED) == {chain: "bs-1"}

    assert drop_unfinished(host, chain, known=frozenset({"bs-1"})) == ""
    if not is_first:
        # The next backup does it by itself, and goes on from the base.
        assert pair.send(2, *earlier).full_reason == ""
        assert pair.target.names()[chain] == ["bs-2", "bs-7"]
        return
    assert drop_unfinished(host, chain, known=frozenset()) == "bs-1"
    assert chain not in pair.target.names()


@pytest.mark.parametrize(
    "line",
    [
        "zfs receive -u tank/vms/web",
        "zfs receive -s -u tank/vms/web-new-1",
        "zfs receive -u -o mountpoint=/etc tank/vms/web-new-1",
        "zfs receive -u -o setuid=on tank/vms/web-new-1",
        "zfs receive -u -o backupsite:unfinished=x tank/vms/web-new-1",
        "zfs receive -u -o quota=5 tank/vms/gone-new-1",
        "zfs receive -u -x quota tank/vms/web-new-1",
        "zfs receive -F tank/vms/web-new-1",
    ],
)
def test_the_forced_command_sets_only_what_the_dataset_has(tmp_path: Path, line: str) -> None:
    made = machine(tmp_path, "a")
    made.write("tank/vms/web", "", quota="5", mountpoint="/srv/web")
    program = made.host.program
    good = f"{program} receive -u -o quota=5 -o mountpoint=/srv/web -o {OWNER}=ab-1 -x setuid tank/vms/web-new-1"

    assert check(good, "tank/vms", restore=True, zfs=program)[-1] == "tank/vms/web-new-1"

    with pytest.raises(ValueError):
        check(line.replace("zfs ", f"{program} ", 1), "tank/vms", restore=True, zfs=program)
