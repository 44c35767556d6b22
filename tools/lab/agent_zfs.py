"""Boots the guest of `build_agent_zfs_guest.sh` and shows what `agent_zfs_steps.py` says in it; fails when it fails.

make lab-agent-zfs       builds modules (6 minutes the first time) and guest, then runs this (some minutes)
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

LAB = Path(__file__).resolve().parents[2] / "var" / "lab"
GUEST = LAB / "agent-zfs"
DISK_MIB = 1024
SECONDS = 1800
# On a machine under load the kernel finds that the emulated timer does not work, and gives up.
OPTIONS = "quiet panic=-1 edd=off mitigations=off no_timer_check spl.spl_hostid=0x1234"


def main() -> int:
    disk, log = GUEST / "pool.img", LAB / "agent-zfs.log"
    _partition(disk)
    command = [
        *("nice", "qemu-system-x86_64", "-accel", "tcg", "-m", "2048", "-display", "none", "-no-reboot"),
        *("-monitor", "none", "-serial", "stdio", "-kernel", str(GUEST / "vmlinuz"), "-device", "virtio-rng-pci"),
        *("-initrd", str(GUEST / "initramfs.gz"), "-append", f"console=ttyS0 {OPTIONS}"),
        *("-drive", f"file={GUEST / 'root.img'},if=virtio,format=raw,snapshot=on"),
        *("-drive", f"file={disk},if=virtio,format=raw,discard=unmap"),
    ]
    begun, passed = time.monotonic(), False
    with log.open("w") as file, subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as guest:
        assert guest.stdout is not None
        try:
            for line in guest.stdout:
                file.write(line)
                print(line, end="", flush=True)
                passed = passed or line.startswith("LAB-PASSED")
                if time.monotonic() - begun > SECONDS:
                    break
        finally:
            guest.kill()
    disk.unlink()
    print(f"{'passed' if passed else 'FAILED'} in {time.monotonic() - begun:.0f} s; {log}")
    return 0 if passed else 1


def _partition(disk: Path) -> None:
    """One partition, so that `zpool create` needs no udev."""
    sectors = DISK_MIB * 2048
    entry = b"\0\xfe\xff\xff\x83\xfe\xff\xff" + (2048).to_bytes(4, "little") + (sectors - 2048).to_bytes(4, "little")
    with disk.open("wb") as file:
        file.truncate(sectors * 512)
        file.seek(446)
        file.write(entry)
        file.seek(510)
        file.write(b"\x55\xaa")


if __name__ == "__main__":
    # The guest ends with this program, also when it is asked to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    sys.exit(main())
