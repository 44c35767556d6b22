"""`make lab-agent-systems`: the built agent program, installed by its line on other systems, against the running stack.

Debian 11, 12 and 13 in folders (the frozen program, wheels, package, cron), and Debian 12 with systemd in an emulated
machine (the unit with all its limits, stop and kill, updates and going back, the package). What it says is also in
var/lab/agent-systems.log; the first line that fails names what was seen, and the steps after it run all the same.
`python -m tests.lab.systems`, with the names of steps such as `cron`; without a name all of them.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from backupsite.stack.ports import PORT_SPAN, free_ports
from backupsite.stack.settings import StackSettings
from backupsite.stack.stack import Stack
from backupsite.stack.terminal import Terminal
from tests.engine.chunk_support import snapshot
from tests.lab.agent import prepared
from tests.lab.boxes import Box, Emulated, Folder
from tests.lab.deb import deb_of_release, deb_step
from tests.lab.releases import SECOND_VERSION, Releases, broken, second
from tests.lab.server import Server

LOG = Path("var/lab/agent-systems.log")
PROGRAMS = "/opt/backupsite-agent"
UNIT = "backupsite-agent.service"
# Longer than `daemon.TRIAL_SECONDS`, and the service's own ten seconds.
SILENT_SECONDS = 720
# An emulated machine takes half a minute to start the program, on a busy one several.
STARTS_SECONDS = 600
RUNS = "backupsite-agent status | grep -q '^service  *running' && echo yes"
# Without the times of reading and of changing the inode, which no restore brings back.
DIGEST = (
    "tar -C {} --sort=name --xattrs --numeric-owner"
    " --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -cf - data | sha256sum"
)


class Lab:
    def __init__(self, stack: Stack, folder: Path, releases: Releases) -> None:
        self.running = prepared(stack)
        self.folder, self.releases = folder, releases

    # --- steps --------------------------------------------------------------------------------------------------------

    def bullseye(self) -> str:
        return self._in_folder(Folder("bullseye", "bullseye", self.folder))

    def bookworm(self) -> str:
        return self._in_folder(Folder("bookworm", "bookworm", self.folder))

    def trixie(self) -> str:
        return self._in_folder(Folder("trixie", "trixie", self.folder))

    def wheels(self) -> str:
        """As on a system whose C library is too old for the frozen program."""
        self.releases.publish(broken(self.releases.archive, self.folder / "wheels.tar.gz"))
        try:
            return self._in_folder(Folder("wheels", "bookworm", self.folder), environment=True)
        finally:
            self.releases.publish(self.releases.archive)

    def deb(self) -> str:
        return deb_step(self.folder)

    def cron(self) -> str:
        box = Folder("cron", "bookworm", self.folder, first="cron")
        with box.running():
            server = self._installed(box)
            assert "run.sh" in box.shell("cat /etc/cron.d/backupsite-agent")
            box.power_off()
            box.boot()
            box.until(RUNS, seconds=STARTS_SECONDS, what="cron did not start it")
            server.back_up()
            told = self._updates(box, server, ask="kill -USR1 $(cat /var/lib/backupsite-agent/agent.lock)")
            box.run("backupsite-agent", "doctor")
            return f"started by cron with the system; {told}"

    def systemd(self) -> str:
        with Emulated("systemd", self.folder, port=free_ports(1)[0]).running() as box:
            server = self._in_machine(box)
            return _all_of(
                lambda: self._limits(box), lambda: self._backed_up(box, server), lambda: self._stopped(box, server)
            )

    def updates(self) -> str:
        ask = f"systemctl kill -s USR1 --kill-whom=main {UNIT}"
        with Emulated("updates", self.folder, port=free_ports(1)[0]).running() as box:
            server = self._in_machine(box)
            return _all_of(
                lambda: self._updates(box, server, ask=ask),
                lambda: self._silent(box, server, ask=ask),
            )

    def removed(self) -> str:
        with Emulated("removed", self.folder, port=free_ports(1)[0]).running() as box:
            return self._removed(box, self._in_machine(box))

    def deb_machine(self) -> str:
        """The package under a systemd: nothing runs before it is enrolled; an upgrade and a boot bring it back."""
        with Emulated("deb-machine", self.folder, port=free_ports(1)[0]).running() as box:
            self._open_ways(box)
            box.shell("mkdir -p /srv/data && cp -a /etc /srv/data/")
            server = Server(box, self.running)
            server.configure(root="/srv")
            box.give(deb_of_release(), "/root/agent.deb")
            box.run("dpkg", "-i", "/root/agent.deb")
            assert (
                box.shell(f"systemctl is-enabled {UNIT}; systemctl is-active {UNIT}", code=None) == "disabled\ninactive"
            )
            server.enrol()
            box.run("systemctl", "enable", "--now", UNIT)
            box.until(RUNS, seconds=STARTS_SECONDS, what="it does not run after it was enrolled")
            server.define()
            server.back_up()
            return _all_of(lambda: self._upgraded(box, server), lambda: self._taken_away(box, server))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _in_folder(self, box: Folder, *, environment: bool = False) -> str:
        with box.running():
            before = box.names()
            server = self._installed(box)
            version = box.run("backupsite-agent", "--version").strip()
            has = box.shell(f"test -d {PROGRAMS}/current/environment && echo environment || true")
            assert bool(has) is environment, has
            found = box.run("backupsite-agent", "doctor", code=None).strip().splitlines()[-1]
            begun = time.monotonic()
            backup = server.back_up()
            taken = time.monotonic() - begun
            server.restore("/back")
            compared = 0
            for part in ("usr", "etc/backupsite-agent", "var/lib/dpkg", "bin"):
                if (box.root / part).is_dir():
                    compared += _same(box.root / part, box.root / "back" / part)
            shutil.rmtree(box.root / "back")
            server.uninstall()
            left = sorted(box.names() ^ before)
            assert not left, left
            told = f"{backup['counts']['files']} files in {taken:.0f} s, {compared} names restored the same"
            return f"{version}; doctor: {found}; {told}; uninstalled, nothing left"

    def _installed(self, box: Box, *, root: str = "/") -> Server:
        server = Server(box, self.running)
        server.configure(root=root)
        server.install()
        server.define()
        return server

    def _in_machine(self, box: Emulated) -> Server:
        box.shell("mkdir -p /srv/data && cp -a /usr/lib/systemd /etc /srv/data/")
        self._open_ways(box)
        server = self._installed(box, root="/srv")
        box.until(RUNS, seconds=STARTS_SECONDS, what="it does not run after it was installed")
        return server

    def _open_ways(self, box: Box) -> None:
        for port in self._ports():
            box.shell(f"systemctl start lab-way@{port}.service")

    def _ports(self) -> list[int]:
        settings = self.running.stack.settings
        urls = (settings.portal_url, settings.gate_url, settings.s3_url)
        return [int(url.rpartition(":")[2]) for url in urls]

    def _limits(self, box: Box) -> str:
        shown = box.shell(f"systemctl show {UNIT} -p ControlGroup,MemoryMax,MemoryHigh,CPUWeight,IOWeight,TasksMax")
        values = dict(line.split("=", 1) for line in shown.splitlines())
        assert values["MemoryMax"] == str(384 << 20) and values["CPUWeight"] == values["IOWeight"] == "20", values
        group = f"/sys/fs/cgroup{values['ControlGroup']}"
        assert box.shell(f"cat {group}/memory.max {group}/memory.high {group}/cpu.weight").split() == [
            *(str(384 << 20), str(256 << 20), "20"),
        ]
        status = box.shell(f"cat /proc/$(systemctl show -p MainPID --value {UNIT})/status")
        held = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert held["Seccomp"] == "2" and held["NoNewPrivs"] == "1", status
        exposed = box.shell(f"systemd-analyze security --no-pager {UNIT} | tail -1", code=None)
        return f"Seccomp 2, CapEff {held['CapEff']}, own cgroup; {exposed.strip(' →')}"

    def _backed_up(self, box: Box, server: Server) -> str:
        begun = time.monotonic()
        backup = server.back_up()
        taken = time.monotonic() - begun
        server.restore("/srv/back")
        assert box.shell(DIGEST.format("/srv")) == box.shell(DIGEST.format("/srv/back")), "restored otherwise"
        box.shell("rm -rf /srv/back")
        warned = [one["code"] for one in backup.get("warnings") or []]
        peak = box.shell(f"cat /sys/fs/cgroup/system.slice/{UNIT}/memory.peak", code=None)
        mib = f", memory at most {int(peak) >> 20} MiB" if peak.isdigit() else ""
        denied = box.shell("grep -ci 'not permitted' /var/lib/backupsite-agent/agent.log || true")
        assert denied == "0", box.log()
        return f"{backup['counts']['files']} files in {taken:.0f} s{mib}, warnings {warned}; restored the same"

    def _stopped(self, box: Box, server: Server) -> str:
        """In the middle of a backup: stopped, killed, and the machine's supply lost."""
        said = []
        for how in (f"systemctl stop {UNIT}", f"systemctl kill -s KILL {UNIT}"):
            box.shell("head -c 12000000 /dev/urandom > /srv/data/noise")
            server.configure(root="/srv", bytes_per_second=1_000_000)
            box.shell(f"systemctl restart {UNIT}")
            box.until(RUNS, seconds=STARTS_SECONDS, what="it does not run after a restart")
            box.run("backupsite-agent", "run", "--no-wait")
            server.until_copying()
            box.shell(how)
            # [b]: the shell that asks has these words too.
            box.until(
                "pgrep -f '[b]ackupsite-agent move' > /dev/null || echo yes", seconds=30, what="its mover lives on"
            )
            server.configure(root="/srv")
            box.shell(f"systemctl start {UNIT}")
            server.wait_for_backup()
            said.append(how.split()[1])
        box.power_off()  # type: ignore[attr-defined]  # it is the emulated one
        box.boot()  # type: ignore[attr-defined]  # the same
        self._open_ways(box)
        box.until(RUNS, seconds=STARTS_SECONDS, what="it does not run after a start of the system")
        server.back_up()
        return f"{', '.join(said)} in the middle: taken up again; runs after a start of the system"

    def _updates(self, box: Box, server: Server, *, ask: str) -> str:
        """One that does not start, then a good one."""
        first = box.shell(f"readlink {PROGRAMS}/current")
        bad = self.releases.offer(broken(self.releases.archive, self.folder / "bad.tar.gz", says="0.1.9"), "0.1.9")
        box.shell(ask)
        taken = box.until(f'[ "$(cat {PROGRAMS}/failed)" = {bad} ] && echo yes', seconds=300, what="it did not go back")
        assert box.shell(f"readlink {PROGRAMS}/current") == first
        box.until(RUNS, seconds=STARTS_SECONDS, what="the old one does not run")
        server.until(lambda found: found["health_code"] == "update_failed", "the control plane was not told")
        good = self.releases.offer(second(), SECOND_VERSION)
        box.shell(ask)
        came = box.until(
            f'[ "$(readlink {PROGRAMS}/current)" = releases/{good} ] && [ ! -e {PROGRAMS}/trial ] && echo yes',
            seconds=300,
            what="the good release is not in place",
        )
        server.until(lambda found: found["version"] == SECOND_VERSION, "the new version is not told")
        box.until(RUNS, seconds=STARTS_SECONDS, what="the new one does not run")
        server.back_up()
        return f"a release that does not start: back after {taken:.0f} s; a good one in place after {came:.0f} s"

    def _silent(self, box: Box, server: Server, *, ask: str) -> str:
        """A release that starts and cannot reach the control plane: what is cut is the way there."""
        before = box.shell(f"readlink {PROGRAMS}/current")
        number = self.releases.offer(self.releases.archive, self.releases.version)
        box.shell(ask)
        box.until(f"[ -e {PROGRAMS}/trial ] && echo yes", seconds=300, what="the release is not on trial")
        ways = " ".join(f"lab-way@{port}.service" for port in self._ports())
        box.shell(f"systemctl stop {ways}")
        taken = box.until(
            f'[ "$(cat {PROGRAMS}/failed)" = {number} ] && echo yes', seconds=SILENT_SECONDS, what="waits on"
        )
        box.shell(f"systemctl start {ways}")
        assert box.shell(f"readlink {PROGRAMS}/current") == before
        server.until(lambda found: found["health_code"] == "update_failed", "the control plane was not told")
        return f"one that does not report: back after {taken:.0f} s"

    def _upgraded(self, box: Emulated, server: Server) -> str:
        process = f"systemctl show -p MainPID --value {UNIT}"
        before = box.shell(process)
        box.run("dpkg", "-i", "/root/agent.deb")
        box.until(RUNS, seconds=STARTS_SECONDS, what="it does not run after the package was installed again")
        assert before != "0" and box.shell(process) not in {before, "0"}, "it was not started anew"
        box.power_off()
        box.boot()
        self._open_ways(box)
        box.until(RUNS, seconds=STARTS_SECONDS, what="it does not run after a start of the system")
        server.back_up()
        return "package: not run before it was enrolled; back after an upgrade and after a lost supply"

    def _taken_away(self, box: Box, server: Server) -> str:
        box.run("dpkg", "-r", "backupsite-agent")
        assert box.shell("pgrep -f '[b]ackupsite-agent'", code=None) == "", "it runs on"
        assert box.shell("test -e /var/lib/backupsite-agent/identity.json && echo kept") == "kept"
        assert box.shell(f"systemctl is-active {UNIT}", code=None) == "inactive"
        box.run("dpkg", "-P", "backupsite-agent")
        server.until(lambda found: found["status"] == "revoked", "the control plane was not told that it left")
        left = "ls -d /opt/backupsite-agent /etc/backupsite-agent /var/lib/backupsite-agent 2> /dev/null"
        assert box.shell(left, code=None) == ""
        return "removed with its keys kept; purged, and the control plane told"

    def _removed(self, box: Box, server: Server) -> str:
        server.uninstall()
        places = (
            "/opt/backupsite-agent /etc/backupsite-agent /var/lib/backupsite-agent /usr/local/sbin/backupsite-agent"
        )
        found = box.shell(f"ls -d {places} /etc/systemd/system/{UNIT} 2> /dev/null", code=None)
        # Asked apart: a shell that has the name among its words would find itself.
        found += box.shell("pgrep -f '[b]ackupsite-agent'", code=None)
        assert not found, found
        return "uninstalled, nothing left"


