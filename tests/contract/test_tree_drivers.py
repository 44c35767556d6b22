"""What every driver of file trees must do; each new one adds a bench here and passes the same suite."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.drivers.base import DiskAddress, DiskWish, DriverError, OpenedTree, ReadWish, TreeDriver, WriteWish
from agents.drivers.folders import PseudoTreeError
from agents.drivers.registry import BUILT_IN, content_of, load_tree_driver
from engine.manifest import CONTENT_TREE
from engine.tree_walk import TreeOptions
from tests.drivers.btrfs_lab import make_subvolume, mounted, mounted_btrfs
from tests.engine.chunk_support import read_tree, snapshot, write_tree
from tests.engine.support import Vault


@dataclass
class Bench:
    """A tree that the driver can open, with a file `a` and a folder `inner`."""

    driver: TreeDriver
    address: DiskAddress
    root: Path


def filesystem_bench(folder: Path) -> Bench:
    root = folder / "tree"
    (root / "inner").mkdir(parents=True)
    (root / "a").write_bytes(b"content")
    return Bench(load_tree_driver("filesystem"), DiskAddress(str(folder), "tree", 1), root)


def btrfs_bench(folder: Path) -> Bench:
    root = make_subvolume(folder / "tree")
    make_subvolume(root / "inner")
    (root / "a").write_bytes(b"content")
    return Bench(load_tree_driver("btrfs"), DiskAddress(str(folder), "tree", 1), root)


BENCHES: dict[str, Callable[[Path], Bench]] = {
    "filesystem": filesystem_bench,
    "filesystem on ext4": filesystem_bench,
    "filesystem on xfs": filesystem_bench,
    "btrfs": btrfs_bench,
}


@pytest.fixture(scope="module")
def btrfs_place() -> Iterator[Path]:
    with mounted_btrfs() as place:
        yield place


@pytest.fixture(scope="module")
def ext4_place() -> Iterator[Path]:
    with mounted("ext4", "e2fsprogs", size_mib=64) as place:
        yield place


@pytest.fixture(scope="module")
def xfs_place() -> Iterator[Path]:
    with mounted("xfs", "xfsprogs", size_mib=320) as place:
        yield place


@pytest.fixture(params=sorted(BENCHES))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    kind = request.param.split(" ")[-1]
    if kind == "filesystem":
        return BENCHES[request.param](tmp_path)
    return BENCHES[request.param](Path(tempfile.mkdtemp(dir=request.getfixturevalue(f"{kind}_place"))))


def test_every_driver_of_trees_has_its_bench() -> None:
    assert {name.split(" ")[0] for name in BENCHES} == {name for name in BUILT_IN if content_of(name) == CONTENT_TREE}


def _reading(bench: Bench, path: str | None = None) -> OpenedTree:
    """Opens and closes at once."""
    address = bench.address if path is None else DiskAddress(bench.address.storage_path, path, 1)
    with bench.driver.open_trees(ReadWish(disks=[DiskWish(address)], new_point="backupsite-x")) as [opened]:
        assert (opened.root / "a").read_bytes() == b"content"
        return opened


def test_the_tree_can_be_read_and_again_afterwards(bench: Bench) -> None:
    before = snapshot(os.fsencode(bench.root))

    _reading(bench)
    _reading(bench)

    assert snapshot(os.fsencode(bench.root)) == before


def test_what_is_read_comes_back_and_is_not_read_twice(bench: Bench) -> None:
    """With holes, links and attributes, each as its file system has them."""
    root, vault = bench.root, Vault()
    with (root / "holes").open("wb") as file:
        file.seek(300_000)
        file.write(b"end")
    os.link(
        root / "a", root / "inner" / "linked" if root.stat().st_dev == (root / "inner").stat().st_dev else root / "b"
    )
    os.symlink("nowhere", root / "link")
    os.setxattr(root / "a", "user.kept", b"value")
    os.mkfifo(os.fsencode(root) + b"/\xff")
    before, results = snapshot(os.fsencode(root)), []
    for _ in range(2):
        with bench.driver.open_trees(ReadWish([DiskWish(bench.address)], new_point="backupsite-x")) as [opened]:
            base = results[-1] if results else None
            # Of a file that was written right before the snapshot nobody can tell whether it changed after.
            options = dataclasses.replace(opened.options, moment_ns=None)
            results.append(write_tree(vault, opened.root, base=base, options=options))
    wish = WriteWish(bench.address, 1, create=True, folder="inner/new")

    with bench.driver.open_folder(wish) as opened:
        read_tree(vault, results[1], opened.path)

    assert results[1].write.stats.read_bytes == 0
    assert snapshot(os.fsencode(root / "inner" / "new")) == before
    assert (root / "inner" / "new" / "holes").stat().st_blocks == (root / "holes").stat().st_blocks


@pytest.mark.parametrize("path", ["missing", "tree/a", "../", "leaves", "tree/out"])
def test_what_is_no_tree_of_the_storage_is_refused(bench: Bench, path: str) -> None:
    os.symlink("/etc", Path(bench.address.storage_path) / "leaves")
    os.symlink("../..", bench.root / "out")

    with pytest.raises(DriverError) as refused:
        _reading(bench, path)

    assert refused.value.code == "disk_missing"


def test_nobody_else_has_the_tree_meanwhile(bench: Bench) -> None:
    wish = WriteWish(address=bench.address, size_bytes=1)
    with bench.driver.open_folder(wish):
        with pytest.raises(DriverError) as reading:
            _reading(bench)
        with pytest.raises(DriverError) as writing, bench.driver.open_folder(wish):
            pass

    assert (reading.value.code, writing.value.code, reading.value.permanent) == ("disk_busy", "disk_busy", False)
    _reading(bench)


@pytest.mark.case("RS-07")
@pytest.mark.parametrize(
    ("folder", "create", "code"),
    [
        ("inner", False, None),
        ("inner", True, None),
        ("new/deep", True, None),
        ("new", False, "disk_missing"),
        ("full", True, "disk_busy"),
        ("link", True, "disk_unreadable"),
        ("link/new", True, "disk_unreadable"),
        ("inner/../..", True, "disk_missing"),
        ("/etc", False, "disk_missing"),
    ],
)
def test_a_folder_to_restore_into_is_inside_of_the_tree(
    bench: Bench, folder: str, create: bool, code: str | None
) -> None:
    """Whoever owns the files may have put a link there, which leads to the files of others."""
    os.symlink("..", bench.root / "link")
    (bench.root / "full").mkdir()
    (bench.root / "full" / "b").write_bytes(b"b")
    wish = WriteWish(address=bench.address, size_bytes=1, create=create, folder=folder)

    if code is None:
        with bench.driver.open_folder(wish) as opened:
            (opened.path / "restored").write_bytes(b"x")
        assert (bench.root / folder / "restored").exists()
        return
    with pytest.raises(DriverError) as refused, bench.driver.open_folder(wish):
        pass
    assert refused.value.code == code
    assert not (bench.root.parent / "new").exists()


def test_what_the_kernel_makes_up_is_refused() -> None:
    driver = load_tree_driver("filesystem")
    wish = ReadWish(disks=[DiskWish(DiskAddress("/proc", ".", 1))], new_point="backupsite-x")

    with pytest.raises(PseudoTreeError), driver.open_trees(wish):
        pass


@pytest.fixture
def two_devices(tmp_path: Path) -> Iterator[list[Path]]:
    """The same file system on two devices, as two snapshots of one source are."""
    source, image = tmp_path / "source", tmp_path / "image"
    source.mkdir()
    for number in range(5):
        (source / f"f{number}").write_bytes(os.urandom(20_000))
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", source, image], check=True, capture_output=True)
    mounted = []
    try:
        for number in range(2):
            copy, place = tmp_path / f"copy{number}", tmp_path / f"mount{number}"
            place.mkdir()
            copy.write_bytes(image.read_bytes())
            done = subprocess.run(["mount", "-o", "loop,ro", copy, place], check=False, capture_output=True)
            if done.returncode:
                pytest.skip(f"no loop mounts here: {done.stderr.decode().strip()}")
            mounted.append(place)
        yield mounted
    finally:
        for place in mounted:
            subprocess.run(["umount", place], check=False)


def test_another_device_is_no_change_where_the_tree_is_a_snapshot(two_devices: list[Path]) -> None:
    vault = Vault()
    first = write_tree(vault, two_devices[0])

    as_snapshot = write_tree(vault, two_devices[1], base=first, options=TreeOptions(is_snapshot=True))
    as_it_is = write_tree(vault, two_devices[1], base=first)

    assert os.stat(two_devices[0]).st_dev != os.stat(two_devices[1]).st_dev
    assert (as_snapshot.write.stats.read_bytes, as_it_is.write.stats.read_bytes) == (0, 100_000)
    assert as_snapshot.counters["unchanged_entries"] == as_it_is.counters["changed_entries"]
