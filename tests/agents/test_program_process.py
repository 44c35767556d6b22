"""The agent program as real processes, against a control plane in memory: enrolled, killed, restored from."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from agents import agent_messages as messages
from agents.answer_signing import sign_release
from agents.program.agent.errors import EXIT_REFUSED
from agents.program.agent.files import holder
from agents.program.agent.loop import tree_digest
from tests.agents.program_machine import POLICY, ROOT, Machine, contents
from tests.agents.stand_in import ControlPlane, eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a whole server is read by root alone")


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
    assert commit.facts.has_configuration
    assert [one.code for one in commit.facts.warnings] == ["part_of_server", "not_one_moment"]

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
    assert counts == sorted(set(counts)) and plane.polls[0].trees
    # Told again only when they are others; what else runs here fills the same disk.
    told = [tree_digest(poll.trees) for poll in plane.polls if poll.trees is not None]
    assert len(told) < len(counts) and all(one != other for one, other in pairwise(told))
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
    eventually(lambda: not machine.movers())

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
    told = {one.code: one.message for one in gate.commits[0].facts.warnings}
    assert sorted(told) == ["not_one_moment", "part_of_server"]
    assert [told["not_one_moment"]] == ["Without a snapshot, so files there are of different moments: /."]
    gate.restore()
    plane.offers.append(messages.JobOffer("restore-1", "restore", begins_at_once=True))
    daemon.send_signal(signal.SIGUSR1)
    eventually(lambda: gate.restored)
    expected = contents(machine.root)
    assert contents(machine.root / "restored") == expected and expected["data/inner/deep"] == b"below"


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
    [mover] = machine.movers()
    assert os.getpriority(os.PRIO_PROCESS, int(mover)) > 10 and "session-job-1" not in _words_of(mover)
    gate.cancel = True
    eventually(lambda: gate.failures)
    assert gate.failures[0].code == "canceled"
    eventually(lambda: said.exists() and said.read_text() == "pre-1\npost-1\n")

    # Memory that runs out ends the mover alone; the agent says so, and the job can begin again.
    # The next one is offered only when its mover is gone: the agent may ask at once.
    eventually(lambda: not machine.movers())
    gate.cancel = False
    gate.back_up()
    plane.offers.append(messages.JobOffer("job-2", "backup", begins_at_once=True))
    daemon.send_signal(signal.SIGUSR1)
    beats = len(gate.beats)
    eventually(lambda: len(gate.beats) > beats)
    os.kill(int(machine.movers()[0]), signal.SIGKILL)
    eventually(lambda: plane.polls[-1].problem_code == "mover_ended")
    assert daemon.poll() is None
    plane.policy = msgspec.structs.replace(plane.policy, number=2, allows_excludes=True, bandwidth=[])
    (machine.root / "big").unlink()
    gate.back_up()
    plane.offers.append(messages.JobOffer("job-3", "backup", begins_at_once=True))
    daemon.send_signal(signal.SIGUSR1)
    eventually(lambda: gate.commits)
    eventually(lambda: not machine.movers())
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
