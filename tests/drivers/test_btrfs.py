"""Driver `btrfs` on a real btrfs: what a snapshot holds, what is said of it, and that nothing is ever left."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from agents.drivers import btrfs_calls
from agents.drivers.base import DiskAddress, DiskWish, DriverError, OpenedTree, ReadWish, WriteWish
from agents.drivers.btrfs import BtrfsDriver
from tests.drivers.btrfs_lab import make_subvolume, mounted_btrfs, protect
from tests.engine.chunk_support import read_tree, snapshot, write_tree
from tests.engine.support import Vault

POINT, OTHER, SAFE = "backupsite-1f", "backupsite-2e", "backupsite-before-3d"
NOBODY = 65534


@pytest.fixture(scope="module")
def file_system() -> Iterator[Path]:
    with mounted_btrfs() as place:
        yield place


@pytest.fixture
def pool(file_system: Path, request: pytest.FixtureRequest) -> Path:
    """A folder for one test."""
    folder = file_system / str(abs(hash(request.node.name)))
    folder.mkdir()
    return folder


@pytest.fixture
def data(pool: Path) -> Path:
    """A subvolume with others in it, one of them with an odd name and one deeper."""
    root = make_subvolume(pool / "data")
    (root / "a").write_bytes(b"first")
    (root / "folder").mkdir()
    odd = make_subvolume(root / "folder" / "od\nd \xff")
    (odd / "b").write_bytes(b"second")
    (make_subvolume(odd / "deep") / "c").write_bytes(b"third")
    return root


def _wish(*disks: Path, point: str = POINT, kept: set[str] | None = None) -> ReadWish:
    return ReadWish([_disk(path, kept) for path in disks], new_point=point)


def _disk(path: Path, kept: set[str] | None = None) -> DiskWish:
    return DiskWish(DiskAddress(str(path.parent), path.name, 1), kept_points=frozenset(kept or ()))


@contextmanager
def _opened(*disks: Path) -> Iterator[list[OpenedTree]]:
    with BtrfsDriver().open_trees(_wish(*disks)) as opened:
        yield list(opened)


def _ours(pool: Path) -> set[str]:
    return {name for _, folders, _ in os.walk(pool) for name in folders if name.startswith(".backupsite-")}


def _without_links(root: Path) -> dict[bytes, tuple[Any, ...]]:
    """Files of different subvolumes have the same numbers."""
    return {name: facts[:-1] for name, facts in snapshot(os.fsencode(root)).items()}


def _codes(opened: OpenedTree) -> list[str]:
    return [warning.code for warning in opened.facts.warnings]


def test_the_tree_and_the_subvolumes_in_it_stay_as_they_were(data: Path, pool: Path) -> None:
    before = snapshot(os.fsencode(data))

    with _opened(data) as [opened]:
        (data / "a").write_bytes(b"changed")
        (data / "folder" / "od\nd \xff" / "b").unlink()
        held = snapshot(os.fsencode(opened.root))
        with pytest.raises(OSError) as refused:
            (opened.root / "new").write_bytes(b"")

    assert held == before
    assert refused.value.errno == errno.EROFS
    assert _ours(pool) == set()


def test_it_says_what_is_not_of_one_moment_or_left_out(data: Path, pool: Path) -> None:
    (make_subvolume(data / "snapper") / "old").write_bytes(b"old")
    protect(data / "snapper")
    plain = make_subvolume(pool / "plain")

    with _opened(data) as [alone]:
        assert not list((alone.root / "snapper").iterdir())
    with _opened(data, plain) as both, _seen_by_forget(data, plain):
        assert [_codes(one) for one in both] == [["not_one_moment", "snapshots_left_out"], ["not_one_moment"]]
    with _opened(plain) as [one]:
        assert _codes(one) == []

    assert _codes(alone) == ["not_one_moment", "snapshots_left_out"]
    assert "3 subvolumes" in alone.facts.warnings[0].message and "snapper" in alone.facts.warnings[1].message
    assert (alone.facts.point, alone.facts.frozen, alone.options.is_snapshot) == ("", False, True)


@contextmanager
def _seen_by_forget(*disks: Path) -> Iterator[None]:
    """What a job reads is not swept away under it."""
    assert BtrfsDriver().forget([_disk(path) for path in disks]) == []
    yield


def test_what_moves_or_may_not_be_read_inside_is_named(data: Path, monkeypatch: pytest.MonkeyPatch, pool: Path) -> None:
    real = btrfs_calls.snapshot

    def snapshot_with_trouble(source: int, folder: int, name: bytes, *, read_only: bool) -> None:
        if name == b"deep":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real(source, folder, name, read_only=read_only)
        if name.startswith(b"."):
            make_subvolume(data / "late")

    monkeypatch.setattr(btrfs_calls, "snapshot", snapshot_with_trouble)

    with _opened(data) as [opened]:
        messages = [one.message for one in opened.facts.warnings if one.code == "subvolumes_missing"]

    assert len(messages) == 2
    assert "deep" in messages[0] and "Operation not permitted" in messages[0] and "late" in messages[1]
    assert _ours(pool) == set()


@pytest.mark.parametrize("is_read_only", [True, False])
def test_an_exact_restore_leaves_subvolumes_alone_that_the_backup_does_not_have(
    data: Path, monkeypatch: pytest.MonkeyPatch, is_read_only: bool
) -> None:
    left_out, real = make_subvolume(data / "folder" / "left"), btrfs_calls.snapshot
    (left_out / "precious").write_bytes(b"old")
    left_out.chmod(0o700)
    if is_read_only:
        protect(left_out)

    def refusing(source: int, folder: int, name: bytes, *, read_only: bool) -> None:
        if name == b"left":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real(source, folder, name, read_only=read_only)

    monkeypatch.setattr(btrfs_calls, "snapshot", refusing)
    vault = Vault()
    with _opened(data) as [opened]:
        saved = write_tree(vault, opened.root, options=opened.options)
    (data / "extra").write_bytes(b"extra")

    result = read_tree(vault, saved, data, differential=True, delete_extra=True)

    assert (left_out / "precious").read_bytes() == b"old" and left_out.stat().st_mode & 0o777 == 0o700
    assert not (data / "extra").exists() and not result.problem_counts


def test_an_unchanged_tree_is_not_read_again_and_comes_back_whole(data: Path, pool: Path) -> None:
    vault = Vault()
    (data / "large").write_bytes(os.urandom(50_000))
    with _opened(data) as [opened]:
        # Files of a moment ago are always read again; here they pass for older ones.
        assert opened.options.moment_ns
        first = write_tree(vault, opened.root, options=dataclasses.replace(opened.options, moment_ns=None))
    with _opened(data) as [opened]:
        second = write_tree(vault, opened.root, base=first, options=opened.options)
    new = pool / "restored"
    wish = WriteWish(DiskAddress(str(pool), "restored", 1), 1, create=True)

    with BtrfsDriver().open_folder(wish) as target:
        read_tree(vault, second, target.path)
    with pytest.raises(DriverError) as again, BtrfsDriver().open_folder(wish):
        pass

    assert second.write.stats.read_bytes == 0
    assert _without_links(new) == _without_links(data)
    assert again.value.code == "disk_busy"
    with _opened(new) as [opened]:
        assert _without_links(opened.root) == _without_links(data)


def test_what_a_restore_overwrites_is_kept_as_long_as_it_is_needed(data: Path, pool: Path) -> None:
    before = snapshot(os.fsencode(data))
    wish = WriteWish(_disk(data).address, 1, safety_point=SAFE)

    for _ in range(2):  # an attempt that was cut, and the next one
        with BtrfsDriver().open_folder(wish) as opened:
            (opened.path / "a").write_bytes(b"restored")
            assert (opened.facts.safety_point, opened.facts.warnings) == (SAFE, ())

    assert snapshot(os.fsencode(pool / f".{SAFE}.data")) == before
    assert BtrfsDriver().forget([_disk(data, {SAFE})]) == []
    assert BtrfsDriver().forget([_disk(data)]) == [SAFE]
    assert BtrfsDriver().forget([_disk(data)]) == []
    assert _ours(pool) == set()


KILLED = """
import sys
from agents.drivers.base import DiskAddress, DiskWish, ReadWish
from agents.drivers.btrfs import BtrfsDriver
wish = ReadWish([DiskWish(DiskAddress(sys.argv[1], "data", 1))], sys.argv[2])
with BtrfsDriver().open_trees(wish):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.mark.case("DP-25")
def test_what_a_killed_job_left_is_swept_and_nothing_else(data: Path, pool: Path) -> None:
    foreign = [make_subvolume(pool / name) for name in (".backupsite-4c.x.data", ".snapshot.data", "backupsite-5b")]
    command = [sys.executable, "-c", KILLED, str(pool), POINT]
    killed = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert killed.stdout and killed.stdin
    with killed, killed.stdout, killed.stdin:
        assert killed.stdout.readline() == b"open\n"
        assert BtrfsDriver().forget([_disk(data)]) == []
        with pytest.raises(DriverError, match="in use"), _opened(data):
            pass
        killed.send_signal(signal.SIGKILL)
        killed.wait()

    kept = make_subvolume(pool / f".{OTHER}.data")
    assert (pool / f".{POINT}.data" / "a").exists()
    assert BtrfsDriver().forget([_disk(data, {OTHER})]) == [POINT]
    assert kept.exists() and all(one.exists() for one in foreign)
    subprocess.run(["mv", data, pool / "moved"], check=True)
    assert BtrfsDriver().forget([_disk(data)]) == [OTHER]
    assert all(one.exists() for one in foreign)


