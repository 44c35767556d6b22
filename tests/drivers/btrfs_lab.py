"""A real btrfs on a loop file."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents.drivers import btrfs_calls as btrfs


@contextmanager
def mounted_btrfs() -> Iterator[Path]:
    """Its root, which others than root may look into. Skips with the reason where there can be none."""
    mkfs = shutil.which("mkfs.btrfs", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if mkfs is None:
        pytest.skip("not installed: btrfs-progs")
    with tempfile.TemporaryDirectory(prefix="backupsite-btrfs-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        image, place = folder / "image", folder / "pool"
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(256 << 20)
        subprocess.run([mkfs, "-q", "-f", image], check=True, capture_output=True)
        command = ["mount", "-t", "btrfs", "-o", "loop,user_subvol_rm_allowed", image, place]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"no btrfs on loop files here: {done.stderr.decode().strip()}")
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)


def make_subvolume(path: Path) -> Path:
    with btrfs.directory(os.fsencode(path.parent)) as folder:
        btrfs.create(folder, os.fsencode(path.name))
    return path


def protect(path: Path) -> None:
    """Make it read-only, as snapshots of other tools are."""
    with btrfs.directory(os.fsencode(path)) as descriptor:
        btrfs.set_read_only(descriptor, True)
