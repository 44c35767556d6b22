"""The driver of whole servers: which mounts make one up, and what of it is put together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agents.drivers import host_snapshots, host_space
from agents.drivers.base import DiskAddress, DiskWish, DriverError, ReadWish, WriteWish
from agents.drivers.host import HostDriver, HostSettings, _bound, _mounted
from agents.drivers.host_lvm import Held
from agents.drivers.host_mounts import Mount, chosen, parse_mounts
from agents.drivers.host_snapshots import Place, standing_still
from agents.drivers.host_space import private_tree


def mounts_of(*lines: str) -> dict[str, str]:
    """Of lines `number parent device inner point kind`: what is seen, and why it is left out."""
    told = []
    for line in lines:
        number, parent, device, inner, point, kind = line.split()
        told.append(f"{number} {parent} {device} {inner} {point} rw - {kind} /dev/x rw")
    return {mount.point: mount.left_out.partition(" at ")[0] for mount in chosen(parse_mounts(told))}


SAME = "the same files as"


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        # Nothing hides the directory: once is enough.
        (["2 1 8:2 / /srv ext4", "3 1 8:2 /sub /mnt/again ext4"], {"/srv": "", "/mnt/again": SAME}),
        # Another file system does: on it, above it, or on a part of it.
        (
            ["2 1 8:2 / /srv ext4", "3 1 8:2 /sub /mnt/again ext4", "4 2 8:3 / /srv/sub ext4"],
            {"/srv": "", "/mnt/again": "", "/srv/sub": ""},
        ),
        (
            ["2 1 8:2 / /srv ext4", "3 1 8:2 /a/sub /mnt/again ext4", "4 2 8:3 / /srv/a ext4"],
            {"/srv": "", "/mnt/again": "", "/srv/a": ""},
        ),
        (
            ["2 1 8:2 / /srv ext4", "3 1 8:2 /sub /mnt/again ext4", "4 2 8:3 / /srv/sub/deep ext4"],
            {"/srv": "", "/mnt/again": "", "/srv/sub/deep": ""},
        ),
        # What is left out hides nothing in the tree, nor does a directory that is mounted on itself.
        (
            ["2 1 8:2 / /srv ext4", "3 1 8:2 /sub /mnt/again ext4", "4 2 0:9 / /srv/sub nfs"],
            {"/srv": "", "/mnt/again": SAME, "/srv/sub": "on the network, or of a program: back it up where it is"},
        ),
        (["2 1 8:1 /srv /srv ext4"], {"/srv": SAME}),
    ],
)
def test_files_that_another_mount_hides_are_not_in_the_backup_elsewhere(lines: list[str], kept: dict[str, str]) -> None:
    assert mounts_of("1 0 8:1 / / ext4", *lines) == {"/": "", **kept}


def test_what_is_seen_goes_by_parents_and_not_by_the_order_of_lines() -> None:
    """A root that was moved over the first one stands behind what was mounted for it; so does what covers others."""
    seen = mounts_of(
        "5 9 0:5 / /proc proc",
        "6 9 0:6 / /run tmpfs",
        "1 1 0:1 / / rootfs",
        "7 6 0:7 / /run/lock tmpfs",
        "9 1 8:1 / / ext4",
        "12 9 8:3 / /srv/inner ext4",
        "11 9 8:2 / /srv ext4",
        "13 11 8:4 / /srv/inner/deep ext4",
        "14 9 8:5 / /data ext4",
        "15 14 8:6 / /data ext4",
        "16 14 8:7 / /data/hidden ext4",
        "17 15 8:8 / /data/seen ext4",
    )
    assert set(seen) == {"/", "/proc", "/run", "/run/lock", "/srv", "/srv/inner/deep", "/data", "/data/seen"}
    assert seen["/run"] == "in memory only" and seen["/data"] == ""


class Zfs:
    """The programs of ZFS: only what they were asked to destroy is kept."""

    destroyed: list[str] = []

    def snapshot(self, dataset: str, name: str, *, disk: str) -> None:
        pass

    def destroy_own(self, dataset: str, name: str) -> None:
        Zfs.destroyed.append(f"{dataset}@{name}")
        raise DriverError("busy")


def zfs_mount(point: Path) -> tuple[Mount, Path]:
    (point / ".zfs" / "snapshot" / "bs-host-x").mkdir(parents=True)
    return Mount(str(point), "zfs", "pool/data", "0:77", "/"), point / ".zfs" / "snapshot" / "bs-host-x"


def test_a_zfs_snapshot_that_the_kernel_does_not_mount_is_no_empty_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_snapshots, "Host", Zfs)
    Zfs.destroyed.clear()
    with standing_still(zfs_mount(tmp_path)[0], "x") as [place]:
        assert (place.source, place.snapshot) == (tmp_path, "none")
        assert [warning.code for warning in place.warnings] == ["no_snapshot"]
    assert Zfs.destroyed == ["pool/data@bs-host-x"]


def test_nothing_is_removed_from_a_server_that_is_restored_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostDriver, "configured", HostSettings(root=str(tmp_path), work=tmp_path / "work"))
    wish = WriteWish(DiskAddress("", "/", 1), size_bytes=1)
    with HostDriver().open_folder(wish) as folder:
        assert folder.not_exact


def put_together(folder: Path) -> None:
    """In a mount namespace of its own."""
    libc = host_space._libc()
    assert libc.unshare(0x20000) == 0
    host_space._mount(b"none", b"/", 16384 | 1 << 18)

    def memory_on(point: Path) -> None:
        assert libc.mount(b"none", os.fsencode(point), b"tmpfs", 0, None) == 0
        (point / "mounted").touch()

    # A snapshot that came with the namespace, as one of ZFS does once somebody has looked at it.
    host_snapshots.Host = Zfs  # type: ignore[misc, assignment]  # this process is the test's own
    point, tree = folder / "pool", folder / "tree"
    tree.mkdir()
    mount, snapshot = zfs_mount(point)
    memory_on(snapshot)
    with standing_still(mount, "x") as [place]:
        assert (place.source, place.snapshot, place.warnings) == (snapshot, "zfs", ())
        with private_tree(tree):
            assert _bound(place, tree, root=str(point), is_first=True) == place
            assert (tree / "mounted").exists()
            # One that cannot be had gives way to the live directory.
            gone = Place(str(point), point / "gone", "zfs")
            live = _bound(gone, tree, root=str(point), is_first=True)
            assert live.source == point and [warning.code for warning in live.warnings] == ["no_snapshot"]
            assert (tree / ".zfs").exists()
    assert Zfs.destroyed == ["pool/data@bs-host-x"] and not (snapshot / "mounted").exists()

    # A snapshot of LVM is a device: mounted here, and one that cannot be gives way to the live directory.
    good, bad = Held(Path("none"), "tmpfs", "size=1m"), Held(folder / "nothing", "ext4", "")
    places = [Place("/srv", Path("/"), "lvm", held=good), Place("/var", Path("/"), "lvm", held=bad)]
    with private_tree(tree), _mounted(places, folder / "volumes") as [mounted, live]:
        assert mounted.source.samefile(folder / "volumes/0") and mounted.source.is_mount()
        assert os.statvfs(mounted.source).f_flag & os.ST_RDONLY
        assert (live.source, live.snapshot) == (Path("/var"), "none")
    assert not (folder / "volumes/0").is_mount()

    root = folder / "server"
    (root / "nas").mkdir(parents=True)
    (root / "nas" / "hidden").touch()
    memory_on(root / "nas")
    HostDriver.configured = HostSettings(root=str(root), work=folder / "work", never=(str(root / "state"),))
    with HostDriver().open_trees(ReadWish([DiskWish(DiskAddress("", "/", 1))], "point")) as [opened]:
        options = opened.options
        assert (opened.root / "nas" / "hidden").exists()
        assert (options.covered, options.mounts) == ((b"nas",), ())
        assert options.moment_ns and "/state/" in options.exclude
        assert [warning.code for warning in opened.facts.warnings] == ["not_one_moment"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts are for root alone")
def test_a_server_is_put_together_of_its_mounts(tmp_path: Path) -> None:
    if run(["unshare", "-m", "true"]).returncode:
        pytest.skip("no mounts may be made here")
    program = "import sys, pathlib; from tests.drivers.test_host import put_together as run; "
    done = run([sys.executable, "-c", program + "run(pathlib.Path(sys.argv[1]))", str(tmp_path)])
    assert done.returncode == 0, done.stderr


def run(words: list[str]) -> Any:
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