def _all_of(*parts: Callable[[], str]) -> str:
    """What they say. One that fails keeps the rest from nothing, and fails the whole at its end."""
    said, failed = [], 0
    for part in parts:
        try:
            said.append(part())
        except Exception as error:
            said.append(f"FAILED {type(error).__name__}: {error}")
            failed += 1
        # The parts of a machine take half an hour: each is said when it is over.
        print(f"  {said[-1]}", flush=True)
    assert not failed, said
    return "; ".join(said)


def _same(one: Path, other: Path) -> int:
    before, after = snapshot(os.fsencode(one)), snapshot(os.fsencode(other))
    wrong = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    assert not wrong, (one, len(wrong), wrong[:5], before.get(wrong[0]), after.get(wrong[0]))
    return len(before)


def _walk(lab: Lab, wanted: list[str], say: Callable[[str], None]) -> int:
    steps = [lab.bullseye, lab.bookworm, lab.trixie, lab.wheels, lab.deb, lab.cron]
    steps += [lab.systemd, lab.updates, lab.removed, lab.deb_machine]
    failed = 0
    for step in steps:
        if wanted and step.__name__ not in wanted:
            continue
        begun = time.monotonic()
        try:
            said, word = step(), "LAB-OK"
        except Exception as error:
            said, word, failed = f"{type(error).__name__}: {error}", "LAB-FAILED", failed + 1
        say(f"{word} {step.__name__} {time.monotonic() - begun:.0f} s: {said}")
    say("LAB-FAILED" if failed else "LAB-PASSED")
    return min(failed, 1)


def main(wanted: list[str]) -> int:
    folder = Path(tempfile.mkdtemp(prefix="lab-systems-", dir="/var/tmp"))
    LOG.parent.mkdir(parents=True, exist_ok=True)
    try:
        with LOG.open("w") as log:

            def say(line: str) -> None:
                print(line, flush=True)
                print(line, file=log, flush=True)

            data = folder / "stack"
            releases = Releases(data, folder)
            os.environ["BACKUPSITE_RELEASE_PUBLIC_KEY"] = base64.b64encode(releases.public_key).decode()
            settings = StackSettings(data=data, port=free_ports(PORT_SPAN)[0])
            with Stack(settings, terminal=Terminal(io.StringIO())) as stack:
                lab = Lab(stack, folder, releases)
                releases.use(stack)
                releases.publish(releases.archive)
                say(f"release {json.dumps(releases.told)}")
                return _walk(lab, wanted, say)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    os.environ.pop("BACKUPSITE_DATA", None)
    sys.exit(main(sys.argv[1:]))
