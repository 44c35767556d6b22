"""The .deb of the built agent on a Debian of its own: installed, enrolled, a backup, removed, purged.

A step of `make lab-agent-systems`, and by itself: `python -m tests.lab.deb [bullseye] [bookworm] [trixie]`. The control
plane and the vault are the stand-ins of the tests; the program, dpkg and the system are real.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.agents.program_machine import POLICY
from tests.agents.stand_in import ControlPlane
from tests.lab.boxes import Folder

BUILT = Path("var/agent")


def deb_of_release(built: Path = BUILT) -> Path:
    """Packaged anew of the archive that was built: the scripts may be others by now."""
    words = [sys.executable, "tools/agent/package.py", "--out", str(built)]
    done = subprocess.run(words, text=True, stdout=subprocess.PIPE, check=True)
    return Path(done.stdout.partition(":")[0])


def deb_step(folder: Path, system: str = "bullseye", deb: Path | None = None) -> str:
    """Raises AssertionError that says what was seen. `folder` is for the system's files."""
    deb = deb or deb_of_release()
    plane = ControlPlane(policy=POLICY).start()
    box = Folder(f"deb-{system}", system, folder)
    try:
        with box.running():
            before = box.names()
            shutil.copy(deb, box.root / "agent.deb")
            return _walked(box, plane, before)
    finally:
        plane.stop()


def _walked(box: Folder, plane: ControlPlane, before: set[str]) -> str:
    said = box.run("dpkg", "-i", "/agent.deb")
    assert "backupsite-agent enrol - --url" in said, said
    version = box.run("backupsite-agent", "--version").strip()
    assert "enrol TOKEN" in box.run("backupsite-agent", "doctor", code=1)
    box.shell("printf 'root = \"/etc\"\\n' > /etc/backupsite-agent/agent.toml")
    box.shell("chmod 0600 /etc/backupsite-agent/agent.toml")
    box.run("backupsite-agent", "enrol", plane.token, "--url", plane.url)
    found = box.run("backupsite-agent", "doctor", code=1)
    bad = [line for line in found.splitlines() if line.startswith("BAD")]
    # Nothing starts it here, and it has not polled yet.
    assert {line.split(":")[0] for line in bad} <= {"BAD  service", "BAD  policy"}, found
    plane.gate.back_up()
    box.run("backupsite-agent", "run")
    [commit] = plane.gate.commits

    again = box.run("dpkg", "-i", "/agent.deb")
    assert "not enrolled" not in again, again
    box.run("backupsite-agent", "status")
    removed = box.run("dpkg", "-r", "backupsite-agent")
    assert "keys and configuration are still here" in removed, removed
    assert box.shell("ls /usr/sbin/backupsite-agent /opt/backupsite-agent 2> /dev/null", code=None) == ""
    assert "unenrol/" not in plane.asked
    purged = box.run("dpkg", "-P", "backupsite-agent")
    assert "unenrol/" in plane.asked and "could not be told" not in purged, (purged, plane.asked)
    (box.root / "agent.deb").unlink()
    # dpkg takes /opt along when it is empty, and no package there has it.
    of_dpkg = ("var/lib/dpkg/", "var/log/", "opt")
    left = sorted(name for name in box.names() ^ before if not name.startswith(of_dpkg))
    assert box.shell("ls -A /opt 2> /dev/null", code=None) == ""
    assert not left, left
    warned = [one.code for one in commit.facts.warnings]
    return (
        f"{version}; {commit.read_bytes} bytes of /etc backed up, warnings {warned}; installed again, removed with its "
        "keys kept, purged: the control plane told, nothing left"
    )


def main(systems: list[str]) -> int:
    folder = Path(tempfile.mkdtemp(prefix="lab-deb-", dir="/var/tmp"))
    try:
        deb = deb_of_release()
        for system in systems or ["bullseye"]:
            print(f"LAB-OK deb on {system}: {deb_step(folder, system, deb)}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
