"""However the launcher ends, nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import alive, eventually

pytestmark = pytest.mark.stack

ROOT = Path(__file__).resolve().parents[2]
# Whoever runs the tests may ignore SIGHUP (nohup does), and what is ignored is inherited.
LAUNCHER = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from pathlib import Path
from backupsite.stack.probes import log_says
from backupsite.stack.process import Child, ChildSpec

here, code = Path(sys.argv[1]), sys.argv[2]
child = Child(ChildSpec(name="stand-in", argv=(sys.executable, "-c", code), env={"PATH": os.defpath}, cwd=here,
                        log_directory=here, ready=log_says("grandchild")))
child.start()
print(child.pid, child.log_text().split()[1], flush=True)
sys.stdin.read()
"""
PLAIN = """
import subprocess, time
other = subprocess.Popen(["sleep", "600"])
print("grandchild", other.pid, flush=True)
time.sleep(600)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + PLAIN


def launch(here: Path, code: str) -> tuple[subprocess.Popen[str], list[int]]:
    """It runs until its standard input ends."""
    argv = [sys.executable, "-c", LAUNCHER, str(here), code]
    launcher = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert launcher.stdout is not None
    pids = [int(word) for word in launcher.stdout.readline().split()]
    assert len(pids) == 2 and all(alive(pid) for pid in pids)
    return launcher, pids


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_killed_launcher_leaves_no_process_at_all(tmp_path: Path, number: signal.Signals) -> None:
    launcher, pids = launch(tmp_path, STUBBORN)
    guardian = guardian_of(launcher.pid)

    launcher.send_signal(number)
    assert launcher.wait(timeout=60) == -number
    launcher.communicate()

    assert eventually(lambda: not any(alive(pid) for pid in [*pids, guardian]), seconds=60)


def test_a_launcher_that_forgets_its_child_takes_it_along(tmp_path: Path) -> None:
    launcher, pids = launch(tmp_path, STUBBORN)

    launcher.communicate(timeout=60)

    # Nobody waits for the death of what was killed.
    assert launcher.returncode == 0
    assert eventually(lambda: not any(alive(pid) for pid in pids), seconds=30)


def test_the_kernel_ends_the_child_when_the_guardian_was_killed_too(tmp_path: Path) -> None:
    launcher, (child, grandchild) = launch(tmp_path, PLAIN)
    os.kill(guardian_of(launcher.pid), signal.SIGKILL)

    launcher.kill()
    launcher.communicate(timeout=60)

    assert eventually(lambda: not alive(child), seconds=30)
    os.kill(grandchild, signal.SIGKILL)


def guardian_of(launcher: int) -> int:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and b"guardian.py" in (entry / "cmdline").read_bytes():
                return int(entry.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    raise AssertionError("the launcher has no guardian")
