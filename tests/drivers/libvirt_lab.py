"""A real libvirtd by hand, without systemd and D-Bus, in a folder of its own, with servers that are never booted.

Where the tests run as root, libvirt and QEMU run as `nobody`, as they do not run as root on a node either.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agents.drivers.base import DiskAddress, DiskWish
from agents.drivers.libvirt import LibvirtDriver

TOOLS = {
    "libvirtd": "libvirt-daemon",
    "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
}
# libvirt asks QEMU what it can, which takes seconds; it keeps the answers here.
_CACHE = Path(f"/var/tmp/backupsite-tests-{os.geteuid()}/cache")
_CHANNEL = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"


def missing_tools() -> list[str]:
    """Packages without which there is no lab."""
    return sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})


class Lab:
    """`folder` is the storage. Disks belong to the user that QEMU runs as."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "disks"
        self.jobs = folder / "jobs"
        self.uri = f"qemu+unix:///session?socket={folder}/run/libvirt-sock"
        self.driver = LibvirtDriver(self.uri, str(self.jobs))
        self.pid = 0

    def virsh(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(["virsh", "-q", "-c", self.uri, *arguments], capture_output=True, text=True, timeout=200)
        assert not check or done.returncode == 0, (arguments, done.stderr)
        return done.stdout.strip()

    def disk(self, name: str, size_bytes: int) -> Path:
        path = self.folder / name
        image_format = "qcow2" if name.endswith(".qcow2") else "raw"
        subprocess.run(["qemu-img", "create", "-q", "-f", image_format, path, str(size_bytes)], check=True)
        own(path)
        return path

    def server(self, name: str, disks: Sequence[str], *, extra: str = "") -> str:
        """A server with these disks as vda, vdb ...; its UUID. It is off."""
        described = "".join(
            f"<disk type='file' device='disk'><driver name='qemu' type='{path.split('.')[-1]}' discard='unmap'/>"
            f"<source file='{self.folder / path}'/><target dev='vd{chr(97 + number)}' bus='virtio'/></disk>"
            for number, path in enumerate(disks)
        )
        identity = str(uuid.uuid4())
        self.define(
            f"<domain type='qemu'><name>{name}</name><uuid>{identity}</uuid><memory unit='MiB'>64</memory><os>"
            f"<type arch='x86_64' machine='pc'>hvm</type></os><devices>{described}{_CHANNEL}"
            f"<graphics type='vnc' port='-1' autoport='no' socket='{self.jobs.parent}/run/{name}.vnc' "
            f"passwd='geheim'/><memballoon model='none'/>{extra}</devices></domain>"
        )
        return identity

    def define(self, text: str) -> None:
        path = self.folder.parent / "define.xml"
        path.write_text(text)
        self.virsh("define", str(path))
        path.unlink()

    def start(self, server: str) -> None:
        """QEMU runs, the guest does not: no time is lost with booting."""
        self.virsh("start", "--paused", server)

    def stop(self, server: str) -> None:
        self.virsh("destroy", "--graceful", server)

    def kill(self, server: str) -> None:
        """As a crash of QEMU: nothing is written any more."""
        pid = int((self.jobs.parent / "run" / "libvirt" / "qemu" / "run" / f"{server}.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        self.wait_for_state(server, "shut off")

    def wait_for_state(self, server: str, state: str) -> None:
        until = time.monotonic() + 60
        while self.virsh("domstate", server) != state:
            assert time.monotonic() < until, state
            time.sleep(0.05)

    def guest_writes(self, server: str, *writes: str, disk: int = 0) -> None:
        """Commands of qemu-io, such as `write -P 7 1M 64k`, as if the guest had written."""
        for command in writes:
            device = f"/machine/peripheral/virtio-disk{disk}/virtio-backend"
            told = self.virsh("qemu-monitor-command", server, "--hmp", f'qemu-io -d {device} "{command}"')
            assert "error" not in told.lower() and "failed" not in told.lower(), told

    def wish(self, server: str, name: str, base: str | None = None, kept: Sequence[str] = ()) -> DiskWish:
        address = DiskAddress(str(self.folder), name, 0, server)
        return DiskWish(address, base, frozenset(kept))

    def content(self, name: str) -> bytes:
        """As a guest would read it; the server may not run."""
        raw = self.folder.parent / "content.raw"
        source = "qcow2" if name.endswith(".qcow2") else "raw"
        subprocess.run(["qemu-img", "convert", "-f", source, "-O", "raw", self.folder / name, raw], check=True)
        try:
            return raw.read_bytes()
        finally:
            raw.unlink()

    def remove_bitmap(self, image: str, name: str) -> None:
        command = ["qemu-img", "bitmap", "--remove", str(self.folder / image), name]
        subprocess.run(command, check=False, capture_output=True)

    def traces(self, server: str) -> dict[str, object]:
        """All that a job could leave on the node."""
        bitmaps = {}
        for path in sorted(self.folder.glob("*.qcow2")):
            info = subprocess.run(["qemu-img", "info", "-U", path], capture_output=True, text=True, check=True).stdout
            bitmaps[path.name] = sorted(line.strip() for line in info.splitlines() if "name: " in line)
        return {
            "files": sorted(path.name for path in self.folder.iterdir()),
            "jobs": sorted(str(path) for path in self.jobs.rglob("*")) if self.jobs.exists() else [],
            "points": sorted(self.virsh("checkpoint-list", server, "--name").split()),
            "bitmaps": bitmaps if self.virsh("domstate", server) == "shut off" else {},
            "job": self.virsh("domjobinfo", server, check=False).split()[2:3] in ([], ["None"]),
            "state": self.virsh("domstate", server),
            "servers_of_images": _servers_of(self.folder),
        }

    def drop(self) -> None:
        """Every server, and all disks."""
        for server in self.virsh("list", "--all", "--name").split():
            self.virsh("destroy", server, check=False)
            self.virsh("undefine", server, "--checkpoints-metadata", "--managed-save", "--snapshots-metadata")
        for path in self.folder.iterdir():
            path.unlink()


def in_memory() -> str | None:
    """A folder for images of a few megabytes, without waiting for a disk at each sync; None where memory is scarce."""
    folder = "/dev/shm"
    enough = os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 1 << 30
    return folder if enough else None


def own(path: Path) -> None:
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        os.chown(path, user.pw_uid, user.pw_gid)


@contextmanager
def running_lab(parent: str | None = None) -> Iterator[Lab]:
    """Below `parent`, by default in memory. Short paths: a socket's may not have more than 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="bs-lab-", dir=parent or in_memory()))
    lab = Lab(folder)
    try:
        folder.chmod(0o755)
        for path in (folder, *(folder / name for name in ("config", "config/libvirt", "run", "data", "disks"))):
            path.mkdir(exist_ok=True)
            own(path)
        for path in (_CACHE.parent, _CACHE):
            path.mkdir(exist_ok=True)
            own(path)
        (folder / "config/libvirt/qemu.conf").write_text('stdio_handler = "file"\n')
        (folder / "libvirtd.conf").write_text(
            f'unix_sock_dir = "{folder}/run"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n'
            f'unix_sock_rw_perms = "0700"\nlog_outputs = "3:file:{folder}/run/log"\n'
        )
        lab.pid = _start(folder)
        # The first answer takes seconds, of a busy machine many.
        subprocess.run(["virsh", "-q", "-c", lab.uri, "version"], check=True, capture_output=True, timeout=200)
        yield lab
        lab.drop()
    finally:
        _end(lab.pid)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path) -> int:
    environment = {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "HOME": str(folder), "XDG_CACHE_HOME": str(_CACHE)}
    for name in ("config", "run", "data"):
        environment[f"XDG_{name.upper()}_{'DIR' if name == 'run' else 'HOME'}"] = str(folder / name)
    environment["XDG_RUNTIME_DIR"] = environment.pop("XDG_RUN_DIR")
    as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
    command = [*as_nobody, "libvirtd", "-d", "-f", str(folder / "libvirtd.conf"), "-p", str(folder / "run/pid")]
    subprocess.run(command, env=environment, cwd="/", check=True, capture_output=True)
    return int((folder / "run/pid").read_text())


def _end(pid: int) -> None:
    if not pid:
        return
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        until = time.monotonic() + 60
        while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        os.close(descriptor)


def _servers_of(folder: Path) -> list[str]:
    """Programs that serve or write images of the lab, apart from its servers."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith((b"qemu-nbd", b"qemu-img")) and any(str(folder).encode() in word for word in words):
            found.append(words[0].decode())
    return found
