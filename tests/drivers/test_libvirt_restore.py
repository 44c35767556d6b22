"""Restoring to a disk of a libvirt server: what is refused, what is kept of before, what the next backup does."""

from __future__ import annotations

import re
import subprocess

import pytest

from agents.drivers.attaching import CannotAttachError
from agents.drivers.base import POINT_PREFIX, DiskBusyError, DiskTooSmallError, ReadWish, WriteWish
from agents.drivers.domains import ConfigurationError, ServerExistsError, configuration_for
from agents.drivers.holding import standing_for
from agents.drivers.safety import NO_SAFETY_POINT
from engine.targets import SparseTarget
from tests.drivers.libvirt_lab import Lab

MIB = 1024 * 1024
SIZE = 8 * MIB
ONE, TWO, THREE, SAFE = (f"{POINT_PREFIX}{name}" for name in ("one", "two", "three", "safe"))


def _read(lab: Lab, server: str, point: str, base: str | None = None) -> str:
    kept = [name for name in (base, SAFE) if name]
    with lab.driver.open_sources(ReadWish([lab.wish(server, "a.qcow2", base, kept)], point)) as [disk]:
        return disk.facts.full_reason


@pytest.mark.case("RS-01", "RS-02", "RS-04")
def test_a_restore_is_refused_or_complete(lab: Lab) -> None:
    path = lab.disk("a.qcow2", SIZE)
    server = lab.server("one", ["a.qcow2"])
    lab.start("one")
    lab.guest_writes("one", "write -P 1 0 2M", "write -P 2 4M 1M")
    _read(lab, server, ONE)
    address = lab.wish(server, "a.qcow2").address

    with pytest.raises(DiskBusyError, match="running"), lab.driver.open_target(WriteWish(address, SIZE)):
        pass
    lab.virsh("managedsave", "one", "--paused", check=False)
    if lab.virsh("domstate", "one") == "shut off":
        with pytest.raises(DiskBusyError, match="saved state"), lab.driver.open_target(WriteWish(address, SIZE)):
            pass
        lab.virsh("managedsave-remove", "one")
    else:
        lab.stop("one")
    with pytest.raises(DiskTooSmallError, match="larger"), lab.driver.open_target(WriteWish(address, SIZE + 512)):
        pass
    used = subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert used.stdin and used.stdout
    used.stdin.write("length\n")
    used.stdin.flush()
    while "MiB" not in used.stdout.readline():
        pass
    with pytest.raises(DiskBusyError, match="in use"), lab.driver.open_target(WriteWish(address, SIZE)):
        pass
    used.communicate("quit\n")
    before = lab.content("a.qcow2")
    assert lab.traces("one")["points"] == []  # a restore that began took them, whatever became of it

    _read(lab, server, ONE)
    with lab.driver.open_target(WriteWish(address, SIZE, safety_point=SAFE)) as opened:
        assert isinstance(opened.target, SparseTarget)
        assert (opened.target.size_bytes, opened.facts.safety_point) == (SIZE, SAFE)
        assert opened.target.is_hole(6 * MIB, MIB) and not opened.target.is_hole(0, MIB)
        assert opened.target.read(4 * MIB, 4) == b"\2\2\2\2"
        opened.target.write(MIB, b"new")
        opened.target.zero(4 * MIB, MIB)
        opened.target.flush()

    expected = bytearray(before)
    expected[MIB : MIB + 3] = b"new"
    expected[4 * MIB : 5 * MIB] = bytes(MIB)
    assert lab.content("a.qcow2") == expected
    assert _read(lab, server, TWO, ONE) == "point_missing"
    assert _read(lab, server, ONE, TWO) == ""
    # What was there before can be had again, once no point stands against it; then it goes with the next sweep.
    lab.driver.forget([lab.wish(server, "a.qcow2", kept=[SAFE])])
    subprocess.run(["qemu-img", "snapshot", "-a", SAFE, path], check=True)
    assert lab.content("a.qcow2") == before
    assert lab.driver.forget([lab.wish(server, "a.qcow2")]) == [SAFE]


def test_the_points_of_other_disks_survive_a_restore(lab: Lab) -> None:
    names = ("a.qcow2", "b.qcow2")
    for name in names:
        lab.disk(name, SIZE)
    server = lab.server("one", names)
    lab.start("one")
    for point, base in ((ONE, None), (TWO, ONE)):
        with lab.driver.open_sources(ReadWish([lab.wish(server, name, base, [ONE]) for name in names], point)):
            pass
    lab.guest_writes("one", "write -P 2 2M 64k", disk=1)
    lab.stop("one")

    with lab.driver.open_target(WriteWish(lab.wish(server, "a.qcow2").address, SIZE)) as opened:
        opened.target.write(0, b"restored")
        opened.target.flush()

    for runs in (False, True):
        if runs:
            lab.start("one")
        wishes = [lab.wish(server, name, TWO, [ONE, TWO]) for name in names]
        with lab.driver.open_sources(ReadWish(wishes, THREE)) as [restored, other]:
            assert (restored.facts.full_reason, other.facts.full_reason) == ("point_missing", "")
            assert [extent.offset for extent in other.source.changed_extents() or []] == [2 * MIB]
        assert lab.driver.forget([lab.wish(server, name, kept=[ONE, TWO]) for name in names]) == [THREE]
    assert lab.driver.forget([lab.wish(server, name) for name in names]) == [ONE, TWO]
    lab.stop("one")
    assert not any(lab.traces("one")["bitmaps"].values())  # type: ignore[attr-defined]  # a mapping


