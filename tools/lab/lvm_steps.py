"""Runs inside of the guest of `make lab-lvm`: the driver `lvm` on real LVM, device-mapper and thin-provisioning-tools.

Each step goes on from what the one before left, says what it proves and how long it took; the first that fails ends it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ["PATH"] = "/usr/sbin:/sbin:/usr/bin:/bin"

from agents.drivers.base import DiskAddress, DiskWish, DriverError, OpenedDisk, ReadWish, WriteWish
from agents.drivers.host import HostDriver, HostSettings
from agents.drivers.lvm import LvmDriver
from agents.drivers.lvm_commands import Group
from agents.drivers.lvm_maps import reading_pool

BLOCK = 65536
SIZE = 96 << 20
ONE, TWO, THREE, FOUR, SAFE = (f"backupsite-{name}" for name in ("1a", "2b", "3c", "4d", "before-5e"))
GROUP = Group("lab", "/dev")
DRIVER = LvmDriver()
PLACE = Path("/mnt")
SAVED = Path("/tmp/saved")


def sh(line: str) -> str:
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{line}: {done.stderr}{done.stdout}")
    return done.stdout


def address(name: str = "web") -> DiskAddress:
    return DiskAddress("/dev/lab", name, SIZE)


def wish(base: str | None = None, *kept: str) -> DiskWish:
    return DiskWish(address(), base, frozenset(kept))


def content_of(disk: OpenedDisk) -> bytes:
    found = bytearray(disk.source.size_bytes)
    for extent in disk.source.extents():
        for offset in range(extent.offset, extent.offset + extent.length, 1 << 20):
            length = min(1 << 20, extent.offset + extent.length - offset)
            found[offset : offset + length] = disk.source.read(offset, length)
    return bytes(found)


def read(one: DiskWish, point: str) -> tuple[OpenedDisk, bytes]:
    with DRIVER.open_sources(ReadWish([one], point)) as [disk]:
        return disk, content_of(disk)


def points() -> set[str]:
    return {name for name in GROUP.volumes() if name.startswith("backupsite-")}


def held() -> str:
    return sh("dmsetup status lab-pool-tpool").split("thin-pool ")[1].split()[3]


def group() -> None:
    sh("pvcreate -q /dev/vdb; vgcreate -q lab /dev/vdb")
    sh("lvcreate -q --type thin-pool -L 256M -c 64k -n pool lab")
    sh(f"lvcreate -q -T -V {SIZE}b -n web lab/pool; lvcreate -q -L 8M -n thick lab")
    sh("/usr/sbin/mke2fs -q -t ext4 /dev/lab/web; mount -t ext4 /dev/lab/web /mnt")
    for number in range(12):
        (PLACE / f"f{number}").write_bytes(os.urandom(1 << 20))
    sh("sync")
    assert DRIVER.probe().usable, DRIVER.probe()


def full() -> None:
    disk, content = read(wish(), ONE)
    mapped = sum(extent.length for extent in disk.source.extents())
    assert disk.facts.full_reason == "" and disk.facts.warnings == (), disk.facts
    assert (12 << 20) < mapped < SIZE / 2, mapped
    SAVED.write_bytes(content)
    # Its journal is not played back yet, as after a power cut; then it is sound.
    sh(f"cp {SAVED} /tmp/checked; /usr/sbin/e2fsck -fy /tmp/checked || [ $? = 1 ]; /usr/sbin/e2fsck -fn /tmp/checked")
    assert points() == {f"{ONE}.web"} and held() == "-"
    assert not GROUP.volumes()[f"{ONE}.web"].is_active
    print(f"      {mapped} of {SIZE} bytes are mapped")


def changes() -> None:
    with (PLACE / "f3").open("r+b") as file:
        file.seek(300_000)
        file.write(os.urandom(BLOCK))
    (PLACE / "f7").unlink()
    (PLACE / "new").write_bytes(os.urandom(200_000))
    sh("sync; fstrim /mnt || true; sync")
    disk, content = read(wish(ONE, ONE), TWO)
    before, found = SAVED.read_bytes(), bytearray(SAVED.read_bytes())
    changed = list(disk.source.changed_extents() or ())
    for extent in changed:
        found[extent.offset : extent.offset + extent.length] = content[extent.offset : extent.offset + extent.length]
    assert disk.facts.full_reason == "", disk.facts
    assert bytes(found) == content and content != before
    moved = sum(extent.length for extent in changed)
    assert moved < 8 << 20, moved
    assert points() == {f"{ONE}.web", f"{TWO}.web"} and held() == "-"
    SAVED.write_bytes(content)
    print(f"      {moved} bytes differ, of {SIZE}")


def nothing_changed() -> None:
    sh("umount /mnt")
    read(wish(TWO, TWO), THREE)
    disk, content = read(wish(THREE, THREE), FOUR)
    assert list(disk.source.changed_extents() or ()) == []
    SAVED.write_bytes(content)
    assert points() == {f"{THREE}.web", f"{FOUR}.web"}
    sh(f"/usr/sbin/e2fsck -fn {SAVED}")


def killed() -> None:
    """A worker that dies with the pool's metadata reserved and a snapshot open."""
    child = os.fork()
    if child == 0:
        with DRIVER.open_sources(ReadWish([wish(FOUR, FOUR)], ONE)), reading_pool(GROUP, "pool"):
            Path("/tmp/open").touch()
            time.sleep(600)
    while not Path("/tmp/open").exists():
        time.sleep(0.1)
    assert DRIVER.forget([wish(None, FOUR)]) == [] and held() != "-"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    removed = set(DRIVER.forget([wish(None, FOUR)]))
    assert removed == {"metadata_snap", ONE}, removed
    assert points() == {f"{FOUR}.web"} and held() == "-"


