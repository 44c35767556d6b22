"""The agent program as real processes, against a control plane in memory: enrolled, killed, restored from."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents import agent_messages as messages
from agents.answer_signing import sign_release
from agents.program.agent.errors import EXIT_REFUSED
from agents.program.agent.files import holder
from agents.program.agent.places import Places
from tests.agents.stand_in import ControlPlane, eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a whole server is read by root alone")
ROOT = Path(__file__).parents[2]
POLICY = messages.AgentPolicy(number=1, issued_at=datetime(2026, 1, 1, tzinfo=UTC), start_jitter_seconds=0)


@dataclass
class Machine:
    """A directory that is a whole server, with the program's own folder beside it."""

    folder: Path
    plane: ControlPlane
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = self.folder / "server"
        self.root.mkdir()
        self.places = Places.of(str(self.folder / "home"))
        self.configure()

    def configure(self, **more: Any) -> None:
        self.places.config.mkdir(parents=True, exist_ok=True, mode=0o700)
        told = {"root": str(self.root), "programs": str(self.folder / "programs"), **more}
        self.places.settings.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in told.items()))
        self.places.settings.chmod(0o600)

    def start(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "agents.program.agent", "--home", str(self.folder / "home"), *words]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
        self.processes.append(process)
        return process

    def run(self, *words: str, code: int = 0, **more: Any) -> str:
        process = self.start(*words, **more)
        out, error = process.communicate(timeout=60)
        assert process.returncode == code, (words, process.returncode, out, error, self.log())
        return (out + error).decode()

    def json(self, *words: str, code: int = 0) -> Any:
        said = self.run(*words, "--json", code=code)
        return json.loads(said[said.index("{") : said.rindex("}") + 1])

    def enrol(self) -> None:
        self.run("enrol", self.plane.token, "--url", self.plane.url)

    def log(self) -> str:
        return self.places.log.read_text() if self.places.log.exists() else ""

    def fill(self, count: int = 40) -> None:
        for number in range(count):
            folder = self.root / f"folder {number % 7}"
            folder.mkdir(exist_ok=True)
            (folder / f"file-{number}").write_bytes(os.urandom(30 * (number * 37 % 900)))

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


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


