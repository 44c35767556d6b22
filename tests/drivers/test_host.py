"""The driver of whole servers: which mounts make one up, and what of it is put together."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agents.drivers import host_space, host_zfs
from agents.drivers.base import DiskAddress, DiskWish, DriverError, ReadWish, WriteWish
from agents.drivers.host import HostDriver, HostSettings, _bound, _mounted
from agents.drivers.host_lvm import Held
from agents.drivers.host_mounts import Mount, chosen, parse_mounts
from agents.drivers.host_snapshots import Place, all_standing_still, remove_leftovers
from agents.drivers.host_space import private_tree
from agents.drivers.zfs_commands import Host, Snapshot, ZfsError
from tests.copies.quick_zfs import machine, stand_in


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
        # The place is where the file system is mounted itself, or the most of it, whatever the names are.
        (["2 1 8:2 /sub /data ext4", "3 1 8:2 / /srv ext4"], {"/data": SAME, "/srv": ""}),
        (["2 1 8:2 /a/b /data ext4", "3 1 8:2 /a /mnt/a ext4"], {"/data": SAME, "/mnt/a": ""}),
        (["2 1 8:2 / /data ext4", "3 1 8:2 / /srv ext4"], {"/data": "", "/srv": SAME}),
        # Subvolumes are at home where they are mounted, also when all of them are to be seen somewhere.
        (["2 1 8:2 /@home /home btrfs", "3 1 8:2 / /mnt/top btrfs"], {"/home": "", "/mnt/top": ""}),
        # What is mounted in the second one is nowhere else; with all that is mounted inside, it is.
        (
            ["2 1 8:2 / /srv ext4", "3 1 8:2 /sub /mnt/again ext4", "4 3 8:3 / /mnt/again/other ext4"],
            {"/srv": "", "/mnt/again": "", "/mnt/again/other": ""},
        ),
        (
            ["2 1 8:2 / /srv ext4", "4 2 8:3 / /srv/sub ext4", "5 1 8:2 / /z ext4", "6 5 8:3 / /z/sub ext4"],
            {"/srv": "", "/srv/sub": "", "/z": SAME, "/z/sub": SAME},
        ),
    ],
)
def test_files_that_another_mount_hides_are_not_in_the_backup_elsewhere(lines: list[str], kept: dict[str, str]) -> None:
    assert mounts_of("1 0 8:1 / / ext4", *lines) == {"/": "", **kept}


def test_a_directory_from_outside_is_in_the_backup_where_it_is_mounted() -> None:
    told = ["1 0 8:1 / / rw - ext4 /dev/x rw", "2 1 8:1 /data /srv/data rw - ext4 /dev/x rw"]
    assert {mount.point: mount.left_out for mount in chosen(parse_mounts(told), root="/srv")} == {
        "/": "",
        "/srv/data": "",
    }
    inside = [told[0], "2 1 8:1 /srv/a /srv/data rw - ext4 /dev/x rw"]
    assert chosen(parse_mounts(inside), root="/srv")[1].left_out == "the same files as at /"


@pytest.mark.parametrize(
    ("pattern", "left_out"), [("/srv/", ""), ("/srv/sub/", ""), ("/srv/other/", SAME), ("d*/", SAME)]
)
def test_files_whose_first_place_is_excluded_are_in_the_backup_at_the_second(
    pattern: str, left_out: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = tmp_path / "mountinfo"
    told = ["1 0 8:1 / / rw - ext4 /dev/x rw", "2 1 8:2 / /srv rw - ext4 /dev/y rw"]
    lines.write_text("\n".join([*told, "3 1 8:2 /sub /data rw - ext4 /dev/y rw"]))
    monkeypatch.setattr(host_space, "_MOUNTS", lines)
    monkeypatch.setattr(HostDriver, "configured", HostSettings(work=tmp_path, excludes=(pattern,)))
    seen = {mount.point: mount.left_out.partition(" at ")[0] for mount in HostDriver().mounts()}
    assert seen == {"/": "", "/srv": "", "/data": left_out}


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


@pytest.mark.parametrize(
    ("kind", "options", "left_out"),
    [
        ("fuse", "rw,user_id=1000,group_id=1000", "on the network, or of a program: back it up where it is"),
        ("fuse.zfs", "rw,user_id=1000,group_id=1000", "on the network, or of a program: back it up where it is"),
        ("fuse.zfs", "rw,user_id=0,group_id=0,allow_other", ""),
    ],
)
def test_what_a_users_program_makes_up_is_not_in_the_backup(kind: str, options: str, left_out: str) -> None:
    """Any user may mount such a one below their own directory, without a name behind the dot or with one of theirs."""
    told = ["1 0 8:1 / / rw - ext4 /dev/x rw", f"2 1 0:9 / /home/m/all rw - {kind} x {options}"]
    assert [mount.left_out for mount in chosen(parse_mounts(told))] == ["", left_out]


def test_a_snapshot_of_zfs_that_somebody_looks_at_is_not_in_the_backup() -> None:
    told = ["1 0 0:1 / / rw - zfs pool rw,xattr", "2 1 0:2 / /.zfs/snapshot/daily ro - zfs pool@daily ro,xattr"]
    assert [mount.left_out for mount in chosen(parse_mounts(told))] == ["", "a snapshot that somebody looks at"]


class Zfs:
    """The programs of ZFS: what they were asked for is kept. They refuse one dataset, and say which."""

    made: list[list[str]] = []
    destroyed: list[str] = []

    def __init__(self, *, takes_spaces: bool = False) -> None:
        pass

    def is_there(self) -> bool:
        return True

    def snapshot_together(self, datasets: list[str], name: str, *, disk: str) -> None:
        if "pool/full" in datasets:
            raise DriverError(f"zfs on this machine: cannot create snapshot 'pool/full@{name}': out of space")
        Zfs.made.append([f"{dataset}@{name}" for dataset in datasets])

    def snapshots(self, dataset: str) -> list[Snapshot]:
        return [Snapshot(name, "1") for name in ("bs-host-old", "bs-1", "daily")]

    def destroy_own(self, dataset: str, name: str) -> None:
        Zfs.destroyed.append(f"{dataset}@{name}")
        if dataset == "other":
            raise DriverError("busy")


def test_datasets_of_one_pool_are_held_still_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is refused does not cost the others their snapshot, and is read as it is; all are removed after."""
    monkeypatch.setattr(host_zfs, "Host", Zfs)
    Zfs.made, Zfs.destroyed = [], []
    mounts = [
        Mount("/", "ext4", "/dev/x", "8:1", "/"),
        Mount("/a", "zfs", "pool/a", "0:2", "/"),
        Mount("/a/sub", "zfs", "pool/b", "0:3", "/"),
        Mount("/o", "zfs", "other", "0:4", "/"),
        Mount("/again", "zfs", "pool/a", "0:2", "/inner"),
    ]
    with all_standing_still(mounts, "x") as places:
        assert Zfs.made == [["other@bs-host-x"], ["pool/a@bs-host-x", "pool/b@bs-host-x"]]
        assert [(place.point, place.snapshot, str(place.source)) for place in places] == [
            *(("/", "none", "/"), ("/a", "zfs", "/"), ("/a/sub", "zfs", "/"), ("/o", "zfs", "/")),
            ("/again", "zfs", "/inner"),
        ]
        assert [place.held for place in places if place.held][:2] == [
            Held(Path("pool/a@bs-host-x"), "zfs", ""),
            Held(Path("pool/b@bs-host-x"), "zfs", ""),
        ]
        assert not Zfs.destroyed
    assert Zfs.destroyed == ["pool/b@bs-host-x", "pool/a@bs-host-x", "other@bs-host-x"]

    Zfs.made.clear()
    odd = [Mount(f"/{name}", "zfs", f"pool/{name}", "0:5", "/") for name in ("full", "two words", "bro\tken")]
    with all_standing_still([*mounts[1:3], *odd], "x") as [a, b, full, words, no_name]:
        # What cannot be held still does not cost the others their common moment.
        assert Zfs.made == [["pool/a@bs-host-x", "pool/b@bs-host-x", "pool/two words@bs-host-x"]]
        snapshots = [place.snapshot for place in (a, b, full, words, no_name)]
        assert snapshots == ["zfs", "zfs", "none", "zfs", "none"]
        assert "out of space" in full.warnings[0].message and "none that the agent" in no_name.warnings[0].message
    assert remove_leftovers(mounts[1]) == ["pool/a@bs-host-old"]


