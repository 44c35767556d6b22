"""Whatever fails or dies at any call: the sweep finds everything, and the base is as good as before."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest

from agents.drivers.base import POINT_PREFIX, DriverError, ReadWish, WriteWish
from tests.drivers.libvirt_lab import Lab

pytestmark = pytest.mark.long

MIB = 1024 * 1024
SIZE = 4 * MIB
ONE, TWO, SAFE = (f"{POINT_PREFIX}{name}" for name in ("one", "two", "safe"))
NEW = "new.qcow2"
CHANGING = "create -q|backup-begin|domjobabort|checkpoint-create|checkpoint-delete|bitmap|snapshot|--fork"

# Stands in for a tool: counts its calls and fails one of them, before or after the real tool did its work. What is
# only asked before the first change is not counted: nothing could be left of it.
SHIM = """#!/bin/sh
if [ "$FAULT_WHEN" != before ] || [ ! -s "$FAULT_CALLS" ]; then
    echo " $* " | grep -qE -- "{changing}" || exec "{tool}" "$@"
fi
echo "$*" >> "$FAULT_CALLS"
[ "$(wc -l < "$FAULT_CALLS")" = "$FAULT_AT" ] || exec "{tool}" "$@"
[ "$FAULT_WHEN" = before ] || "{tool}" "$@" > /dev/null 2>&1
[ "$FAULT_WHEN" = killed ] && kill -9 "$PPID"
echo "error: broken on purpose" >&2
exit 1
"""


class Faults:
    """Makes one call of virsh, qemu-img and qemu-nbd fail, counted over all three."""

    def __init__(self, folder: Path, patched: pytest.MonkeyPatch) -> None:
        self.calls = folder / "calls"
        self._patched = patched
        for name in ("virsh", "qemu-img", "qemu-nbd"):
            tool = folder / name
            tool.write_text(SHIM.format(tool=shutil.which(name), changing=CHANGING))
            tool.chmod(0o755)
        self._path = f"{folder}:{os.environ['PATH']}"

    def run(self, when: str, at: int, job: Callable[[], None]) -> bool:
        """Run the job with the fault; False when it has fewer calls than that."""
        self.calls.write_text("")
        with self._patched.context() as patched:
            for name, value in (("WHEN", when), ("AT", str(at)), ("CALLS", str(self.calls))):
                patched.setenv(f"FAULT_{name}", value)
            patched.setenv("PATH", self._path)
            if when == "killed":
                ended = in_a_process(job)
            else:
                with suppress(DriverError):
                    job()
        was_reached = len(self.calls.read_text().splitlines()) >= at
        assert when != "killed" or ended == (signal.SIGKILL if was_reached else 0)
        return was_reached


def in_a_process(job: Callable[[], object]) -> int:
    """Run it in a process of its own, which may be killed in it; the signal that ended it, or 0."""
    pid = os.fork()
    if pid == 0:
        try:
            job()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


def _read(lab: Lab, server: str, point: str, base: str | None) -> list[int]:
    """Offsets of what changed, or of what there is when that is not known."""
    kept = [base] if base else []
    with lab.driver.open_sources(ReadWish([lab.wish(server, "a.qcow2", base, kept)], point)) as [disk]:
        changed = disk.source.changed_extents()
        found = [extent.offset for extent in (disk.source.extents() if changed is None else changed)]
        disk.source.check_unchanged()
        return found


def _write(lab: Lab, server: str) -> None:
    """To its disk, or without a server to a new one."""
    if server:
        wish = WriteWish(lab.wish(server, "a.qcow2").address, SIZE, safety_point=SAFE)
    else:
        wish = WriteWish(lab.wish("", NEW).address, SIZE, create=True)
    with lab.driver.open_target(wish) as opened:
        opened.target.write(0, b"restored")
        opened.target.flush()


@pytest.mark.parametrize(
    ("kind", "when"),
    [*product(("running", "off", "target"), ("before", "after", "killed")), ("new", "killed")],
)
def test_a_fault_or_a_kill_at_each_call_leaves_nothing(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, when: str
) -> None:
    lab.disk("a.qcow2", SIZE)
    server = lab.server("one", ["a.qcow2"])
    if kind in ("running", "off"):
        lab.start("one")
        _read(lab, server, ONE, None)
        lab.guest_writes("one", "write -P 7 1M 64k")
    if kind == "off":
        lab.stop("one")
    before, faults, at = lab.traces("one"), Faults(tmp_path, monkeypatch), 1
    # The new disk is in the catalogue, whatever became of it.
    wishes = [lab.wish(server, "a.qcow2", kept=[ONE]), lab.wish(server, NEW)]

    def job() -> None:
        if kind in ("target", "new"):
            _write(lab, server if kind == "target" else "")
        else:
            assert _read(lab, server, TWO, ONE) in ([MIB], [0, MIB])

    while faults.run(when, at, job):
        failed = faults.calls.read_text().splitlines()[at - 1]
        lab.driver.forget(wishes)
        (lab.folder / NEW).unlink(missing_ok=True)
        assert lab.traces("one") == before, failed
        at += 1
    lab.driver.forget(wishes)

    assert at > 2
    if kind in ("running", "off"):
        assert _read(lab, server, TWO, ONE) == [MIB]


KILLED = """
import sys
from agents.drivers.base import DiskAddress, DiskWish, ReadWish, WriteWish
from agents.drivers.libvirt import LibvirtDriver
uri, jobs, storage, server, kind, point, base = sys.argv[1:]
address = DiskAddress(storage, "a.qcow2", 0, server)
driver = LibvirtDriver(uri, jobs)
if kind == "target":
    opening = driver.open_target(WriteWish(address, 4096, safety_point=point))
else:
    opening = driver.open_sources(ReadWish([DiskWish(address, base, frozenset([base]))], point))
with opening:
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.mark.case("DP-25", "RS-03")
def test_what_a_killed_process_left_is_swept(lab: Lab) -> None:
    lab.disk("a.qcow2", SIZE)
    server = lab.server("one", ["a.qcow2"])
    lab.start("one")
    _read(lab, server, ONE, None)
    wish = lab.wish(server, "a.qcow2", kept=[ONE])
    for kind, swept in (("running", {"job", TWO}), ("off", {TWO}), ("target", {SAFE})):
        if kind == "off":
            lab.stop("one")
        before = lab.traces("one")
        point = SAFE if kind == "target" else TWO
        arguments = [lab.uri, str(lab.jobs), str(lab.folder), server, kind, point, ONE]
        killed = subprocess.Popen(
            [sys.executable, "-c", KILLED, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert killed.stdout and killed.stdin
        assert killed.stdout.readline() == "open\n"
        assert lab.driver.forget([wish]) == []
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        killed.stdin.close()
        killed.stdout.close()

        removed = set(lab.driver.forget([wish]))

        assert swept <= removed
        if kind == "target":
            before = {**before, "points": [], "bitmaps": {"a.qcow2": []}}
        assert lab.traces("one") == before
        assert lab.driver.forget([wish]) == []
