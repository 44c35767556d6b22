"""Real file systems on loop files: btrfs with subvolumes, and others."""

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
    """Its root, which others than root may look into; owners of subvolumes may remove them."""
    with mounted("btrfs", "btrfs-progs", size_mib=256, options="loop,user_subvol_rm_allowed") as place:
        yield place


@contextmanager
def mounted(kind: str, package: str, *, size_mib: int, options: str = "loop") -> Iterator[Path]:
    """A new file system on a loop file. Skips with the reason where there can be none."""
    mkfs = shutil.which(f"mkfs.{kind}", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if mkfs is None:
        pytest.skip(f"not installed: {package}")
    with tempfile.TemporaryDirectory(prefix=f"backupsite-{kind}-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        image, place = folder / "image", folder / "pool"
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(size_mib << 20)
        subprocess.run([mkfs, "-q", image], check=True, capture_output=True)
        command = ["mount", "-t", kind, "-o", options, image, place]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"no {kind} on loop files here: {done.stderr.decode().strip()}")
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