@pytest.mark.parametrize("name", ["new.qcow2", "new.raw"])
def test_a_new_disk_is_made_once_and_never_over_another(lab: Lab, name: str) -> None:
    wish = WriteWish(lab.wish("", name).address, SIZE, create=True)
    with lab.driver.open_target(wish) as opened:
        opened.target.write(MIB, b"x" * 1000)
        opened.target.flush()

    with pytest.raises(DiskBusyError, match="already"), lab.driver.open_target(wish):
        pass
    # As a killed restore leaves it; the next one onto the same disk goes on.
    left = lab.jobs / standing_for(str(lab.folder / name))
    left.mkdir()
    (left / "target.socket").touch()
    (left / "target.pid").write_text("1\n")
    with lab.driver.open_target(WriteWish(wish.address, SIZE)):
        pass
    assert not left.exists()
    content = lab.content(name)
    assert (len(content), content[MIB : MIB + 1000], content.count(b"x")) == (SIZE, b"x" * 1000, 1000)
    assert [path.name for path in lab.folder.iterdir()] == [name]
    assert (lab.folder / name).stat().st_mode & 0o077 == 0


def test_a_raw_disk_says_when_nothing_could_be_kept(lab: Lab) -> None:
    """Or keeps a copy that shares blocks, where the file system has these."""
    lab.disk("a.raw", SIZE)
    server = lab.server("one", ["a.raw"])
    wish = lab.wish(server, "a.raw")
    with lab.driver.open_target(WriteWish(wish.address, SIZE, safety_point=SAFE)) as opened:
        facts = opened.facts
        opened.target.write(0, b"new")

    copy = lab.folder / f"a.raw.{SAFE}"
    assert copy.exists() == bool(facts.safety_point)
    assert [warned.code for warned in facts.warnings] == ([] if facts.safety_point else [NO_SAFETY_POINT])
    assert lab.driver.forget([wish]) == ([SAFE] if facts.safety_point else [])
    assert not copy.exists()


@pytest.mark.parametrize(("bus", "target", "free"), [("virtio", "vda", "vdc"), ("scsi", "sda", "sdb")])
def test_a_new_disk_is_attached_to_a_server_that_is_off(lab: Lab, bus: str, target: str, free: str) -> None:
    for name in ("a.qcow2", "b.raw", "new.qcow2"):
        lab.disk(name, SIZE)
    second = f"<disk type='file'><source file='{lab.folder}/b.raw'/><target dev='vdb' bus='virtio'/></disk>"
    server = lab.server("one", ["a.qcow2"], extra=second if bus == "virtio" else "<controller type='scsi'/>")
    told = lab.virsh("dumpxml", server, "--inactive").replace("dev='vda' bus='virtio'", f"dev='{target}' bus='{bus}'")
    lab.define(re.sub(r"<address type='pci'.*/>\s*</disk>", "</disk>", told))
    new = str(lab.folder / "new.qcow2")
    lab.start("one")

    with pytest.raises(CannotAttachError, match=f"virsh attach-disk {server} {new} {free} ") as refused:
        lab.driver.attach(server, new)
    if bus == "scsi":
        # What a person is told to do does it, while the server runs.
        lab.virsh(*refused.value.message.split(": virsh ")[1].split())
    lab.stop("one")

    assert lab.driver.attach(server, new) == free == lab.driver.attach(server, new)
    lab.start("one")
    with lab.driver.open_sources(ReadWish([lab.wish(server, "new.qcow2")], ONE)) as [disk]:
        assert disk.source.size_bytes == SIZE


def test_a_server_is_made_anew_of_its_configuration(lab: Lab) -> None:
    lab.disk("a.qcow2", SIZE)
    lab.disk("b.qcow2", SIZE)
    extra = "<interface type='user'><mac address='52:54:00:11:22:33'/></interface>"
    server = lab.server("one", ["a.qcow2"], extra=extra)
    with lab.driver.open_sources(ReadWish([lab.wish(server, "a.qcow2")], "")) as [disk]:
        configuration = disk.facts.configuration
    disks = {str(lab.folder / "a.qcow2"): str(lab.folder / "b.qcow2")}

    made = lab.driver.define(configuration, name="two", disks=disks)

    told = lab.virsh("dumpxml", "two")
    assert made != server and made in told
    assert "52:54:00:11:22:33" not in told and "<mac address=" in told
    assert "b.qcow2" in told and "a.qcow2" not in told
    lab.start("two")
    raw = configuration_for(configuration, name="three", disks={str(lab.folder / "a.qcow2"): "/new/b.raw"})
    assert 'type="raw"' in raw and "qcow2" not in raw
    before = lab.virsh("dumpxml", "one", "--inactive")
    for name in ("one", "two"):
        with pytest.raises(ServerExistsError, match="another name"):
            lab.driver.define(configuration, name=name, disks=disks)
    assert lab.virsh("dumpxml", "one", "--inactive") == before


@pytest.mark.case("IN-04")
@pytest.mark.parametrize(
    ("text", "disks"),
    [
        ("<!DOCTYPE d [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><domain><name>&e;</name><devices/></domain>", {}),
        ("<domain", {}),
        ("<network><devices/></network>", {}),
        ("<domain><devices><disk><target dev='vda'/></disk></devices></domain>", {}),
        ("<domain><devices/></domain>", {"/old": "/a"}),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(text: str, disks: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        configuration_for(text, name="new", disks=disks)
