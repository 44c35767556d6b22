"""Driver `lvm` on programs with real state: points, what changed, room in the pool, restores. `make lab-lvm`: LVM."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.drivers.base import DiskAddress, DriverError, OpenedDisk, ReadWish, WriteWish
from agents.drivers.lvm_commands import Group
from agents.drivers.lvm_maps import external_origin
from agents.program.surveying import measure
from tests.drivers.fake_lvm import BLOCK
from tests.drivers.lvm_lab import GROUP, SIZE, Lab

ONE, TWO, THREE, SAFE = (f"backupsite-{name}" for name in ("1a", "2b", "3c", "before-4d"))


def _changed(disk: OpenedDisk) -> list[tuple[int, int]] | None:
    extents = disk.source.changed_extents()
    return None if extents is None else [(one.offset // BLOCK, one.length) for one in extents]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    yield Lab(tmp_path)


def _write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_a_second_backup_reads_what_changed_and_the_first_what_is_mapped(lab: Lab) -> None:
    path = lab.volume("web", b"x" * BLOCK * 3)
    [(first, content)] = lab.read(lab.wish("web"), point=ONE)
    assert content == path.read_bytes()
    assert sum(extent.length for extent in first.source.extents()) == 3 * BLOCK
    assert (first.facts.point, first.facts.full_reason, _changed(first)) == (ONE, "", None)
    _write(path, 2 * BLOCK, bytes(BLOCK))  # discarded
    _write(path, 7 * BLOCK - 10, b"y" * 20)
    _write(path, SIZE - 10, b"z" * 10)

    [(second, content)] = lab.read(lab.wish("web", ONE, ONE), point=TWO)

    assert content == path.read_bytes()
    assert _changed(second) == [(2, BLOCK), (6, 2 * BLOCK), (20, 4096)]
    assert (second.facts.point, second.facts.full_reason, second.facts.warnings) == (TWO, "", ())
    assert lab.names() == {"pool*", "web*", f"{ONE}.web", f"{TWO}.web"}
    assert lab.state["held"] == ""
    lab.read(lab.wish("web", TWO, TWO), point=THREE)
    assert lab.names() == {"pool*", "web*", f"{TWO}.web", f"{THREE}.web"}


def test_changes_are_those_that_a_comparison_finds(lab: Lab) -> None:
    choose = random.Random(6)
    path = lab.volume("web", choose.randbytes(9 * BLOCK))
    lab.read(lab.wish("web"), point=ONE)
    before = path.read_bytes()
    for _ in range(12):
        offset = choose.randrange(SIZE)
        _write(path, offset, choose.randbytes(choose.randrange(3 * BLOCK))[: SIZE - offset])

    [(disk, content)] = lab.read(lab.wish("web", ONE, ONE), point=TWO)
    found = bytearray(before)
    for extent in disk.source.changed_extents() or ():
        found[extent.offset : extent.offset + extent.length] = content[extent.offset : extent.offset + extent.length]

    assert bytes(found) == content == path.read_bytes()


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("gone", "point_missing"),
        ("resized", "disk_resized"),
        ("held", "changes_unknown"),
        ("tools", "changes_unknown"),
    ],
)
def test_everything_is_read_when_changes_are_not_known_and_the_chain_heals(lab: Lab, what: str, reason: str) -> None:
    path = lab.volume("web", b"x" * 3 * BLOCK)
    lab.read(lab.wish("web"), point=ONE)
    tool = lab.folder / "bin" / "thin_delta"
    if what == "gone":
        lab.driver.forget([lab.wish("web")])
    elif what == "resized":
        lab.change("web", size=SIZE + BLOCK)
        os.truncate(path, SIZE + BLOCK)
    elif what == "held":
        lab.change(held="77")
    else:
        tool.rename(lab.folder / "away")
        os.environ["PATH"] = f"{lab.folder / 'bin'}:/nowhere"  # put back by the fixture

    [(full, content)] = lab.read(lab.wish("web", ONE, ONE), point=TWO)

    assert (full.facts.full_reason, full.facts.point, _changed(full)) == (reason, TWO, None)
    assert content == path.read_bytes()
    if reason == "changes_unknown":
        assert [warning.code for warning in full.facts.warnings] == ["changes_unknown"]
    if what == "held":
        assert lab.state["held"] == "77"
        lab.change(held="")
    if what == "tools":
        assert "thin-provisioning-tools" in full.facts.warnings[0].message
        (lab.folder / "away").rename(tool)
    assert _changed(lab.read(lab.wish("web", TWO, TWO), point=THREE)[0][0]) == []


@pytest.mark.parametrize("pool", ["", "elsewhere"])
def test_what_a_clone_has_of_its_template_outside_of_the_pool_is_in_the_backup(lab: Lab, pool: str) -> None:
    for name, letter in (("template", b"t"), ("other", b"o")):
        lab.volume(name, letter * 9 * BLOCK)
        lab.change(name, pool=pool)
    path = lab.volume("web", b"t" * 9 * BLOCK)
    lab.volume("middle")
    lab.change("middle", origin="template")
    lab.change("web", origin="middle")
    _write(path, BLOCK, b"own")

    [(first, content)] = lab.read(lab.wish("web"), point=ONE)
    assert content == path.read_bytes() and first.facts.warnings == ()
    _write(path, 7 * BLOCK, b"y")
    [(second, content)] = lab.read(lab.wish("web", ONE, ONE), point=TWO)
    assert content == path.read_bytes() and _changed(second) == [(7, BLOCK)]

    # Made anew from another template: of neither block the pool tells a difference.
    lab.change(f"{TWO}.web", origin="template")
    path.write_bytes((b"o" * 9 * BLOCK).ljust(SIZE, b"\0"))
    lab.change("web", origin="other")
    [(third, content)] = lab.read(lab.wish("web", TWO, TWO), point=THREE)
    assert content == path.read_bytes()
    assert (third.facts.full_reason, _changed(third)) == ("point_missing", None)


def test_an_origin_that_cannot_be_looked_at_counts_as_outside_of_the_pool(lab: Lab) -> None:
    lab.volume("web", b"x")
    lab.change("web", origin="-gone")
    volumes = Group(GROUP, str(lab.folder / "dev")).volumes()

    assert external_origin(volumes, volumes["web"]) == "-gone"


@pytest.mark.parametrize(
    "device", ["", '<device dev_id="1" mapped_blocks="2">', '<device dev_id="7" mapped_blocks="1">']
)
def test_a_dump_that_does_not_tell_of_the_volume_is_never_taken_for_zeros(lab: Lab, device: str) -> None:
    path = lab.volume("web", b"x" * 3 * BLOCK)
    block = '<single_mapping origin_block="0" data_block="1" time="0"/>' if device else ""
    tool = lab.folder / "bin" / "thin_dump"
    tool.write_text(
        f"#!/bin/sh\ncat << END\n<superblock data_block_size='128'>\n{device}\n{block}\nEND\n".replace("'", '"')
    )

    [(full, content)] = lab.read(lab.wish("web"), point=ONE)

    assert content == path.read_bytes()
    assert [warning.code for warning in full.facts.warnings] == ["changes_unknown"]


def test_disks_of_one_server_are_taken_together_and_it_is_said(lab: Lab) -> None:
    for name in ("web", "data"):
        lab.volume(name, name.encode())

    first, second = lab.read(lab.wish("web"), lab.wish("data"), point=ONE, freeze=True)

    assert (first[1][:3], second[1][:4]) == (b"web", b"data")
    codes = [[warning.code for warning in disk.facts.warnings] for disk, _ in (first, second)]
    assert codes == [["not_one_moment", "freeze_failed"]] * 2
    assert not first[0].facts.frozen


def test_a_backup_that_fails_leaves_no_point_and_keeps_the_base(lab: Lab) -> None:
    lab.volume("web", b"x")
    lab.read(lab.wish("web"), point=ONE)

    with pytest.raises(RuntimeError), lab.driver.open_sources(ReadWish([lab.wish("web", ONE, ONE)], TWO)):
        assert lab.driver.forget([lab.wish("web")]) == []
        raise RuntimeError("on purpose")

    assert lab.names() == {"pool*", "web*", f"{ONE}.web"}


def test_leftovers_of_a_killed_job_are_swept_and_nothing_of_others(lab: Lab) -> None:
    lab.volume("web", b"x")
    for point in (ONE, TWO):
        lab.read(lab.wish("web", None, ONE), point=point)
    lab.volume("other-web")
    lab.read(lab.wish("other-web"), point=TWO)
    lab.change(f"{ONE}.web", active=True)
    os.symlink(lab.folder / "data" / f"{ONE}.web", lab.folder / "dev" / GROUP / f"{ONE}.web")

    assert lab.driver.forget([lab.wish("web", ONE)]) == [TWO]
    assert lab.driver.forget([lab.wish("web", ONE)]) == []
    assert lab.names() == {"pool*", "web*", "other-web*", f"{ONE}.web", f"{TWO}.other-web"}
    state = lab.state
    del state["volumes"]["web"]
    (lab.folder / "state.json").write_text(json.dumps(state))
    assert lab.driver.forget([lab.wish("web")]) == [ONE]


def test_a_restore_keeps_what_was_there_where_the_pool_has_room(lab: Lab) -> None:
    path = lab.volume("web", b"before")
    wish = WriteWish(lab.address("web"), SIZE, safety_point=SAFE)
    for _ in range(2):  # an attempt that was cut, and the next one
        with lab.driver.open_target(wish) as opened:
            opened.target.write(0, b"restored")
            opened.target.zero(BLOCK, 2 * BLOCK)
            opened.target.flush()
            assert (opened.facts.safety_point, opened.facts.warnings) == (SAFE, ())

    assert path.read_bytes()[:8] == b"restored"
    assert (lab.folder / "data" / f"{SAFE}.web").read_bytes()[:6] == b"before"
    assert lab.driver.forget([lab.wish("web", None, SAFE)]) == []
    assert lab.driver.forget([lab.wish("web")]) == [SAFE]
    lab.change(data_percent=96.0)
    with lab.driver.open_target(wish) as opened:
        assert [warning.code for warning in opened.facts.warnings] == ["no_safety_point"]


@pytest.mark.parametrize(
    ("change", "options", "code"),
    [
        ({"open": True}, {}, "disk_busy"),
        ({"pool": ""}, {}, "not_thin"),
        ({}, {"size_bytes": SIZE + 1}, "target_too_small"),
        ({}, {"create": True}, "disk_busy"),
        ({}, {"path": "none"}, "disk_missing"),
        ({}, {"path": "--help"}, "disk_missing"),
        ({}, {"path": f"{ONE}.web"}, "disk_missing"),
        ({}, {"storage_path": "/dev/other"}, "disk_missing"),
    ],
)
def test_what_cannot_be_restored_to_is_refused_untouched(
    lab: Lab, change: dict[str, Any], options: dict[str, Any], code: str
) -> None:
    path = lab.volume("web", b"before")
    lab.read(lab.wish("web"), point=ONE)
    lab.change("web", **change)
    address = DiskAddress(options.get("storage_path", f"/dev/{GROUP}"), options.get("path", "web"), SIZE)
    wish = WriteWish(address, options.get("size_bytes", SIZE), create="create" in options, safety_point=SAFE)
    before = (lab.names(), path.read_bytes())

    with pytest.raises(DriverError) as refused, lab.driver.open_target(wish):
        pass

    assert refused.value.code == code
    assert (lab.names(), path.read_bytes()) == before


def test_a_new_volume_is_a_thin_one_of_the_only_pool(lab: Lab) -> None:
    with lab.driver.open_target(WriteWish(lab.address("new"), SIZE, create=True, safety_point=SAFE)) as opened:
        opened.target.write(5, b"restored")
        assert opened.facts.safety_point == ""
        with pytest.raises(DriverError, match="another job"):
            lab.read(lab.wish("new"), point=ONE)

    assert lab.read(lab.wish("new"), point=ONE)[0][1].strip(b"\0") == b"restored"
    assert lab.names() == {"pool*", "new*", f"{ONE}.new"}


def test_the_survey_tells_the_room_of_the_pools(lab: Lab) -> None:
    found = measure(f"/dev/{GROUP}")

    assert (found.kind, found.total_bytes, found.problem) == ("lvm", 1 << 30, "")
    assert found.free_bytes == int((1 << 30) * 0.9)
    assert "not found" in measure("/dev/other").problem


def test_nothing_is_begun_in_a_pool_that_is_nearly_full(lab: Lab) -> None:
    lab.volume("web")
    lab.change(data_percent=95.5)

    with pytest.raises(DriverError, match="Make it larger") as reading:
        lab.read(lab.wish("web"), point=ONE)
    wish = WriteWish(lab.address("new"), SIZE, create=True)
    with pytest.raises(DriverError) as making, lab.driver.open_target(wish):
        pass

    assert reading.value.code == making.value.code == "no_space"
    assert lab.names() == {"pool*", "web*"}