def refused_targets() -> None:
    sh("mount -t ext4 /dev/lab/web /mnt")
    refused("disk_busy", WriteWish(address(), SIZE))
    sh("umount /mnt")
    refused("target_too_small", WriteWish(address(), SIZE + 1))
    refused("not_thin", WriteWish(address("thick"), 1))
    refused("disk_busy", WriteWish(address(), SIZE, create=True))
    assert points() == {f"{FOUR}.web"}


def refused(code: str, target: WriteWish) -> None:
    try:
        with DRIVER.open_target(target):
            raise SystemExit(f"not refused: {code}")
    except DriverError as error:
        assert error.code == code, (error.code, error.message)


def restore() -> None:
    """Over what was there, which is kept; and to a new volume, where zeros take no room of the pool."""
    saved = SAVED.read_bytes()
    for target in (WriteWish(address(), SIZE, safety_point=SAFE), WriteWish(address("new"), SIZE, create=True)):
        used = GROUP.volumes()["pool"].data_percent
        with DRIVER.open_target(target) as opened:
            assert opened.facts.warnings == (), opened.facts
            opened.target.write(SIZE - 5000, b"x" * 5000)
            opened.target.zero(0, SIZE)
            for offset in range(0, SIZE, BLOCK):
                block = saved[offset : offset + BLOCK]
                if any(block):
                    opened.target.write(offset, block)
            opened.target.flush()
        name = target.address.path
        assert Path(f"/dev/lab/{name}").read_bytes() == saved
        print(f"      {name}: the pool is {used} -> {GROUP.volumes()['pool'].data_percent} % full")
    assert points() == {f"{FOUR}.web", f"{SAFE}.web"}
    sh("mount -t ext4 /dev/lab/new /mnt; ls /mnt; umount /mnt")


def whole_server() -> None:
    """The agent's driver: a server with a file system on a thin volume and one on a classic volume."""
    sh("lvcreate -q -T -V 16M -n thin lab/pool; mkdir -p /tmp/srv/thin /tmp/srv/thick")
    for name in ("thin", "thick"):
        sh(f"/usr/sbin/mke2fs -q -F -t ext4 /dev/lab/{name}; mount -t ext4 /dev/lab/{name} /tmp/srv/{name}")
    for name in ("thin", "thick"):
        Path(f"/tmp/srv/{name}/file").write_text("before")
    HostDriver.configured = HostSettings(root="/tmp/srv", work=Path("/tmp/work"))
    # What opens it stays in the mount namespace that it made.
    for number in range(2):
        child = os.fork()
        if child == 0:
            _read_server(kill=bool(number))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == (signal.SIGKILL if number else 0)
    left = {name for name in GROUP.volumes() if name.startswith("backupsite-host-")}
    assert len(left) == 2, left
    removed = HostDriver().forget(())
    assert {f"lab/{name}" for name in left} == set(removed), removed
    assert not [name for name in GROUP.volumes() if name.startswith("backupsite-host-")]
    sh("umount /tmp/srv/thin; umount /tmp/srv/thick; lvremove -q -y lab/thin")


def _read_server(*, kill: bool) -> None:
    with HostDriver().open_trees(ReadWish([DiskWish(DiskAddress("", "/", 1))], "point")) as [opened]:
        print(f"      {[warning.message for warning in opened.facts.warnings]}")
        for name in ("thin", "thick"):
            Path(f"/tmp/srv/{name}/file").write_text("after")
            assert (opened.root / name / "file").read_text() == "before", name
            number = (opened.root / name).stat().st_dev
            assert number not in opened.options.file_systems() and number != Path(f"/tmp/srv/{name}").stat().st_dev
            Path(f"/tmp/srv/{name}/file").write_text("before")
            os.sync()
        if kill:
            os.kill(os.getpid(), signal.SIGKILL)
    assert not [name for name in GROUP.volumes() if name.startswith("backupsite-host-")]


def resized() -> None:
    sh("lvextend -q -L +4M lab/web")
    disk, _ = read(wish(FOUR, FOUR, SAFE), ONE)
    assert (disk.facts.full_reason, disk.source.size_bytes) == ("disk_resized", SIZE + (4 << 20)), disk.facts


def pool_full() -> None:
    sh("lvcreate -q -T -V 300M -n filler lab/pool")
    with open("/dev/lab/filler", "wb") as file:
        while GROUP.volumes()["pool"].data_percent < 96:
            file.write(os.urandom(1 << 20) * 2)
            file.flush()
            os.fsync(file.fileno())
    try:
        read(wish(), TWO)
        raise SystemExit("a full pool was not noticed")
    except DriverError as error:
        assert error.code == "no_space", error
        print(f"      {error.message}")


STEPS: tuple[Callable[[], None], ...] = (
    *(group, full, changes, nothing_changed, killed, refused_targets, restore, whole_server, resized, pool_full),
)

if __name__ == "__main__":
    try:
        for step in STEPS:
            begun = time.monotonic()
            step()
            print(f"LAB-OK {step.__name__} {time.monotonic() - begun:.1f} s", flush=True)
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    print("LAB-PASSED", flush=True)
