"""A backup that is cut short by what happens on a server, and the same job when it is offered again."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from agents import agent_messages as messages
from agents.program.agent import limits
from tests.agents.program_machine import POLICY, ROOT, Machine, contents
from tests.agents.stand_in import Gate, eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a whole server is read by root alone")

MIB = 1 << 20
JOB = messages.JobOffer("job-1", "backup", begins_at_once=True)
# Packs have 16 MiB. With two on their way and one that is filled, so many are read before the first has arrived.
READ_AHEAD_MIB = 64
# Sorts the names of a directory on disk from a few hundred on, instead of a hundred thousand.
FEW_NAMES = """
import sys
import engine.tree_names
from agents.program.agent import cli, worker
engine.tree_names._RUN_NAMES = 300
worker.mover_command = lambda: [sys.executable, __file__, "move"]
sys.exit(cli.main())
"""


@pytest.fixture
def small(machine: Machine) -> Iterator[Path]:
    """The agent's state on a file system of 2 MiB."""
    state = machine.places.state
    state.mkdir(parents=True, mode=0o700)
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(state)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    yield state
    machine.end()
    subprocess.run(["umount", "-l", str(state)], check=True)


def begun(machine: Machine, *, until: Callable[[Gate], object], mebibytes: int = 40) -> subprocess.Popen[bytes]:
    """The daemon, with a backup under way that has come so far; noise enough for several objects."""
    machine.enrol()
    for number in range(mebibytes):
        (machine.root / f"big-{number:02}").write_bytes(os.urandom(MIB))
    machine.plane.gate.back_up()
    machine.plane.offers.append(JOB)
    daemon = machine.start("daemon")
    eventually(lambda: until(machine.plane.gate))
    return daemon


def held(gate: Gate) -> bool:
    """Some objects are stored, and the next ones do not get through: the mover waits in the middle of its work."""
    return len(gate.arrived) == 3 and gate.puts > 5


def hold(count: int) -> int:
    return 200 if count <= 3 else 503


def ends_well(machine: Machine, daemon: subprocess.Popen[bytes], *, tries: int = 4) -> None:
    """The job is offered again, over a connection that takes an object only at one of so many tries: it goes on with
    what is there, and sends nothing again that has arrived."""
    gate = machine.plane.gate
    left, before, tried = gate.left_behind(), len(gate.arrived), gate.puts
    assert left.packs and not gate.commits
    answers = iter(([503] * (tries - 1) + [200]) * 1000)
    gate.before_put = lambda _: next(answers)
    gate.back_up(resumable=[left])
    machine.plane.offers.append(JOB)
    daemon.send_signal(signal.SIGUSR1)
    eventually(lambda: gate.commits, seconds=90)

    [commit] = gate.commits
    assert {one.key for one in commit.resumed_objects} == {left.envelope.key, *(one.key for one in left.packs)}
    assert len(set(gate.arrived)) == len(gate.arrived)
    assert gate.puts - tried == tries * (len(gate.arrived) - before)
    # Noise does not compress: were anything sent that the first attempt had stored, it would be more than the whole.
    whole = sum(path.stat().st_size for path in machine.root.glob("big-*"))
    assert sum(len(gate.objects[name]) for name in gate.arrived) < whole + MIB
    eventually(lambda: not machine.movers())
    eventually(lambda: "mover_ended" not in machine.run("status"))
    gate.restore()
    machine.plane.offers.append(messages.JobOffer("restore-1", "restore", begins_at_once=True))
    daemon.send_signal(signal.SIGUSR1)
    eventually(lambda: gate.restored)
    assert contents(machine.root / "restored") == contents(machine.root)


