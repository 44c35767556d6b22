"""Servers of the lab that are not this machine: a Debian in a folder, and a Debian that an emulated machine boots.

Both speak to the stack by its own addresses on the loopback: the folder shares this machine's network, and in the
emulated machine each port is handed on (`lab-way@.service`, made by tools/lab/build_agent_systems.sh).
"""

from __future__ import annotations

import os
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SYSTEMS = Path("var/lab/systems").resolve()
# A container's view: the folder is the root, with a list of processes and mounts of its own, which end with the first
# process. `sleep` collects nobody, so what started without systemd is collected by the shell that waits for it.
_FIRST = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t tmpfs run run
mkdir -p .outside
pivot_root . .outside
umount -l /.outside
rmdir /.outside
echo ready
[ -z "$2" ] || $2
while :; do sleep 3600 & wait; done
"""


class Box:
    """What a test does on a server: run words there, as root."""

    name: str

    def words(self, command: Sequence[str]) -> list[str]:
        raise NotImplementedError

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words(command), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, *command: str, code: int | None = 0, seconds: float = 600) -> str:
        """What it says on both streams. `code` None: whichever it ends with."""
        done = subprocess.run(self.words(command), text=True, capture_output=True, timeout=seconds, check=False)
        assert code is None or done.returncode == code, (self.name, command, done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def shell(self, text: str, *, code: int | None = 0, seconds: float = 600) -> str:
        return self.run("sh", "-c", text, code=code, seconds=seconds).strip()

    def give(self, file: Path, to: str) -> None:
        with open(file, "rb") as content:
            subprocess.run(self.words(["sh", "-c", f"cat > {to}"]), stdin=content, timeout=600, check=True)

    def until(self, text: str, *, seconds: float, what: str) -> float:
        """Until the shell says yes; after how many seconds."""
        begun = time.monotonic()
        while self.run("sh", "-c", text, code=None) != "yes\n":
            assert time.monotonic() - begun < seconds, (self.name, what, self.log())
            time.sleep(1)
        return time.monotonic() - begun

    def log(self) -> str:
        return self.shell("tail -c 3000 /var/lib/backupsite-agent/agent.log", code=None)


class Folder(Box):
    """A copy of a Debian in a folder. `first`: what its first process starts, such as cron."""

    def __init__(self, name: str, system: str, folder: Path, *, first: str = "") -> None:
        self.name, self.root, self._first = name, folder / name, first
        subprocess.run(["cp", "-a", str(SYSTEMS / system), str(self.root)], check=True)
        (self.root / "complete").unlink()
        self._process: subprocess.Popen[str] | None = None
        self._pid = 0

    @contextmanager
    def running(self) -> Iterator[Folder]:
        self.boot()
        try:
            yield self
        finally:
            self.power_off()
            shutil.rmtree(self.root)

    def boot(self) -> None:
        words = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _FIRST, "sh")
        self._process = subprocess.Popen([*words, str(self.root), self._first], text=True, stdout=subprocess.PIPE)
        assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n"
        outer = self._process.pid
        self._pid = int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])

    def power_off(self) -> None:
        """All at once, as a lost supply would."""
        if self._process is not None:
            first = os.pidfd_open(self._pid)
            # By --kill-child; `unshare` itself complains where its child is killed.
            self._process.kill()
            self._process.wait()
            assert select.select([first], [], [], 30)[0], "it does not end"
            os.close(first)
            self._process = None

    def words(self, command: Sequence[str]) -> list[str]:
        enter = ["nsenter", "--target", str(self._pid), "--mount", "--pid", "--root", "--wd"]
        clean = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]
        return [*enter, *clean, *command]

    def names(self) -> set[str]:
        """Of everything that it keeps on disk."""
        found = set()
        for folder, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if folder != str(self.root) or name not in {"proc", "run", "dev"}]
            found |= {os.path.relpath(os.path.join(folder, name), self.root) for name in (*folders, *files)}
        return found


class Emulated(Box):
    """A machine of its own with systemd. Its disk is made anew by the script that builds it."""

    def __init__(self, name: str, folder: Path, *, port: int) -> None:
        self.name, self._port = name, port
        self._machine = SYSTEMS / "machine"
        self._disk = folder / f"{name}.img"
        subprocess.run(["cp", "--sparse=always", str(self._machine / "root.img"), str(self._disk)], check=True)
        self._known = folder / f"{name}.known"
        key = (self._machine / "host_key.pub").read_text().strip()
        self._known.write_text(f"[127.0.0.1]:{port} {key}\n")
        self.console = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def running(self) -> Iterator[Emulated]:
        self.boot()
        try:
            yield self
        finally:
            self.power_off()
            self._disk.unlink()

    def boot(self) -> None:
        options = "console=ttyS0 quiet panic=-1 edd=off mitigations=off no_timer_check systemd.show_status=false"
        self._process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-display", "none", "-no-reboot"),
                *("-monitor", "none", "-serial", f"file:{self.console}", "-kernel", str(self._machine / "vmlinuz")),
                *("-initrd", str(self._machine / "initramfs.gz"), "-append", options),
                *("-drive", f"file={self._disk},if=virtio,format=raw,cache=unsafe", "-device", "virtio-rng-pci"),
                *("-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{self._port}-:22", "-device", "virtio-net-pci,netdev=n"),
            ]
        )
        self.until("echo yes", seconds=400, what="it did not boot")

    def power_off(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def words(self, command: Sequence[str]) -> list[str]:
        options = (f"UserKnownHostsFile={self._known}", "StrictHostKeyChecking=yes", "BatchMode=yes", "LogLevel=ERROR")
        ssh = ["ssh", "-i", str(self._machine / "id"), "-p", str(self._port), "-o", "ConnectTimeout=20"]
        return [*ssh, *(f"-o{option}" for option in options), "root@127.0.0.1", shlex.join(command)]
