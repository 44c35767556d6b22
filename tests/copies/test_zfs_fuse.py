"""A chain on a real pool of zfs-fuse 0.7, which lacks most of what is newer; where it is installed and we are root.

It is in no list of packages: it would take the place of a machine's own ZFS. Real OpenZFS is `make lab-zfs`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents.drivers.zfs import ZfsDriver
from agents.drivers.zfs_commands import Host
from agents.drivers.zfs_sets import Base, SendWish, remove_set, send_set
from agents.drivers.zfs_swap import SwapWish, restore_set

pytestmark = pytest.mark.skipif(
    shutil.which("zfs-fuse") is None or os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK),
    reason="needs zfs-fuse, root and /dev/fuse",
)
DOES_NOT_WORK = "zfs-fuse does not work here"


@contextmanager
def _pool(tmp_path: Path) -> Iterator[Path]:
    """The mount point of a pool `bsfuse` with a dataset `web`."""
    daemon = subprocess.Popen(["zfs-fuse", "-n", "--no-kstat-mount", "-p", str(tmp_path / "pid")])
    try:
        end = time.monotonic() + 60
        # One that does not work here has ended.
        while subprocess.run(["zpool", "list"], capture_output=True).returncode and time.monotonic() < end:
            if daemon.poll() is not None:
                break
            time.sleep(0.05)
        with open(tmp_path / "pool.img", "wb") as file:
            file.truncate(128 << 20)
        _destroy()
        made = ["zpool", "create", "-O", f"mountpoint={tmp_path / 'mnt'}", "bsfuse", str(tmp_path / "pool.img")]
        failed = subprocess.run(made, capture_output=True, text=True)
        if failed.returncode:
            sys.exit(f"{DOES_NOT_WORK}: {failed.stderr}")
        subprocess.run(["zfs", "create", "bsfuse/web"], check=True)
        subprocess.run(["zfs", "create", "bsfuse/copies"], check=True)
        yield tmp_path / "mnt"
    finally:
        subprocess.run(["zfs", "unmount", "-f", "-a"], capture_output=True)
        _destroy()
        daemon.terminate()
        daemon.wait(60)


def _destroy() -> None:
    """The pool of this run, or of one that was killed: its mounts are let go of only after a moment."""
    end = time.monotonic() + 30
    while time.monotonic() < end and subprocess.run(["zpool", "list", "bsfuse"], capture_output=True).returncode == 0:
        subprocess.run(["zpool", "destroy", "-f", "bsfuse"], capture_output=True)
        time.sleep(0.1)


def test_a_chain_a_removal_and_a_restore(tmp_path: Path) -> None:
    """In a mount namespace of its own: one that another test makes meanwhile would hold these mounts, too."""
    program = "import pathlib, sys; from tests.copies.test_zfs_fuse import chain; chain(pathlib.Path(sys.argv[1]))"
    words = ["unshare", "--mount", sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    if DOES_NOT_WORK in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr


def chain(folder: Path) -> None:
    with _pool(folder) as pool:
        host, bases = Host(), []
        assert ZfsDriver().probe().usable and not host.abilities.resumes and not host.abilities.bookmarks
        for number in (1, 2):
            (pool / "web" / "text").write_text(f"content {number}")
            wish = SendWish(
                source="bsfuse/web",
                disk="disk-1",
                snapshot=f"bs-{number}",
                chain=f"bsfuse/copies/web-{number}",
                bases=list(bases),
                kept=frozenset({"bs-1"}),
                known=frozenset({"bs-1"}),
            )
            done = send_set(host, host, wish)
            bases.insert(0, Base(done.place, done.guid))

        assert [base.place for base in bases] == ["bsfuse/copies/web-1@bs-2", "bsfuse/copies/web-1@bs-1"]
        # A dataset that is in use is refused; this file system lets go of it only a moment after the last write.
        while subprocess.run(["zfs", "unmount", "bsfuse/web"], capture_output=True).returncode:
            time.sleep(0.05)
        restore_set(host, bases[1].place, host, SwapWish("bsfuse/web", "disk-1", "abc"))
        subprocess.run(["zfs", "mount", "bsfuse/web"], capture_output=True)
        assert (pool / "web" / "text").read_text() == "content 1"
        assert host.datasets_below("bsfuse") == ["bsfuse", "bsfuse/copies", "bsfuse/copies/web-1", "bsfuse/web"]
        assert all(remove_set(host, base.place, disk="disk-1") for base in bases)
        assert host.datasets_below("bsfuse/copies") == ["bsfuse/copies"]