def contents(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "restored" not in path.relative_to(folder).parts:
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


@pytest.mark.case("AG-14")
def test_a_server_is_enrolled_backed_up_and_restored(machine: Machine) -> None:
    plane, gate = machine.plane, machine.plane.gate
    machine.run("status", code=3)
    machine.enrol()
    machine.fill()
    assert "already" in machine.run("enrol", plane.token, "--url", plane.url, code=2)
    daemon = machine.start("daemon")
    eventually(lambda: plane.polls)
    assert "process" in machine.run("daemon", code=8)

    gate.back_up()
    done = machine.json("run")
    assert done["stored_bytes"] > 0 and plane.asked.count("start/") == 1
    [commit] = gate.commits
    assert commit.facts.has_configuration and [one.code for one in commit.facts.warnings] == ["not_one_moment"]

    # Nothing changed: nothing but names is stored again.
    gate.back_up()
    machine.run("run")
    assert gate.commits[1].stored_bytes < commit.stored_bytes / 10

    before = contents(machine.root)
    gate.restore()
    plane.restore = messages.RestoreAsked("r1", "AB-12", "https://portal/x", plane.now(), "confirmed", "restore-1")
    plane.offers.append(messages.JobOffer("restore-1", "restore", begins_at_once=True))
    assert "AB-12" in machine.run("restore", "nightly-1", "--to", str(machine.root / "restored"))
    assert contents(machine.root / "restored") == before and len(before) == 40

    status = machine.json("status")
    assert status["service"] == "running" and status["last_backup"]["code"] == "" and status["policy"] == 1
    assert machine.json("list")["backups"][0]["id"] == "b1"
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(20) == 0
    counts = [poll.count for poll in plane.polls]
    assert counts == sorted(set(counts)) and plane.polls[0].trees and plane.polls[-1].trees is None
    machine.run("unenrol", "--purge")
    assert not any(path.is_file() for path in (machine.places.state / "keys").rglob("*"))
    assert not machine.places.identity.exists() and gate.objects and "unenrol/" in plane.asked


@pytest.mark.parametrize("is_running", [False, True], ids=["by itself", "by the service"])
def test_run_ends_when_the_agent_is_quarantined_meanwhile(machine: Machine, is_running: bool) -> None:
    machine.enrol()
    if is_running:
        machine.start("daemon")
        eventually(lambda: machine.plane.polls)
    machine.plane.refuse["poll/"] = [(403, "agent_quarantined")] * 50

    assert "refused: agent_quarantined" in machine.run("run", code=EXIT_REFUSED)


@pytest.mark.case("AG-04", "AG-13")
def test_it_is_killed_while_it_reads_a_snapshot_and_nothing_is_left_over(machine: Machine, btrfs: Path) -> None:
    plane, gate = machine.plane, machine.plane.gate
    machine.enrol()
    machine.fill(10)
    for number in range(6):
        (btrfs / f"big-{number}").write_bytes(os.urandom(3 << 20))
    (btrfs / "inner" / "deep").write_bytes(b"below")
    # The third object never gets through: the mover holds its snapshots and waits.
    gate.before_put = lambda count: 200 if count < 3 else 503
    gate.back_up()
    plane.offers.append(messages.JobOffer("job-1", "backup", begins_at_once=True))
    daemon = machine.start("daemon")
    eventually(lambda: gate.puts > 4)
    assert len(list(btrfs.glob(".backupsite-host-*"))) == 2
    before = plane.polls[-1].count
    # Not to be seen from here, and gone with its process.
    assert "lib/work/tree" not in Path("/proc/self/mountinfo").read_text()
    daemon.kill()
    daemon.wait()
    eventually(lambda: not _movers(machine))

    # A cut connection, and then one that is good again; what was changed meanwhile is in the next one.
    cut = iter([503, 503, 503, 200] * 1000)
    gate.before_put = lambda _: next(cut)
    (btrfs / "big-0").write_bytes(b"another")
    gate.back_up()
    plane.offers.append(messages.JobOffer("job-2", "backup", begins_at_once=True))
    daemon = machine.start("daemon")
    eventually(lambda: plane.polls[-1].count > before)
    eventually(lambda: gate.commits)
    eventually(lambda: not list(btrfs.glob(".backupsite-host-*")))
    assert [one.message for one in gate.commits[0].facts.warnings] == [
        "Without a snapshot, so files there are of different moments: /."
    ]
    gate.restore()
    plane.offers.append(messages.JobOffer("restore-1", "restore", begins_at_once=True))
    daemon.send_signal(signal.SIGUSR1)
    eventually(lambda: gate.restored)
    expected = contents(machine.root)
    assert contents(machine.root / "restored") == expected and expected["data/inner/deep"] == b"below"


def _movers(machine: Machine) -> list[str]:
    """Processes of this machine's mover: what they say goes to the agent's log."""
    found = []
    for path in Path("/proc").glob("[0-9]*/fd/2"):
        try:
            if os.readlink(path) == str(machine.places.log):
                found.append(path.parts[2])
        except OSError:
            continue
    return found


@pytest.mark.case("AG-01", "AG-03")
def test_hooks_a_cancel_and_a_mover_that_the_kernel_ends(machine: Machine) -> None:
    plane, gate = machine.plane, machine.plane.gate
    plane.policy = msgspec.structs.replace(
        POLICY, allows_hooks=True, excludes=["/folder 1/"], bandwidth=[messages.BandwidthHours(0, 24, 200_000)]
    )
    machine.configure(excludes=["/folder 2/"])
    machine.enrol()
    machine.fill()
    machine.places.hooks.mkdir(mode=0o700)
    said = machine.folder / "said"
    for name in ("pre-1", "post-1"):
        hook = machine.places.hooks / name
        hook.write_text(f"#!/bin/sh\necho {name} >> {said}\n")
        hook.chmod(0o700)
    (machine.root / "big").write_bytes(os.urandom(20 << 20))
    gate.back_up()
    plane.offers.append(messages.JobOffer("job-1", "backup", begins_at_once=True))
    daemon = machine.start("daemon")
    eventually(lambda: gate.beats and any(beat.done_bytes for beat in gate.beats))
    [mover] = _movers(machine)
    assert os.getpriority(os.PRIO_PROCESS, int(mover)) > 10 and "session-job-1" not in _words_of(mover)
    gate.cancel = True
    eventually(lambda: gate.failures)
    assert gate.failures[0].code == "canceled"
    eventually(lambda: said.exists() and said.read_text() == "pre-1\npost-1\n")

    # Memory that runs out ends the mover alone; the agent says so, and the job can begin again.
    # The next one is offered only when its mover is gone: the agent may ask at once.
    eventually(lambda: not _movers(machine))
    gate.cancel = False
    gate.back_up()
    plane.offers.append(messages.JobOffer("job-2", "backup", begins_at_once=True))
    daemon.send_signal(signal.SIGUSR1)
    beats = len(gate.beats)
    eventually(lambda: len(gate.beats) > beats)
    os.kill(int(_movers(machine)[0]), signal.SIGKILL)
    eventually(lambda: plane.polls[-1].problem_code == "mover_ended")
    assert daemon.poll() is None
    plane.policy = msgspec.structs.replace(plane.policy, number=2, allows_excludes=True, bandwidth=[])
    (machine.root / "big").unlink()
    gate.back_up()
    plane.offers.append(messages.JobOffer("job-3", "backup", begins_at_once=True))
    daemon.send_signal(signal.SIGUSR1)
    eventually(lambda: gate.commits)
    eventually(lambda: not _movers(machine))
    gate.restore()
    plane.offers.append(messages.JobOffer("restore-1", "restore", begins_at_once=True))
    daemon.send_signal(signal.SIGUSR1)
    eventually(lambda: gate.restored)
    folders = {name.split("/")[0] for name in contents(machine.root / "restored")}
    assert folders == {f"folder {number}" for number in (0, 3, 4, 5, 6)}


@pytest.mark.case("AG-06")
def test_an_update_waits_for_the_job_and_the_new_program_goes_on(machine: Machine) -> None:
    plane, gate, programs = machine.plane, machine.plane.gate, machine.folder / "programs"
    starts = f'cd {ROOT} && exec {sys.executable} -m agents.program.agent "$@"'
    program = f'#!/bin/sh\n[ "$1" = --version ] && echo {{}} && exit\n{starts}\n'
    (programs / "releases/7/bin").mkdir(parents=True)
    (programs / "releases/7/bin/backupsite-agent").write_text(program.format("7"))
    (programs / "releases/7/bin/backupsite-agent").chmod(0o755)
    (programs / "current").symlink_to("releases/7")
    shutil.copy(ROOT / "tools/agent/run.sh", programs / "run.sh")
    machine.enrol()
    machine.fill()
    (machine.root / "big").write_bytes(os.urandom(6 << 20))
    may_go_on = threading.Event()
    gate.before_put = lambda _: 200 if may_go_on.is_set() else 503
    gate.back_up()
    plane.offers.append(messages.JobOffer("job-1", "backup", begins_at_once=True))
    home = {**os.environ, "BACKUPSITE_AGENT_HOME": str(machine.folder / "home")}
    starter = subprocess.Popen(["sh", programs / "run.sh"], env=home)
    machine.processes.append(starter)
    eventually(lambda: gate.puts)
    plane.update = _offer(plane, program.format("9.8"))
    os.kill(_holder(machine), signal.SIGUSR1)
    eventually(lambda: len(plane.polls) > 1)
    assert os.readlink(programs / "current") == "releases/7" and not gate.commits

    may_go_on.set()
    eventually(lambda: gate.commits)
    eventually(lambda: os.readlink(programs / "current") == "releases/8")
    plane.update = None
    eventually(lambda: not (programs / "trial").exists())
    starter.send_signal(signal.SIGTERM)
    assert starter.wait(30) == 0 and len(gate.commits) == 1


def _holder(machine: Machine) -> int:
    found = holder(machine.places.lock)
    assert found is not None
    return found


def _offer(plane: ControlPlane, program: str) -> messages.UpdateOffer:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        member = tarfile.TarInfo("bin/backupsite-agent")
        member.size, member.mode = len(program), 0o755
        tar.addfile(member, io.BytesIO(program.encode()))
    content = data.getvalue()
    plane.releases["8.tar.gz"] = content
    digest = hashlib.sha256(content).hexdigest()
    manifest = msgspec.json.encode(messages.ReleaseManifest(8, "9.8", "8.tar.gz", len(content), digest))
    signature = sign_release(private_key=plane.release_key.private, manifest=manifest)
    return messages.UpdateOffer(manifest, signature)


def _words_of(process: str) -> str:
    return "".join(Path(f"/proc/{process}/{name}").read_text(errors="replace") for name in ("cmdline", "environ"))
