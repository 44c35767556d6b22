"""A small guest for emulation: Debian's kernel, busybox and QEMU's agent in a RAM file system, and a data disk.

`tools/test-guest.sh` fetches the parts. The guest mounts its disk, says what it finds there, keeps writing small pieces
and runs the agent; nothing of it needs root.
"""

from __future__ import annotations

import gzip
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path("var/test-guest/root")
MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk")
CONSOLE_MODULE = "virtio_console"
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/sbin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/virtio-ports /run
for module in {modules}; do insmod /lib/modules/$module.ko; done
for try in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; sleep 0.2; done
mount -t ext4 /dev/vda /data && echo "GUEST-MOUNTED"
echo "GUEST-FOUND boots=$(cat /data/boots 2>/dev/null) sums=$(cat /data/*.bin | md5sum | cut -c1-32)"
dmesg | grep -i 'ext4.*error' && echo "GUEST-DAMAGED"
echo $(( $(cat /data/boots 2>/dev/null || echo 0) + 1 )) > /data/boots; sync
for port in /sys/class/virtio-ports/*; do ln -sf /dev/${{port##*/}} "/dev/virtio-ports/$(cat $port/name)"; done
/usr/sbin/qemu-ga -d -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run -f /run/qga.pid
( n=0; while :; do n=$((n+1)); echo "line $n" >> /data/log; dd if=/dev/urandom of=/data/hot bs=4k count=4 \\
  conv=notrunc 2>/dev/null; [ $((n%5)) = 0 ] && sync; sleep 0.2; done ) &
echo "GUEST-READY"
while :; do sleep 100; done
"""


def missing_parts() -> str:
    """Why no guest can be booted here; empty when one can."""
    if not (ROOT.parent / "complete").exists():
        return "the parts of the test guest are not here: run tools/test-guest.sh"
    return "" if shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin:/bin") else "not installed: e2fsprogs"


def build_guest(folder: Path, *, files: dict[str, bytes], size_bytes: int) -> tuple[Path, Path, Path]:
    """Kernel, initial RAM disk, and a raw image of the data disk with the files."""
    kernel, initrd, image = folder / "vmlinuz", folder / "initrd.gz", folder / "data.raw"
    shutil.copy(next((ROOT / "boot").glob("vmlinuz-*")), kernel)
    kernel.chmod(0o644)
    initrd.write_bytes(gzip.compress(_archive(), 1))
    seed = folder / "seed"
    seed.mkdir()
    for name, content in files.items():
        (seed / name).write_bytes(content)
    with image.open("wb") as file:
        file.truncate(size_bytes)
    mke2fs = shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert mke2fs is not None
    command = [mke2fs, "-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d", str(seed), str(image)]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(seed)
    return kernel, initrd, image


@contextmanager
def booted_by_hand(folder: Path, kernel: Path, initrd: Path, disk: Path) -> Iterator[tuple[str, str, Path]]:
    """A QEMU without libvirt, from the qcow2 image: sockets of QMP and of the agent, and the file of its console."""
    qmp, agent, log = (folder / name for name in ("qmp", "qga", "console"))
    command = ["qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-display", "none", "-m", "256"]
    command += ["-kernel", str(kernel), "-initrd", str(initrd), "-serial", f"file:{log}"]
    command += ["-append", "console=ttyS0 quiet panic=-1 edd=off mitigations=off"]
    command += ["-qmp", f"unix:{qmp},server=on,wait=off", "-device", "virtio-serial-pci"]
    command += ["-chardev", f"socket,path={agent},server=on,wait=off,id=to-agent"]
    command += ["-device", "virtserialport,chardev=to-agent,name=org.qemu.guest_agent.0"]
    command += ["-drive", f"file={disk},format=qcow2,if=virtio"]
    process = subprocess.Popen(command)
    try:
        yield str(qmp), str(agent), log
    finally:
        process.kill()
        process.wait()


def _archive() -> bytes:
    """A cpio archive, format `newc`, as the kernel reads it."""
    modules = {path.stem: path for path in ROOT.rglob("*.ko")}
    names = [*MODULES, CONSOLE_MODULE]
    agent = ROOT / "usr/sbin/qemu-ga"
    files: dict[str, tuple[int, bytes]] = {
        "init": (0o755, INIT.format(modules=" ".join(names)).encode()),
        "bin/busybox": (0o755, (ROOT / "bin/busybox").read_bytes()),
        "usr/sbin/qemu-ga": (0o755, agent.read_bytes()),
        **{f"lib/modules/{name}.ko": (0o644, modules[name].read_bytes()) for name in names},
        **{library.lstrip("/"): (0o755, Path(library).read_bytes()) for library in _libraries(agent)},
    }
    folders = {"proc", "sys", "dev", "run", "data", "tmp", "sbin"}
    folders |= {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in sorted(folders)]
    entries += [(name, stat.S_IFREG | mode, content) for name, (mode, content) in files.items()]
    return b"".join(_entry(number, *entry) for number, entry in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1))


def _libraries(program: Path) -> list[str]:
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return sorted({word for word in told.split() if word.startswith("/") and Path(word).exists()})


def _entry(number: int, name: str, mode: int, content: bytes) -> bytes:
    fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
