"""The libvirt driver against a real libvirt: changed blocks, one point over all disks, and when everything is read."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from agents.drivers.base import (
    POINT_PREFIX,
    DiskBusyError,
    DiskChangedError,
    DiskFullError,
    DiskMissingError,
    DiskUnreadableError,
    DriverError,
    OpenedDisk,
    ReadWish,
    SourceFacts,
)
from agents.drivers.checkpoints import Checkpoint, image_marks, why_lost
from agents.drivers.domains import DomainDisk
from agents.drivers.read_plans import DiskPlan, refuse_without_room
from tests.drivers.libvirt_lab import Lab

MIB = 1024 * 1024
SIZE = 32 * MIB
BLOCK = 65536
ONE, TWO, THREE, FOUR = (f"{POINT_PREFIX}{number}" for number in range(1, 5))


class Copy:
    """Backups of one server's disks, put together as the engine does it: what changed over what was there."""

    def __init__(self, lab: Lab, server: str, *names: str) -> None:
        self.lab, self.server, self.names = lab, server, names
        self.images = {name: bytearray() for name in names}
        self.moved: dict[str, int] = {}
        self.facts: list[SourceFacts] = []

    def take(self, point: str, base: str | None = None, *, meanwhile: Mapping[int, str] | None = None) -> SourceFacts:
        """Facts of the first disk. `meanwhile`: what the guest writes to which disk when the point is made."""
        kept = [base] if base else []
        wish = ReadWish([self.lab.wish(self.server, name, base, kept) for name in self.names], point)
        with self.lab.driver.open_sources(wish) as opened:
            for disk, command in (meanwhile or {}).items():
                self.lab.guest_writes(self.server, command, disk=disk)
            for name, disk in zip(self.names, opened, strict=True):
                self._add(name, disk)
            self.facts = [disk.facts for disk in opened]
            return opened[0].facts

    def reasons(self, point: str, base: str) -> list[str]:
        self.take(point, base)
        assert {facts.point for facts in self.facts} == {point}
        return [facts.full_reason for facts in self.facts]

    def _add(self, name: str, disk: OpenedDisk) -> None:
        source, image = disk.source, self.images[name]
        changed = source.changed_extents()
        if changed is None:
            image[:] = bytes(source.size_bytes)
        parts = [*(source.extents() if changed is None else changed)]
        for extent in parts:
            image[extent.offset : extent.offset + extent.length] = source.read(extent.offset, extent.length)
        source.check_unchanged()
        self.moved[name] = sum(extent.length for extent in parts)


def test_only_what_changed_is_read_and_all_disks_are_of_one_moment(lab: Lab) -> None:
    for name in ("a.qcow2", "b.qcow2", "c.raw"):
        lab.disk(name, SIZE)
    server = lab.server("one", ["a.qcow2", "b.qcow2", "c.raw"])
    copy = Copy(lab, server, "a.qcow2", "b.qcow2", "c.raw")
    lab.start("one")
    lab.virsh("checkpoint-create-as", "one", "of-somebody-else", "--diskspec", "vda")
    lab.guest_writes("one", "write -P 1 0 3M", "write -P 2 20M 64k")
    lab.guest_writes("one", "write -P 3 5M 1M", disk=2)
    before = lab.traces("one")

    # Full, and what is written while it is read belongs to the next one.
    late = {0: "write -P 9 0 64k", 1: "write -P 9 8M 128k", 2: "write -P 9 5M 64k"}
    facts = copy.take(ONE, meanwhile=late)
    assert (facts.point, facts.full_reason, facts.frozen) == (ONE, "", False)
    assert "geheim" not in facts.configuration and "<name>one</name>" in facts.configuration
    assert (copy.moved["a.qcow2"], copy.moved["b.qcow2"]) == (3 * MIB + BLOCK, 0)
    assert copy.images["a.qcow2"][:4] == b"\1\1\1\1" and copy.images["c.raw"][5 * MIB] == 3

    # Changed blocks, running; then shut off, and running once more.
    assert copy.take(TWO, ONE).full_reason == ""
    assert (copy.moved["a.qcow2"], copy.moved["b.qcow2"]) == (BLOCK, 2 * BLOCK)
    lab.stop("one")
    assert [bytes(copy.images[name]) for name in copy.names] == [lab.content(name) for name in copy.names]
    assert copy.take(THREE, TWO).full_reason == ""
    assert (copy.moved["a.qcow2"], copy.moved["c.raw"]) == (0, MIB + 4096)
    lab.start("one")
    lab.guest_writes("one", "write -z 20M 64k", "write -P 5 31M 1M")
    assert copy.take(FOUR, THREE).full_reason == ""
    assert copy.moved["a.qcow2"] == MIB + BLOCK

    after = lab.traces("one")
    assert after.pop("points") == [THREE, FOUR, "of-somebody-else"]
    assert after | {"points": ["of-somebody-else"]} == before
    lab.stop("one")
    assert [bytes(copy.images[name]) for name in copy.names] == [lab.content(name) for name in copy.names]


