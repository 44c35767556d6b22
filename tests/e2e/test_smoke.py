"""`smoke` is the promise of the first page: exit 0 only when the disks are identical, and nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backupsite.stack.ports import PORT_SPAN, free_ports

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(2000)]
ROOT = Path(__file__).resolve().parents[2]


def test_smoke_twice_on_one_data_folder_leaves_no_process(tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("BACKUPSITE_")},
        "BACKUPSITE_DATA": str(tmp_path / "data"),
        "BACKUPSITE_PORT": str(free_ports(PORT_SPAN)[0]),
        # The same journey as with the demo's own size, in half the time.
        "BACKUPSITE_DEMO_DISK_MIB": "256",
    }
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "backupsite.stack", "smoke"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )

        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert "identical, e2fsck clean" in done.stdout
        assert "deleting that version was refused: AccessDenied" in done.stdout
        assert not _processes_of(tmp_path)


def _processes_of(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in environment + command:
            found.append(command.replace(b"\0", b" ").decode())
    return found
