"""The qemu driver against a real QEMU without libvirt, whose guest never boots."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from agents.drivers.base import (
    POINT_PREFIX,
    DiskAddress,
    DiskBusyError,
    DiskWish,
    DriverError,
    ReadWish,
    SourceFacts,
    WriteWish,
)
from agents.drivers.qemu import QemuDriver
from agents.drivers.qmp import Qmp, QmpError, ServerOffError
from tests.drivers.libvirt_lab import in_memory

needs_qemu = pytest.mark.skipif(
    not (shutil.which("qemu-system-x86_64") and shutil.which("qemu-img")),
    reason="not installed: qemu-system-x86, qemu-utils",
)

MIB = 1024 * 1024
SIZE = 16 * MIB
BLOCK = 65536
ONE, TWO, THREE = (f"{POINT_PREFIX}{number}" for number in range(1, 4))
NAMES = ("a.qcow2", "b.raw")


class Server:
    """A QEMU by hand with two disks and two sockets: the driver's, and one through which the guest's writes come."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, str(folder / "qmp")
        self.driver = QemuDriver(str(folder / "jobs"))
        self.images = {name: bytearray(SIZE) for name in NAMES}
        self.moved: dict[str, int] = {}
        self.process: subprocess.Popen[bytes] | None = None
        for name in NAMES:
            subprocess.run(["qemu-img", "create", "-q", "-f", name[2:], folder / name, str(SIZE)], check=True)

    def start(self) -> None:
        command = ["qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-m", "16", "-accel", "tcg"]
        for name in ("qmp", "writes"):
            command += ["-qmp", f"unix:{self.folder}/{name},server=on,wait=off"]
        for number, name in enumerate(NAMES):
            told = f"driver={name[2:]},node-name=n{number},file.driver=file,file.filename={self.folder / name}"
            command += ["-blockdev", told, "-device", f"virtio-blk-pci,id=d{number},drive=n{number}"]
        self.process = subprocess.Popen(command)
        until = time.monotonic() + 60
        while True:
            try:
                Qmp(self.socket).close()
                return
            except QmpError:
                assert time.monotonic() < until
                time.sleep(0.05)

    def end(self, *, gently: bool = True) -> None:
        assert self.process
        if gently:
            Qmp(str(self.folder / "writes")).run("quit")
        else:
            self.process.kill()
        self.process.wait()
        self.process = None

    def writes(self, *commands: str, disk: int = 0) -> None:
        monitor = Qmp(str(self.folder / "writes"))
        for command in commands:
            line = f'qemu-io -d /machine/peripheral/d{disk}/virtio-backend "{command}"'
            assert not monitor.run("human-monitor-command", command_line=line)
        monitor.close()

    def wish(self, name: str, base: str | None = None) -> DiskWish:
        return DiskWish(DiskAddress(str(self.folder), name, SIZE, self.socket), base, frozenset([base] if base else []))

    def take(self, point: str, base: str | None = None, *, meanwhile: Mapping[int, str] | None = None) -> SourceFacts:
        wish = ReadWish([self.wish(name, base) for name in NAMES], point, freeze=True)
        with self.driver.open_sources(wish) as opened:
            for disk, command in (meanwhile or {}).items():
                self.writes(command, disk=disk)
            for name, one in zip(NAMES, opened, strict=True):
                changed, image = one.source.changed_extents(), self.images[name]
                if changed is None:
                    image[:] = bytes(SIZE)
                parts = list(one.source.extents() if changed is None else changed)
                for extent in parts:
                    part = slice(extent.offset, extent.offset + extent.length)
                    image[part] = one.source.read(extent.offset, extent.length)
                one.source.check_unchanged()
                self.moved[name] = sum(extent.length for extent in parts)
            return opened[0].facts

    def content(self, name: str) -> bytes:
        raw = self.folder / "content"
        subprocess.run(["qemu-img", "convert", "-f", name[2:], "-O", "raw", self.folder / name, raw], check=True)
        try:
            return raw.read_bytes()
        finally:
            raw.unlink()

    def traces(self) -> dict[str, object]:
        found: dict[str, object] = {"files": sorted(str(path) for path in self.folder.rglob("*"))}
        if self.process:
            qmp = Qmp(self.socket)
            devices = qmp.run("query-block")
            found |= {
                "exports": qmp.run("query-block-exports"),
                "jobs": qmp.run("query-block-jobs"),
                "nodes": sorted(node["node-name"] for node in qmp.run("query-named-block-nodes", flat=True)),
                "bitmaps": [
                    each.get("name", "") for device in devices for each in device["inserted"].get("dirty-bitmaps", [])
                ],
            }
            qmp.close()
        return found


