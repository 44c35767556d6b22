"""Boots the guest of `build_lvm_guest.sh` and shows what `lvm_steps.py` says in it; fails when it does not pass.

make lab-lvm       builds the guest, then runs this (some minutes: the machine is emulated)
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

LAB = Path(__file__).resolve().parents[2] / "var" / "lab" / "lvm"
SECONDS = 1800
# On a machine under load the kernel finds that the emulated timer does not work, and gives up.
OPTIONS = "quiet panic=-1 edd=off mitigations=off no_timer_check"


def main() -> int:
    disk, log = LAB / "pool.img", LAB / "run.log"
    disk.unlink(missing_ok=True)
    with disk.open("wb") as file:
        file.truncate(512 << 20)
    command = [
        *("nice", "qemu-system-x86_64", "-accel", "tcg", "-m", "1024", "-display", "none", "-no-reboot"),
        *("-monitor", "none", "-serial", "stdio", "-kernel", str(LAB / "vmlinuz")),
        *("-initrd", str(LAB / "initramfs.gz"), "-append", f"console=ttyS0 {OPTIONS}"),
        *("-drive", f"file={LAB / 'root.img'},if=virtio,format=raw"),
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


if __name__ == "__main__":
    sys.exit(main())
