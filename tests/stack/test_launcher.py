"""The command line: refusals before anything is started."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backupsite.stack.ports import PORT_SPAN, free_ports
from backupsite.stack.preflight import DataLock

ROOT = Path(__file__).resolve().parents[2]


def run(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "backupsite.stack", command]
    return subprocess.run(
        argv, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment, timeout=120, check=False
    )


@pytest.mark.parametrize("command", ["up", "demo", "smoke"])
def test_a_bad_port_is_one_line_and_nothing_is_made(command: str, tmp_path: Path) -> None:
    done = run(command, BACKUPSITE_PORT="eight thousand", BACKUPSITE_DATA=str(tmp_path / "var"))

    assert done.returncode == 2
    assert done.stderr.startswith("not started: BACKUPSITE_PORT must be a number") and done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (tmp_path / "var").exists()


def test_a_taken_port_is_one_line_and_nothing_is_made(tmp_path: Path) -> None:
    ports = free_ports(PORT_SPAN)
    with socket.create_server(("127.0.0.1", ports[2])):
        done = run("up", BACKUPSITE_PORT=str(ports[0]), BACKUPSITE_DATA=str(tmp_path / "var"))

    assert done.returncode == 2
    assert f"port {ports[2]}, needed for the session gate" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "var").exists()


def test_a_second_stack_is_refused(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    lock = DataLock(tmp_path / "var")
    lock.take()

    done = run("smoke", BACKUPSITE_PORT=str(free_ports(PORT_SPAN)[0]), BACKUPSITE_DATA=str(tmp_path / "var"))

    lock.release()
    assert done.returncode == 2
    assert f"process {os.getpid()}" in done.stderr and done.stderr.count("\n") == 1


def test_the_launcher_imports_no_django() -> None:
    code = "import backupsite.stack.__main__, sys; print({'django', 'celery'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)

    assert done.stdout.strip() == "set()"