def _faulty(at: int, when: str, calls: list[int]) -> Callable[..., Any]:
    real = fcntl.ioctl

    def call(descriptor: int, number: int, argument: Any) -> Any:
        calls.append(number)
        broken = OSError(errno.EIO, "broken on purpose")
        if len(calls) == at and when == "before":
            raise broken
        done = real(descriptor, number, argument)
        if len(calls) == at:
            raise broken
        return done

    return call


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["read", "restore"])
def test_a_fault_at_each_call_leaves_nothing(
    data: Path, pool: Path, monkeypatch: pytest.MonkeyPatch, kind: str, when: str
) -> None:
    before = snapshot(os.fsencode(data))
    calls: list[int] = []
    at = 0
    while at <= len(calls):
        at, calls = at + 1, []
        with monkeypatch.context() as patched, suppress(DriverError):
            patched.setattr(btrfs_calls.fcntl, "ioctl", _faulty(at, when, calls))
            if kind == "read":
                with _opened(data) as [opened]:
                    assert (opened.root / "a").read_bytes() == b"first"
            else:
                with BtrfsDriver().open_folder(WriteWish(_disk(data).address, 1, safety_point=SAFE)) as target:
                    assert (target.path / "a").exists()
        BtrfsDriver().forget([_disk(data)])
        assert _ours(pool) == set(), (at, calls)
        assert snapshot(os.fsencode(data)) == before

    assert at > 10


