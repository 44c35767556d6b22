"""`make lab-agent`: a real agent against the running stack, with 50,000 files and everything that can go wrong.

Ten to twenty minutes; root; needs `setfacl` and `libfaketime`. What it says is also in var/lab/agent.log. Steps go on
from what the one before left; the first that fails ends it. `python -m tests.lab.agent [files [step...]]`; the first
two, which all others need, are always among the steps.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from backupsite.stack.demo_api import DemoApi
from backupsite.stack.errors import StackError
from backupsite.stack.ports import PORT_SPAN, free_ports
from backupsite.stack.settings import StackSettings
from backupsite.stack.stack import Stack
from backupsite.stack.terminal import Terminal
from tests.e2e.conftest import Running
from tests.engine.chunk_support import snapshot
from tests.lab.machine import Machine
from tests.lab.network import Network
from tests.lab.tree import LARGE_BYTES, big_tree, fill

LOG = Path("var/lab/agent.log")
LARGE = 8
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
MIB = 1 << 20


class Lab:
    def __init__(self, running: Running, network: Network, folder: Path, files: int) -> None:
        self.running, self.network, self.folder, self.files = running, network, folder, files
        self.machine = Machine(running, network, folder)
        self.s3 = int(running.stack.settings.s3_url.rpartition(":")[2])

    def token_fifty_times_at_once(self) -> str:
        found = Counter(self.machine.enrol(times=50))
        assert found["enrolled"] == 1 and sum(found.values()) == 50, found
        self.machine.define()
        return str(dict(found))

    def full(self) -> str:
        big_tree(self.machine.root, files=self.files, large=LARGE)
        begun, sent = time.monotonic(), self.network.sent[self.s3]
        backup = self.machine.back_up()
        seconds = time.monotonic() - begun
        files = backup["counts"]["files"]
        assert files >= self.files
        through = self.network.sent[self.s3] - sent
        return (
            f"{files} files, {backup['read_bytes'] / 1e6:.0f} MB read, {backup['stored_bytes'] / 1e6:.0f} MB stored, "
            f"{through / 1e6:.0f} MB sent, {seconds:.0f} s in all, mover {backup['peak_mib']} MiB"
        )

    def nothing_changed(self) -> str:
        # What was changed within two seconds of being read is read again.
        self.machine.back_up()
        begun, requests = time.monotonic(), Counter(self.network.connections)
        backup = self.machine.back_up()
        assert backup["read_bytes"] == 0 and backup["counts"]["changed_entries"] == 0, backup
        made = self.network.connections - requests
        return f"{time.monotonic() - begun:.0f} s in all, {backup['stored_bytes']} bytes stored, connections {made}"

    def restored_the_same(self) -> str:
        root = os.fsencode(self.machine.root)
        before = snapshot(root)
        to = self.machine.root / "back"
        begun = time.monotonic()
        self.machine.restore(to)
        seconds = time.monotonic() - begun
        after = snapshot(os.fsencode(to))
        wrong = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
        assert not wrong, (len(wrong), wrong[:5], before.get(wrong[0]), after.get(wrong[0]))
        held = (to / "holes").stat().st_blocks * 512
        assert held < 2 * MIB
        shutil.rmtree(to)
        marked = sum(bool(one[5]) for one in before.values())
        return (
            f"{len(before)} names, {marked} with attributes or lists, sparse file holds {held} bytes, {seconds:.0f} s"
        )

    def killed_in_the_middle(self) -> str:
        fill(self.machine.root, LARGE)
        sent = self.network.sent[self.s3]
        first = self.machine.start("run")
        self._until(lambda: self.network.sent[self.s3] - sent > 3 * LARGE_BYTES, "half of it was not sent")
        [mover] = self.machine.movers()
        first.send_signal(signal.SIGKILL)
        first.wait()
        self._until(lambda: not Path(f"/proc/{mover}").exists(), "the mover lives on")
        by_then = self.network.sent[self.s3] - sent
        backup = self.machine.back_up()
        both = self.network.sent[self.s3] - sent
        whole = LARGE * LARGE_BYTES
        # What was on its way is sent again: two objects and the one that was being filled.
        assert both < whole + 4 * LARGE_BYTES, (both, whole)
        assert backup["read_bytes"] >= whole, (backup["read_bytes"], whole)
        return f"{by_then / 1e6:.0f} MB sent when killed, {both / 1e6:.0f} MB in all, for {whole / 1e6:.0f} MB of noise"

    def control_plane_away(self) -> str:
        fill(self.machine.root, LARGE)
        self.machine.configure(bytes_per_second=4_000_000)
        sent = self.network.sent[self.s3]
        running = self.machine.start("run")
        self._until(lambda: self.network.sent[self.s3] - sent > LARGE_BYTES, "nothing was sent")
        gate = self.running.stack.child("signer")
        gate.stop()
        time.sleep(45)
        gate.start()
        out, error = running.communicate(timeout=600)
        self.machine.configure()
        self._settled(running.returncode, out + error)
        return f"45 s without it, {(self.network.sent[self.s3] - sent) / 1e6:.0f} MB sent; {self._attempts()}"

    def network_lost_half_of_the_time(self) -> str:
        fill(self.machine.root, LARGE)
        self.machine.configure(bytes_per_second=1_000_000)
        begun, sent = time.monotonic(), self.network.sent[self.s3]
        running, cuts = self.machine.start("daemon"), 0
        self.machine.run("run", "--no-wait")
        before = self.machine.last()["id"]
        self._until(lambda: self.network.sent[self.s3] - sent > MIB, "nothing was sent")
        grown = []
        while self.machine.last()["id"] == before:
            assert time.monotonic() - begun < 900, (self._attempts(), self.machine.log())
            self.network.cut(silently=bool(cuts % 2))
            time.sleep(30)
            self.network.mend()
            cuts += 1
            at = time.monotonic()
            while time.monotonic() - at < 30 and self.machine.last()["id"] == before:
                time.sleep(1)
            grown.append(round((self.network.sent[self.s3] - sent) / 1e6))
        running.send_signal(signal.SIGTERM)
        running.wait(60)
        self.machine.configure()
        whole = time.monotonic() - begun
        noise = LARGE * LARGE_BYTES / 1e6
        return (
            f"{cuts} cuts, {whole:.0f} s, MB sent after each: {grown}, for {noise:.0f} MB of noise; {self._attempts()}"
        )

    def clock_wrong_by_years(self) -> str:
        told = []
        for years in (9, -9):
            (self.machine.root / "large" / "noise-0").write_bytes(os.urandom(MIB))
            backup = self.machine.back_up(before=_other_time(self.folder / f"etc{years}", years))
            age = time.time() - _seconds(backup["created_at"])
            assert 0 <= age < 900, backup["created_at"]
            told.append(f"{years:+} years: backed up, of {backup['created_at'][:16]}")
        found = self.machine.run("doctor", code=1, before=_other_time(self.folder / "etc", 9))
        assert "seconds ahead" in found, found
        return "; ".join(told) + "; the doctor says it"

    def disk_of_its_state_full(self) -> str:
        with _small(self.machine.places.state) as fill_up:
            fill_up()
            process = self.machine.start("run")
            out, error = process.communicate(timeout=600)
            full = f"exit {process.returncode}: {(out + error).strip().splitlines()[-1][:150]}"
            assert process.returncode in {0, 1, 7}, (process.returncode, error)
        self.machine.back_up()
        return f"{full}; then with room again: backed up"

    def stolen_key(self) -> str:
        thief = self.folder / "thief"
        shutil.copytree(self.machine.home, thief)
        self.machine.back_up()
        said = self.machine.start("run", home=thief).communicate(timeout=300)
        agent = self.running.api.get(f"agents/?server={self.machine.server}")["results"][0]
        assert agent["status"] == "quarantined", (agent["status"], said)
        self.machine.run("run", code=5)
        return f"the copy asked, and was told: {said[1].strip().splitlines()[-1][:150]}; both have no rights now"

    # --- inside -------------------------------------------------------------------------------------------------------

    def _until(self, done: Callable[[], bool], what: str, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, (what, self.machine.log())
            time.sleep(0.2)

    def _settled(self, code: int, said: str) -> None:
        assert code == 0, (said, self.machine.log())
        self.running.wait_until_ended(self._newest_job(), timeout_seconds=300)

    def _newest_job(self) -> str:
        jobs = self.running.api.get(f"jobs/?server={self.machine.server}&limit=1")["results"]
        return str(jobs[0]["id"])

    def _attempts(self) -> str:
        job = self.running.job(self._newest_job())
        return f"job {job['state']}: {', '.join(event['code'] for event in job['events'])}"


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _other_time(etc: Path, years: int) -> tuple[str, ...]:
    """Words before a command whose every process, whatever its environment, sees a clock that is off by years."""
    if not etc.exists():
        shutil.copytree("/etc", etc, symlinks=True, ignore_dangling_symlinks=True)
        (etc / "ld.so.preload").write_text(FAKETIME + "\n")
        (etc / "faketimerc").write_text(f"{years * 365:+}d\n")
    return ("unshare", "-m", "sh", "-c", f'mount --bind {etc} /etc && exec "$@"', "sh")


@contextmanager
def _small(state: Path) -> Iterator[Callable[[], None]]:
    """The folder on a file system of 2 MiB; what is given fills it up. Back on the old one after it, with its files."""
    aside = state.with_name("aside")
    state.rename(aside)
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(state)], check=True)

    def fill_up() -> None:
        try:
            with (state / "filler").open("wb") as file:
                while True:
                    file.write(bytes(4096))
                    file.flush()
        except OSError:
            pass

    try:
        shutil.copytree(aside, state, dirs_exist_ok=True)
        yield fill_up
        (state / "filler").unlink()
        shutil.copytree(state, aside, dirs_exist_ok=True)
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)
        state.rmdir()
        aside.rename(state)


def prepared(stack: Stack) -> Running:
    rows = json.loads(stack.run_manage("demo_rows", "--disk-size-bytes", str(MIB), role="manage"))
    api = DemoApi(portal_url=stack.settings.portal_url, token=rows["token"])
    vault = f"vaults/{rows['vault_id']}/"
    api.wait(
        lambda: {"ready": True} if api.get(vault)["status"] == "ready" else None,
        timeout_seconds=60,
        what="the vault did not become ready",
    )
    return Running(stack, api, rows, "")


def main(arguments: list[str]) -> int:
    files = int(arguments[0]) if arguments else 52_000
    wanted = arguments[1:]
    LOG.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="lab-agent-", dir="/var/tmp"))
    settings = StackSettings(data=folder / "stack", port=free_ports(PORT_SPAN)[0])
    ports = [int(url.rpartition(":")[2]) for url in (settings.gate_url, settings.s3_url)]
    try:
        with (
            LOG.open("w") as log,
            Stack(settings, terminal=Terminal(io.StringIO())) as stack,
            Network(ports) as network,
        ):
            lab = Lab(prepared(stack), network, folder, files)
            try:
                return _walk(lab, log, wanted)
            finally:
                lab.machine.end()
    except StackError as error:
        print(error, *error.details, sep="\n")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _walk(lab: Lab, log: io.TextIOBase, wanted: list[str]) -> int:
    steps = [
        lab.token_fifty_times_at_once,
        lab.full,
        lab.nothing_changed,
        lab.restored_the_same,
        lab.killed_in_the_middle,
        lab.control_plane_away,
        lab.network_lost_half_of_the_time,
        lab.clock_wrong_by_years,
        lab.disk_of_its_state_full,
        lab.stolen_key,
    ]
    always = {"token_fifty_times_at_once", "full"}
    for step in steps:
        if wanted and step.__name__ not in always | set(wanted):
            continue
        begun = time.monotonic()
        try:
            said, word = step(), "LAB-OK"
        except Exception as error:
            said, word = f"{type(error).__name__}: {error}", "LAB-FAILED"
        line = f"{word} {step.__name__} {time.monotonic() - begun:.0f} s: {said}"
        print(line, flush=True)
        log.write(line + "\n")
        log.flush()
        if word == "LAB-FAILED":
            return 1
    print("LAB-PASSED")
    log.write("LAB-PASSED\n")
    return 0


if __name__ == "__main__":
    os.environ.pop("BACKUPSITE_DATA", None)
    sys.exit(main(sys.argv[1:]))
