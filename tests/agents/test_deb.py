"""The .deb of the agent: built by the real tool of a stand-in release, and installed by dpkg below one directory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Stands for the program: it writes down what it was asked, and wipes what `unenrol` is to wipe.
PROGRAM = """#!/bin/sh
echo "$*" >> "$DPKG_ROOT/said"
[ ! -e "$DPKG_ROOT/away" ] || exit 4
"""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("dpkg-deb") or not shutil.which("dpkg"),
    reason="a package is installed by dpkg, and by root",
)


def release(folder: Path, number: int) -> Path:
    """A built release; the folder of it."""
    out = folder / str(number)
    out.mkdir()
    name = f"backupsite-agent-9.9-{number}.tar.gz"
    with tarfile.open(out / name, "w:gz") as tar:
        files = {"bin/backupsite-agent": PROGRAM.encode(), "wheels/x.whl": b"x"}
        for one in ("run.sh", "backupsite-agent.service", "backupsite-agent.sh"):
            files[one] = (ROOT / "tools/agent" / one).read_bytes()
        for one, data in files.items():
            member = tarfile.TarInfo(one)
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
    told = {
        "number": number,
        "version": "9.9",
        "file": name,
        "sha256": hashlib.sha256((out / name).read_bytes()).hexdigest(),
        "c_library": "glibc 2.28",
    }
    (out / "release.json").write_text(json.dumps(told))
    return out


def package(out: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(ROOT / "tools/agent/package.py"), "--out", str(out)]
    return subprocess.run(words, text=True, capture_output=True, check=False)


class Machine:
    """A directory with a database of dpkg; the scripts of packages are told of it by DPKG_ROOT."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "etc", "usr/local/sbin"):
            (root / name).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        self.programs, self.state = root / "opt/backupsite-agent", root / "var/lib/backupsite-agent"
        self.config = root / "etc/backupsite-agent"

    def dpkg(self, *words: str, code: int = 0) -> str:
        options = [f"--root={self.root}", "--force-script-chrootless", "--force-depends", "--log=/dev/null"]
        done = subprocess.run(["dpkg", *options, *words], text=True, capture_output=True, check=False)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def enrol(self) -> None:
        (self.state / "keys").mkdir(parents=True)
        (self.state / "identity.json").write_text("{}")

    def current(self) -> str:
        return os.readlink(self.programs / "current")

    def said(self) -> list[str]:
        return (self.root / "said").read_text().splitlines() if (self.root / "said").exists() else []

    def left(self) -> list[str]:
        return sorted(str(path) for path in self.root.rglob("*backupsite-agent*") if "dpkg" not in path.parts)


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Two releases, by their numbers."""
    folder, found = tmp_path_factory.mktemp("debs"), {}
    for number in (100, 200):
        done = package(release(folder, number))
        assert done.returncode == 0, done.stderr
        found[number] = done.stdout.partition(":")[0]
    return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def test_it_installs_the_unit_and_says_how_to_enrol(debs: dict[int, str], machine: Machine) -> None:
    said = machine.dpkg("-i", debs[100])

    assert "backupsite-agent enrol - --url" in said and machine.said() == []
    assert machine.current() == "releases/100"
    assert (
        os.readlink(machine.root / "usr/sbin/backupsite-agent") == "/opt/backupsite-agent/current/bin/backupsite-agent"
    )
    unit = machine.root / "usr/lib/systemd/system/backupsite-agent.service"
    assert unit.read_bytes() == (ROOT / "tools/agent/backupsite-agent.service").read_bytes()
    assert os.access(machine.programs / "run.sh", os.X_OK)
    assert [path.stat().st_mode & 0o777 for path in (machine.config, machine.config / "hooks.d")] == [0o700, 0o700]
    assert not (machine.programs / "releases/100/wheels").exists()
    assert "ok installed" in machine.dpkg("-s", "backupsite-agent")
    assert machine.dpkg("--verify", "backupsite-agent") == ""


def test_an_upgrade_takes_its_release_unless_the_agent_is_ahead(debs: dict[int, str], machine: Machine) -> None:
    machine.dpkg("-i", debs[100])
    machine.enrol()
    (machine.programs / "trial").write_text("100 99 1\n")
    said = machine.dpkg("-i", debs[200])
    assert machine.current() == "releases/200" and "enrol -" not in said
    assert not (machine.programs / "trial").exists() and not (machine.programs / "releases/100").exists()
    assert not (machine.state / "leaving").exists()

    # It updated itself meanwhile.
    (machine.programs / "releases/300").mkdir()
    (machine.programs / "current").unlink()
    (machine.programs / "current").symlink_to("releases/300")
    assert "stays at release 300" in machine.dpkg("-i", debs[200])
    assert machine.current() == "releases/300"


def test_an_older_package_goes_back_to_its_release(debs: dict[int, str], machine: Machine) -> None:
    machine.dpkg("-i", debs[200])

    machine.dpkg("-i", debs[100])

    assert machine.current() == "releases/100" and (machine.programs / "current/bin/backupsite-agent").exists()


def test_removed_it_keeps_the_keys_and_purged_it_leaves_the_control_plane(
    debs: dict[int, str], machine: Machine
) -> None:
    machine.dpkg("-i", debs[100])
    machine.enrol()
    (machine.config / "agent.toml").write_text("")
    (machine.programs / "releases/300").mkdir()

    said = machine.dpkg("-r", "backupsite-agent")
    assert "keys and configuration are still here" in said and machine.said() == []
    assert not machine.programs.exists() and (machine.state / "identity.json").exists()
    assert (machine.config / "agent.toml").exists()

    machine.dpkg("-P", "backupsite-agent")
    assert machine.said() == ["unenrol --purge"]
    assert machine.left() == []


def test_installed_again_it_goes_on_with_its_keys(debs: dict[int, str], machine: Machine) -> None:
    machine.dpkg("-i", debs[100])
    machine.enrol()
    machine.dpkg("-r", "backupsite-agent")

    said = machine.dpkg("-i", debs[200])

    assert "not enrolled" not in said and (machine.state / "identity.json").exists()
    assert not (machine.state / "leaving").exists() and machine.said() == []


def test_purged_while_nobody_can_be_told_it_says_so_and_removes_all(debs: dict[int, str], machine: Machine) -> None:
    machine.dpkg("-i", debs[100])
    machine.enrol()
    (machine.root / "away").touch()

    said = machine.dpkg("-P", "backupsite-agent")

    assert "Revoke this agent in the portal" in said and machine.said() == ["unenrol --purge"]
    assert machine.left() == []


def test_one_that_was_never_enrolled_tells_nobody(debs: dict[int, str], machine: Machine) -> None:
    machine.dpkg("-i", debs[100])

    machine.dpkg("-P", "backupsite-agent")

    assert machine.said() == [] and machine.left() == []


@pytest.mark.parametrize("name", ["etc/systemd/system/backupsite-agent.service", "usr/local/sbin/backupsite-agent"])
def test_what_the_install_line_put_there_is_not_overwritten(debs: dict[int, str], machine: Machine, name: str) -> None:
    (machine.root / name).parent.mkdir(parents=True, exist_ok=True)
    (machine.root / name).symlink_to("/opt/backupsite-agent/current/bin/backupsite-agent")
    if name.startswith("etc"):
        (machine.root / name).unlink()
        (machine.root / name).touch()

    said = machine.dpkg("-i", debs[100], code=1)

    assert "--uninstall" in said and not machine.programs.exists()


def test_the_same_release_makes_the_same_package(debs: dict[int, str], tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        done = package(release(tmp_path, 100))
    finally:
        os.umask(before)

    assert done.returncode == 0, done.stderr
    again = Path(done.stdout.partition(":")[0])
    assert again.read_bytes() == Path(debs[100]).read_bytes()
    told = subprocess.run(["dpkg-deb", "--field", str(again)], text=True, capture_output=True, check=True).stdout
    assert "Version: 9.9-100\n" in told and "libc6 (>= 2.28)" in told


def test_another_archive_than_that_of_the_release_is_not_packaged(tmp_path: Path) -> None:
    out = release(tmp_path, 100)
    with (out / "backupsite-agent-9.9-100.tar.gz").open("ab") as file:
        file.write(b"x")

    done = package(out)

    assert done.returncode == 1 and "SHA-256 is another one" in done.stderr
    assert not list(out.glob("*.deb"))
    assert package(tmp_path).returncode == 1