def test_the_owner_needs_no_root(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_subvolume(pool / "data")
    for path in (pool, root, make_subvolume(root / "inner")):
        os.chown(path, NOBODY, NOBODY)
    foreign = make_subvolume(pool / "foreign")
    monkeypatch.setattr("agents.drivers.holding._default_folder", lambda: str(pool / "jobs"))
    os.seteuid(NOBODY)
    try:
        assert BtrfsDriver().probe().usable
        with _opened(root) as [opened]:
            assert (opened.root / "inner").is_dir()
            assert _codes(opened) == ["not_one_moment"]
        with pytest.raises(DriverError) as refused, _opened(foreign):
            pass
    finally:
        os.seteuid(0)

    assert refused.value.code == "not_permitted" and "user_subvol_rm_allowed" in refused.value.message
    assert _ours(pool) == set()


@pytest.mark.parametrize(
    ("path", "code"), [("data/folder", "not_a_subvolume"), ("data/a", "disk_missing"), ("none", "disk_missing")]
)
def test_what_is_no_subvolume_is_refused(data: Path, pool: Path, path: str, code: str) -> None:
    with pytest.raises(DriverError) as refused, _opened(pool / path):
        pass

    assert refused.value.code == code


def test_nothing_is_made_beside_what_is_no_btrfs(tmp_path: Path) -> None:
    wish = WriteWish(DiskAddress(str(tmp_path), "new", 1), 1, create=True)

    with pytest.raises(DriverError) as refused, BtrfsDriver().open_folder(wish):
        pass
    with pytest.raises(DriverError) as point, BtrfsDriver().open_trees(_wish(tmp_path, point="mine")):
        pass

    assert (refused.value.code, point.value.code) == ("not_a_subvolume", "bad_point_name")
    assert list(tmp_path.iterdir()) == []


def test_a_subvolume_that_is_a_mount_is_snapshotted_inside_of_itself(data: Path, tmp_path: Path) -> None:
    place = tmp_path / "mount"
    place.mkdir()
    device = subprocess.run(["findmnt", "-no", "SOURCE", "-T", data], capture_output=True, text=True, check=True)
    device_path = device.stdout.split("[")[0].strip()
    subvolume = data.relative_to(
        Path(subprocess.check_output(["findmnt", "-no", "TARGET", "-T", data], text=True).strip())
    )
    subprocess.run(["mount", "-o", f"subvol={subvolume}", device_path, place], check=True)
    try:
        before = snapshot(os.fsencode(place))
        with _opened(place) as [opened]:
            assert opened.root.parent == place
            assert snapshot(os.fsencode(opened.root)) == before
        assert {path.name for path in place.iterdir()} == {"a", "folder"}
    finally:
        subprocess.run(["umount", place], check=True)