@pytest.mark.case("AG-03", "AG-13")
def test_a_mover_that_the_kernel_ends_is_a_job_that_goes_on_where_it_was(machine: Machine) -> None:
    gate = machine.plane.gate
    gate.before_put = hold
    daemon = begun(machine, until=held)
    [mover] = machine.movers()
    os.kill(int(mover), signal.SIGKILL)
    eventually(lambda: machine.plane.polls[-1].problem_code == "mover_ended")

    assert daemon.poll() is None and not gate.failures
    ends_well(machine, daemon)


@pytest.mark.case("AG-04", "AG-13")
def test_an_agent_that_was_killed_goes_on_where_it_was(machine: Machine) -> None:
    machine.plane.gate.before_put = hold
    killed = begun(machine, until=held)
    polls = len(machine.plane.polls)
    killed.kill()
    killed.wait()
    eventually(lambda: not machine.movers())

    daemon = machine.start("daemon")
    eventually(lambda: len(machine.plane.polls) > polls)
    ends_well(machine, daemon)


@pytest.mark.case("AG-01")
def test_a_disk_that_fills_up_in_the_middle_ends_the_job_in_words_and_it_goes_on_with_room(
    machine: Machine, small: Path
) -> None:
    """What does not fit into memory is kept in the agent's state: the names of a large directory."""
    gate, filler = machine.plane.gate, small / "filler"
    (machine.folder / "program.py").write_text(FEW_NAMES)
    machine.program = (str(machine.folder / "program.py"),)
    machine.environment["PYTHONPATH"] = str(ROOT)
    (machine.root / "names").mkdir()
    for number in range(1000):
        (machine.root / "names" / f"{number}").touch()

    def fill_up(count: int) -> int:
        if count == 1:
            _fill_up(filler)
        return 200

    gate.before_put = fill_up
    daemon = begun(machine, until=lambda gate: gate.failures, mebibytes=READ_AHEAD_MIB + 16)

    [failure] = gate.failures
    assert (failure.code, failure.permanent) == ("no_room_for_names", False)
    assert "No space left on device" in failure.message and str(small) in failure.message
    eventually(lambda: not machine.movers())
    assert daemon.poll() is None
    filler.unlink()
    ends_well(machine, daemon, tries=1)


def _fill_up(path: Path) -> None:
    try:
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass


@pytest.mark.parametrize(("idle", "expected"), [(True, 3), (False, 2)], ids=["idle", "best effort"])
def test_the_disk_serves_the_mover_last(machine: Machine, idle: bool, expected: int) -> None:
    """The classes of linux/ioprio.h; asked of the kernel for each thread, by the call after the one that sets it."""
    machine.plane.policy = msgspec.structs.replace(POLICY, idle_io=idle)
    machine.plane.gate.before_put = hold
    begun(machine, until=held)
    [mover] = machine.movers()
    number = limits._IOPRIO_SET[platform.machine()] + 1
    threads = [int(path.name) for path in Path(f"/proc/{mover}/task").iterdir()]
    ask = ctypes.CDLL(None, use_errno=True).syscall

    assert len(threads) > 2
    assert {ask(number, 1, thread) >> 13 for thread in threads} == {expected}


def test_neither_the_agent_nor_its_mover_listens(machine: Machine) -> None:
    machine.plane.gate.before_put = hold
    daemon = begun(machine, until=held)
    [mover] = machine.movers()

    # What is looked for is found where it is: the control plane of this test listens.
    assert listens(os.getpid())
    assert sockets(int(mover))
    assert not listens(daemon.pid) and not listens(int(mover))


def sockets(process: int) -> set[str]:
    found = set()
    for path in Path(f"/proc/{process}/fd").iterdir():
        with suppress(OSError):
            found.add(os.readlink(path).partition("socket:[")[2].rstrip("]"))
    return found - {""}


def listens(process: int) -> set[str]:
    """Sockets of the process that wait for connections of others: state 0A, or of UDP any that is bound to a port."""
    waiting = set()
    for name, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in Path(f"/proc/{process}/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == state:
                waiting.add(words[9])
    return waiting & sockets(process)
