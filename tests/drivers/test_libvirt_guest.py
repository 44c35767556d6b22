"""One guest that really runs (emulated, never decided by /dev/kvm): frozen, backed up, restored, booted again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import md5
from pathlib import Path

import pytest

from agents.drivers import freezing, guest_agent, guests
from agents.drivers.base import POINT_PREFIX, DiskAddress, DiskWish, ReadWish, WriteWish
from agents.drivers.freezing import THAW_FAILED
from agents.drivers.guest_agent import GuestAgentError, ask_agent
from agents.drivers.guests import QemuGuest
from agents.drivers.nbd_server import NbdServer
from agents.drivers.qemu import QemuDriver
from engine.image_reader import ImageReader
from tests.drivers.guest import booted_by_hand, build_guest, missing_parts
from tests.drivers.libvirt_lab import Lab, own
from tests.engine.support import Vault

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(missing_parts()), reason=missing_parts()),
]

MIB = 1024 * 1024
SIZE = 64 * MIB
ONE, TWO, THREE = (f"{POINT_PREFIX}{number}" for number in range(1, 4))
FILES = {f"{name}.bin": os.urandom(MIB) for name in "abc"}
SUMS = md5(b"".join(FILES.values()), usedforsecurity=False).hexdigest()


def said(log: Path, pattern: str, seconds: float = 240) -> str:
    """What a guest says on its console that matches, as soon as it does."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        text = log.read_text(errors="replace") if log.exists() else ""
        if found := re.search(pattern, text):
            return found.group(0)
        time.sleep(0.1)
    raise AssertionError(f"{log.name} does not have {pattern}: {text[-1500:]}")