@pytest.mark.case("DP-23", "DP-24")
def test_what_cannot_be_known_is_read_in_full_and_the_next_one_is_right_again(lab: Lab) -> None:
    names = ("a.qcow2", "b.qcow2", "c.qcow2")
    for name in names:
        lab.disk(name, SIZE)
    copy = Copy(lab, lab.server("one", names), *names)
    lab.start("one")
    copy.take(ONE)

    # Grown while it runs, replaced by another file, grown while it is off.
    lab.virsh("blockresize", "one", "vda", f"{SIZE + MIB}B")
    lab.guest_writes("one", f"write -P 8 {SIZE} 64k")
    lab.stop("one")
    (lab.folder / "b.qcow2").unlink()
    lab.disk("b.qcow2", SIZE)
    subprocess.run(["qemu-img", "resize", "-q", lab.folder / "c.qcow2", str(SIZE + MIB)], check=True)
    assert copy.reasons(TWO, ONE) == ["disk_resized", "disk_replaced", "disk_resized"]

    lab.start("one")
    for disk in range(3):
        lab.guest_writes("one", "write -P 7 4M 64k", disk=disk)
    assert copy.reasons(THREE, TWO) == ["", "", ""]
    assert set(copy.moved.values()) == {BLOCK}

    # QEMU crashed: what it knew of changes is lost. Once found while it runs again, once while it is off.
    lab.kill("one")
    lab.start("one")
    assert copy.reasons(FOUR, THREE) == ["bitmap_lost"] * 3
    lab.guest_writes("one", "write -P 6 6M 64k")
    lab.kill("one")
    assert copy.reasons(ONE, FOUR) == ["bitmap_lost"] * 3

    # On another node after a migration, where libvirt never heard of the points.
    for name in lab.virsh("checkpoint-list", "one", "--name").split():
        lab.virsh("checkpoint-delete", "one", name, "--metadata")
    assert copy.reasons(TWO, ONE) == ["server_moved"] * 3
    assert copy.reasons(THREE, TWO) == ["", "", ""]

    # Removed by somebody who knows how, such as to revert the server.
    for name in lab.virsh("checkpoint-list", "one", "--name").split():
        lab.virsh("checkpoint-delete", "one", name, "--metadata")
        for image in names:
            lab.remove_bitmap(image, name)
    assert copy.reasons(FOUR, THREE) == ["point_missing"] * 3
    assert [bytes(copy.images[name]) for name in names] == [lab.content(name) for name in names]


def test_why_a_bitmap_is_lost_is_told_by_the_file(tmp_path: Path) -> None:
    image, layer, moved = (str(tmp_path / name) for name in ("a.qcow2", "layer.qcow2", "moved.qcow2"))
    for path in (image, layer, moved):
        Path(path).touch()
    disk = DomainDisk("vda", "qcow2", (image,))
    point = Checkpoint(ONE, {"vda": SIZE}, image_marks([disk]))

    found = [why_lost(DomainDisk("vda", "qcow2", chain), point) for chain in ((image,), (layer, image), (moved,))]

    assert found == ["bitmap_lost", "layer_added", "disk_replaced"]
    assert why_lost(disk, Checkpoint(ONE, {"vda": SIZE}, {})) == "bitmap_lost"


def test_qemu_refuses_to_revert_a_disk_that_has_points(lab: Lab) -> None:
    """What the driver relies on: nothing can go back in time under a bitmap that goes on."""
    path = lab.disk("a.qcow2", SIZE)
    copy = Copy(lab, lab.server("one", ["a.qcow2"]), "a.qcow2")
    subprocess.run(["qemu-img", "snapshot", "-c", "theirs", path], check=True)
    copy.take(ONE)

    done = subprocess.run(["qemu-img", "snapshot", "-a", "theirs", path], capture_output=True, text=True)

    assert done.returncode != 0 and "active dirty bitmaps" in done.stderr


def test_another_job_is_told_at_once_and_left_alone(lab: Lab) -> None:
    lab.disk("a.qcow2", SIZE)
    server = lab.server("one", ["a.qcow2"])
    lab.start("one")
    socket = lab.folder / "theirs.socket"
    job = lab.folder.parent / "job.xml"
    job.write_text(
        f"<domainbackup mode='pull'><server transport='unix' socket='{socket}'/><disks><disk name='vda' backup='yes' "
        f"type='file'><scratch file='{lab.folder}/theirs'/></disk></disks></domainbackup>"
    )
    lab.virsh("backup-begin", "one", str(job))
    wish, began = lab.wish(server, "a.qcow2"), time.monotonic()

    with pytest.raises(DiskBusyError, match="at work"), lab.driver.open_sources(ReadWish([wish], ONE)):
        pass
    assert lab.driver.forget([wish]) == []
    # libvirt itself would wait for 30 seconds for the other job.
    assert time.monotonic() - began < 25

    assert str(socket) in lab.virsh("backup-dumpxml", "one")
    lab.virsh("domjobabort", "one")
    with lab.driver.open_sources(ReadWish([wish], ONE)) as [opened]:
        for second in (lab.driver.open_sources(ReadWish([wish], TWO)),):
            with pytest.raises(DiskBusyError), second:
                pass
        lab.virsh("domjobabort", "one")
        with pytest.raises(DiskChangedError, match="ended the backup"):
            opened.source.check_unchanged()