@pytest.fixture
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="bs-qemu-", dir=in_memory()))
    made = Server(folder)
    yield made
    if made.process:
        made.end(gently=False)
    shutil.rmtree(folder)


@needs_qemu
def test_changed_blocks_of_one_moment_running_and_off(server: Server) -> None:
    server.start()
    server.writes("write -P 1 0 2M")
    server.writes("write -P 3 5M 1M", disk=1)

    facts = server.take(ONE, meanwhile={0: "write -P 9 0 64k", 1: "write -P 9 5M 64k"})
    assert (facts.point, facts.frozen, [warned.code for warned in facts.warnings]) == (ONE, False, ["freeze_failed"])
    assert (server.images["a.qcow2"][0], server.images["b.raw"][5 * MIB]) == (1, 3)
    before = server.traces()
    assert server.take(TWO, ONE).full_reason == ""
    assert server.moved["a.qcow2"] == BLOCK
    assert server.traces() == {**before, "bitmaps": [TWO, ONE]}
    server.end()
    assert [bytes(server.images[name]) for name in NAMES] == [server.content(name) for name in NAMES]
    assert server.take(THREE, TWO).full_reason == "" and server.moved["a.qcow2"] == 0
    server.start()
    server.writes("write -P 5 8M 128k")
    assert server.take(ONE, THREE).full_reason == "" and server.moved["a.qcow2"] == 2 * BLOCK

    server.end(gently=False)
    # A bitmap is stored when QEMU ends; that of this run never was.
    assert server.take(TWO, ONE).full_reason == "point_missing"
    server.start()
    server.end(gently=False)
    assert server.take(THREE, TWO).full_reason == "bitmap_lost"
    server.start()
    server.end(gently=False)
    server.start()
    assert server.take(ONE, THREE).full_reason == "bitmap_lost"
    server.end()
    assert [bytes(server.images[name]) for name in NAMES] == [server.content(name) for name in NAMES]


KILLED = """
import sys
from agents.drivers.base import DiskAddress, DiskWish, ReadWish
from agents.drivers.qemu import QemuDriver
folder, server, point, kept = sys.argv[1:]
wish = ReadWish([DiskWish(DiskAddress(folder, "a.qcow2", 0, server), None, frozenset([kept]))], point)
with QemuDriver(folder + "/jobs").open_sources(wish):
    print("open", flush=True)
    sys.stdin.read()
"""


@needs_qemu
def test_a_fault_or_a_kill_at_any_moment_leaves_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.start()
    server.take(ONE)
    before, wishes, plain, calls = server.traces(), [server.wish(name, ONE) for name in NAMES], Qmp.run, [0, 0]

    def failing(self: Qmp, command: str, **arguments: object) -> object:
        """The connection breaks at one command, after QEMU has done it."""
        calls[0] += 1
        answer = plain(self, command, **arguments)
        if calls[0] == calls[1]:
            self.close()
            raise QmpError("broken on purpose")
        return answer

    while calls[0] >= calls[1]:
        calls[:] = [0, calls[1] + 1]
        with monkeypatch.context() as patched:
            patched.setattr(Qmp, "run", failing)
            with suppress(DriverError):
                server.take(TWO, ONE)
        server.driver.forget(wishes)
        assert server.traces() == before, calls[1]
    assert calls[1] > 15

    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(server.folder), server.socket, THREE, ONE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert killed.stdout and killed.stdout.readline() == b"open\n"
    assert server.driver.forget(wishes) == []
    killed.kill()
    killed.communicate()
    assert THREE in server.driver.forget(wishes)
    assert server.traces() == before


@needs_qemu
def test_a_restore_is_refused_while_it_runs(server: Server) -> None:
    address = server.wish("a.qcow2").address
    server.start()
    server.take(ONE)
    with pytest.raises(DiskBusyError, match="running"), server.driver.open_target(WriteWish(address, SIZE)):
        pass
    server.end()
    with server.driver.open_target(WriteWish(address, SIZE)) as opened:
        opened.target.write(0, b"restored")
        opened.target.flush()

    assert server.content("a.qcow2")[:8] == b"restored"
    assert server.take(TWO, ONE).full_reason == "point_missing"


@pytest.mark.parametrize("answer", [b"", b"no json\n", b"[1]\n", b"x" * (17 * MIB)])
def test_what_is_no_qemu_is_told(answer: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        path = f"{folder}/qmp"
        with pytest.raises(ServerOffError):
            Qmp(path)
        listening.bind(path)
        listening.listen()

        def serve() -> None:
            with listening.accept()[0] as accepted, suppress(OSError):
                accepted.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(QmpError):
            Qmp(path)
        thread.join()
