"""A server with the agent program, and file systems that are made for one test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents.program_machine import POLICY, Machine
from tests.agents.stand_in import ControlPlane


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    plane = ControlPlane(policy=POLICY).start()
    machine = Machine(tmp_path, plane)
    yield machine
    machine.end()
    plane.stop()


@pytest.fixture
def btrfs(machine: Machine) -> Iterator[Path]:
    """A btrfs file system with a subvolume, mounted in the server."""
    image, at = machine.folder / "btrfs.img", machine.root / "data"
    at.mkdir()
    with open(image, "wb") as file:
        file.truncate(256 << 20)
    try:
        subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no btrfs can be mounted here: {error}")
    subprocess.run(["btrfs", "subvolume", "create", str(at / "inner")], check=True, capture_output=True)
    yield at
    subprocess.run(["umount", "-l", str(at)], check=True)