def test_a_failed_backup_leaves_its_base_and_nothing_else(lab: Lab) -> None:
    lab.disk("a.qcow2", SIZE)
    server = lab.server("one", ["a.qcow2"])
    copy = Copy(lab, server, "a.qcow2")
    lab.start("one")
    copy.take(ONE)
    before = lab.traces("one")
    lab.guest_writes("one", "write -P 2 2M 64k")
    wish = lab.wish(server, "a.qcow2", ONE, [ONE])
    with pytest.raises(RuntimeError), lab.driver.open_sources(ReadWish([wish], TWO)):
        lab.guest_writes("one", "write -P 3 9M 64k")
        raise RuntimeError("on purpose")
    assert lab.traces("one") == before
    # A name that is taken is refused, and what has it stays.
    with pytest.raises(DriverError, match="already"), lab.driver.open_sources(ReadWish([wish], ONE)):
        pass
    with pytest.raises(DriverError, match="begins with"), lab.driver.open_sources(ReadWish([wish], "other")):
        pass
    assert lab.traces("one") == before

    copy.take(THREE, ONE)

    assert copy.moved["a.qcow2"] == 2 * BLOCK
    lab.stop("one")
    assert copy.images["a.qcow2"] == lab.content("a.qcow2")


def test_points_that_nobody_keeps_go_and_those_of_other_disks_stay(lab: Lab) -> None:
    for name in ("a.qcow2", "b.qcow2"):
        lab.disk(name, SIZE)
    server = lab.server("one", ["a.qcow2", "b.qcow2"])
    one, other, both = (Copy(lab, server, *names) for names in (["a.qcow2"], ["b.qcow2"], ["a.qcow2", "b.qcow2"]))
    lab.start("one")
    both.take(ONE)
    other.take(TWO)
    one.take(THREE)

    assert lab.virsh("checkpoint-list", "one", "--name").split() == [ONE, TWO, THREE]
    assert lab.driver.forget([lab.wish(server, "a.qcow2", kept=[THREE])]) == []
    wishes = [lab.wish(server, "a.qcow2", kept=[THREE]), lab.wish(server, "b.qcow2")]
    assert lab.driver.forget(wishes) == [ONE, TWO]
    lab.stop("one")
    wishes = [lab.wish(server, name) for name in ("a.qcow2", "b.qcow2")]
    assert lab.driver.forget(wishes) == [THREE]
    assert lab.driver.forget(wishes) == []
    assert not any(lab.traces("one")["bitmaps"].values())  # type: ignore[attr-defined]  # a mapping


def test_what_is_not_there_is_named(lab: Lab) -> None:
    lab.disk("a.qcow2", SIZE)
    lab.disk("b.qcow2", SIZE)
    server = lab.server("one", ["a.qcow2"])
    for wish, told in (
        (lab.wish("no-such-server", "a.qcow2"), "no-such-server is not on this node"),
        (lab.wish("--help", "a.qcow2"), "--help is not on this node"),
        (lab.wish("", "a.qcow2"), "no name"),
        (lab.wish(server, "b.qcow2"), "has no disk at"),
        (lab.wish(server, "../run/pid"), "leads out of its storage"),
    ):
        with pytest.raises(DiskMissingError, match=re.escape(told)), lab.driver.open_sources(ReadWish([wish], ONE)):
            pass
    assert lab.driver.forget([lab.wish("no-such-server", "a.qcow2")]) == []


def test_a_node_without_a_tool_says_which(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lab.driver.probe().usable
    with monkeypatch.context() as patched:
        patched.setenv("PATH", "/nowhere")
        assert "install libvirt-clients" in lab.driver.probe().reason
    assert shutil.which("virsh")
    gone = type(lab.driver)(lab.uri + ".gone").probe()
    assert not gone.usable and "connect" in gone.reason


def test_a_storage_that_a_guest_could_fill_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "a.qcow2"
    image.touch()
    free = shutil.disk_usage(tmp_path).free
    plan = DiskPlan(DomainDisk("vda", "qcow2", (str(image),)), free)
    refuse_without_room([plan])
    with pytest.raises(DiskFullError, match="Make room"):
        refuse_without_room([plan] * 1000)
    with pytest.raises(DiskUnreadableError, match="is no file"):
        refuse_without_room([DiskPlan(DomainDisk("vda", "raw", ("/dev/null",)), 0)])