def test_names_of_datasets_with_spaces_are_for_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are words of a command here; over SSH the forced command takes one line apart."""
    here = machine(tmp_path, "a", kind=Host)
    here.write("tank/two words", "x")
    stand_in(monkeypatch, here)
    mount = Mount("/srv", "zfs", "tank/two words", "0:5", "/")
    with all_standing_still([mount], "x") as [place]:
        assert (place.snapshot, here.names()["tank/two words"]) == ("zfs", ["bs-host-x"])
        assert remove_leftovers(mount) == ["tank/two words@bs-host-x"]
    assert here.names() == {"tank": [], "tank/two words": []}
    for dataset in ("tank/two words", "tank/a@b c"):
        with pytest.raises(ZfsError, match="is no name of"):
            Host().exists(dataset)


def test_a_directory_is_bound_by_names_alone(tmp_path: Path) -> None:
    """Whoever owns a directory on the way may put a link there at any time, such as to /etc."""
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    with host_space._opened(tmp_path / "link", Path("sub")) as descriptor:
        assert os.path.samestat(os.fstat(descriptor), (tmp_path / "real" / "sub").stat())
    for below in ("link/sub", "link"):
        with pytest.raises(OSError, match="a symbolic link"), host_space._opened(tmp_path, Path(below)):
            pass


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

    # A snapshot that cannot be had gives way to the live directory.
    point, tree = folder / "pool", folder / "tree"
    tree.mkdir()
    point.mkdir()
    (point / "live").touch()
    HostDriver.configured = HostSettings()
    with private_tree(tree):
        gone = Place(str(point), point / "gone", "zfs")
        seen = HostDriver().mounts()
        live = _bound(gone, tree, seen, root=str(point), is_first=True)
        assert live.source == point and [warning.code for warning in live.warnings] == ["no_snapshot"]
        assert (tree / "live").exists() and os.statvfs(tree).f_flag & os.ST_RDONLY
        # A place behind a link is none: it may lead out of the tree.
        (point / "away").symlink_to("/etc")
        with contextlib.suppress(OSError):
            _bound(Place(f"{point}/away", point, "none"), tree, seen, root=str(point), is_first=False)
            raise AssertionError("a link was followed")

    # One of LVM or ZFS is a device: mounted here, and one that cannot be gives way to the live directory.
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


def test_a_sign_that_ends_lines_elsewhere_hides_no_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel writes a carriage return in a name as it is."""
    lines = tmp_path / "mountinfo"
    lines.write_bytes(b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 8:2 / /srv/a\rb rw - ext4 /dev/sdb1 rw\n")
    monkeypatch.setattr(host_space, "_MOUNTS", lines)
    monkeypatch.setattr(HostDriver, "configured", HostSettings(root="/", work=tmp_path / "work"))
    assert [mount.point for mount in HostDriver().mounts()] == ["/", "/srv/a\rb"]