def becomes(state: Callable[[], object], wished: object, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while state() != wished:
        assert time.monotonic() < until
        time.sleep(0.05)


class Guest:
    """A server that boots; what it says on its console."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name, self.log = lab, name, lab.folder.parent / "run" / f"{name}.log"

    def waits_for(self, pattern: str) -> str:
        return said(self.log, pattern)

    def agent(self, command: str) -> object:
        told = self.lab.virsh("qemu-agent-command", self.name, json.dumps({"execute": command}))
        return json.loads(told)["return"]


@pytest.fixture
def guest(lab: Lab) -> Iterator[Guest]:
    build = lab.folder.parent / "guest"
    build.mkdir()
    kernel, initrd, image = build_guest(build, files=FILES, size_bytes=SIZE)
    disk = lab.folder / "a.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, disk], check=True)
    own(disk)
    guest = Guest(lab, "guest")
    lab.define(
        "<domain type='qemu'><name>guest</name><memory unit='MiB'>256</memory><os><type arch='x86_64' machine='pc'>hvm"
        f"</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>console=ttyS0 quiet panic=-1 edd=off "
        "mitigations=off</cmdline></os><features><acpi/></features><devices><disk type='file' device='disk'>"
        f"<driver name='qemu' type='qcow2' discard='unmap'/><source file='{disk}'/><target dev='vda' bus='virtio'/>"
        f"</disk><serial type='file'><source path='{guest.log}'/></serial><channel type='unix'>"
        "<target type='virtio' name='org.qemu.guest_agent.0'/></channel><memballoon model='none'/></devices></domain>"
    )
    lab.virsh("start", "guest")
    guest.waits_for("GUEST-READY")
    becomes(lambda: bool(lab.virsh("qemu-agent-command", "guest", '{"execute":"guest-ping"}', check=False)), True)
    yield guest
    lab.drop()
    shutil.rmtree(build)


# The guard's own time is far away: what thaws the guest is that its starter is gone.
LATE_GUARD = """
from agents.drivers import freezing, guest_agent, guests
guest_agent._SYNC_SECONDS = guests._STATUS_SECONDS = guests.FREEZE_SECONDS = 60
freezing._GUARD_SECONDS = 300
"""
KILLED = f"""
import sys
from agents.drivers.freezing import frozen_guest
from agents.drivers.guests import LibvirtGuest
from agents.drivers.virsh import Virsh
{LATE_GUARD}
uri, server, folder = sys.argv[1:]
with frozen_guest(LibvirtGuest(Virsh(uri), server), folder):
    print("frozen", flush=True)
    sys.stdin.read()
"""


KILLED_BY_HAND = f"""
import sys
from agents.drivers.freezing import frozen_guest
from agents.drivers.guests import QemuGuest
{LATE_GUARD}
with frozen_guest(QemuGuest(sys.argv[1]), sys.argv[2]):
    print("frozen", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def slow_guests(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulated guest on a busy machine may answer later than one that is worth its freeze."""
    monkeypatch.setattr(guest_agent, "_SYNC_SECONDS", 60)
    monkeypatch.setattr(guests, "_STATUS_SECONDS", 60)
    monkeypatch.setattr(guests, "FREEZE_SECONDS", 60)
    monkeypatch.setattr(freezing, "_GUARD_SECONDS", 120)


@pytest.mark.case("DP-30", "RS-14")
def test_a_guest_is_frozen_backed_up_restored_and_boots(lab: Lab, guest: Guest, tmp_path: Path) -> None:
    server = lab.virsh("domuuid", "guest")
    image = bytearray(SIZE)
    assert f"boots= sums={SUMS}" in guest.waits_for("GUEST-FOUND .*")

    # Full, then what changed; frozen at the moment of the point, running again before anything is read.
    for point, base in ((ONE, None), (TWO, ONE)):
        wish = lab.wish(server, "a.qcow2", base, [ONE])
        with lab.driver.open_sources(ReadWish([wish], point, freeze=True)) as [disk]:
            assert (disk.facts.frozen, disk.facts.warnings, disk.facts.full_reason) == (True, (), "")
            assert guest.agent("guest-fsfreeze-status") == "thawed"
            changed = disk.source.changed_extents()
            for extent in disk.source.extents() if changed is None else changed:
                part = slice(extent.offset, extent.offset + extent.length)
                image[part] = disk.source.read(extent.offset, extent.length)
        lab.virsh("qemu-agent-command", "guest", '{"execute":"guest-ping"}')

    # Killed while the guest is frozen: the guard thaws at once.
    lab.jobs.mkdir(exist_ok=True)
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, lab.uri, server, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert killed.stdout and killed.stdin and killed.stdout.readline() == "frozen\n"
    assert guest.agent("guest-fsfreeze-status") == "frozen"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    becomes(lambda: guest.agent("guest-fsfreeze-status"), "thawed", seconds=60)

    # Somebody else froze it: no freeze of ours, a warning, a backup all the same, and his freeze stays.
    guest.agent("guest-fsfreeze-freeze")
    with lab.driver.open_sources(ReadWish([lab.wish(server, "a.qcow2", TWO, [TWO])], THREE, freeze=True)) as [disk]:
        assert not disk.facts.frozen
        assert [warned.code for warned in disk.facts.warnings] == ["freeze_failed"]
        assert THAW_FAILED not in {warned.code for warned in disk.facts.warnings}
        configuration = disk.facts.configuration
    assert guest.agent("guest-fsfreeze-status") == "frozen"
    guest.agent("guest-fsfreeze-thaw")
    lab.virsh("destroy", "guest")

    # Restored to a new disk of a new server, which boots from it.
    address = lab.wish("", "b.qcow2").address
    with lab.driver.open_target(WriteWish(address, SIZE, create=True)) as opened:
        for offset in range(0, SIZE, MIB):
            if any(image[offset : offset + MIB]):
                opened.target.write(offset, bytes(image[offset : offset + MIB]))
        opened.target.flush()
    own(lab.folder / "b.qcow2")
    restored = Guest(lab, "restored")
    text = configuration.replace(str(guest.log), str(restored.log))
    disks = {str(lab.folder / "a.qcow2"): str(lab.folder / "b.qcow2")}
    lab.driver.define(text, name="restored", disks=disks)
    lab.virsh("start", "restored")
    assert f"boots=1 sums={SUMS}" in restored.waits_for("GUEST-FOUND .*")
    restored.waits_for("GUEST-READY")
    assert "GUEST-DAMAGED" not in restored.log.read_text(errors="replace")
    lab.virsh("destroy", "restored")

    with served(bytes(image), lab.folder) as layer:
        _boots_without_a_restore(lab, layer)


@contextmanager
def served(content: bytes, folder: Path) -> Iterator[Path]:
    """The content as a backup in a vault, served over NBD by our own server; a layer over it takes what is written."""
    vault, at, layer = Vault(), str(folder / "nbd"), folder / "layer.qcow2"
    manifest = vault.write(content, block_size=65536, fan_out=1024, pack_size=4 * MIB).manifest
    reader = ImageReader(
        manifest_ref=manifest,
        object_source=vault.store,
        keys=vault.keys_for(manifest),
        trusted_writers=[vault.writer_key.public],
        cache_bytes=4 * MIB,
    )
    with NbdServer(reader, at) as server:
        url = f"nbd+unix:///?socket={at}"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", url, "-F", "raw", layer], check=True)
        yield layer
        assert server.failed_reads == 0 and server.read_bytes > 0


def _boots_without_a_restore(lab: Lab, layer: Path) -> None:
    """And the driver that needs no libvirt freezes it, with the same guard."""
    build, driver = lab.folder.parent / "guest", QemuDriver(str(lab.jobs))
    with booted_by_hand(lab.folder, build / "vmlinuz", build / "initrd.gz", layer) as (qmp, agent, log):
        assert f"boots=1 sums={SUMS}" in said(log, "GUEST-FOUND .*")
        said(log, "GUEST-READY")
        assert "GUEST-DAMAGED" not in log.read_text(errors="replace")
        guest = QemuGuest(agent)
        becomes(lambda: _answers(agent), True)

        wish = DiskWish(DiskAddress(str(lab.folder), layer.name, SIZE, qmp))
        with driver.open_sources(ReadWish([wish], ONE, freeze=True)) as [disk]:
            assert (disk.facts.frozen, disk.facts.warnings, guest.is_frozen()) == (True, (), False)
            assert disk.source.read(0, SIZE)[1024:] != bytes(SIZE - 1024)

        command = [sys.executable, "-c", KILLED_BY_HAND, agent, str(lab.jobs)]
        killed = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert killed.stdout and killed.stdout.readline() == "frozen\n"
        assert guest.is_frozen()
        killed.kill()
        killed.communicate()
        becomes(guest.is_frozen, False, seconds=60)


def _answers(agent: str) -> bool:
    with suppress(GuestAgentError):
        return bool(ask_agent(agent, "guest-ping", timeout=5) == {})
    return False
