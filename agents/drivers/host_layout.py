"""What is needed to build a server's disks again before its files can be restored: kept inside of each backup.

Nothing here stops a backup: a program that is missing, hangs or fails leaves a sentence in place of its answer.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

FORMAT = 1
# The mover takes 1 MiB in all; JSON makes some signs longer.
_LONGEST_ANSWER = 200_000
_PROGRAM_SECONDS = 20
_FILES = (
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/mdadm/mdadm.conf",
    "/etc/mdadm.conf",
    "/etc/default/grub",
    "/proc/cmdline",
)
_BLOCK = "NAME,KNAME,PKNAME,TYPE,SIZE,FSTYPE,FSVER,LABEL,UUID,PARTTYPE,PARTUUID,MOUNTPOINT,MODEL,SERIAL,RO"
_PACKAGES = (
    ("dpkg-query", "-W", "-f", "${Package} ${Version} ${Architecture}\n"),
    ("rpm", "-qa", "--qf", "%{NAME} %{VERSION}-%{RELEASE} %{ARCH}\n"),
)
_BOOT_LOADERS = ("boot/grub/grub.cfg", "boot/grub2/grub.cfg", "boot/loader/loader.conf", "boot/efi/EFI", "efi/EFI")
# A passphrase may stand in a file of options; it does not belong into a backup's description.
_SECRET = re.compile(r"(?i)\b(password|passwd|pass|credential|key)=[^\s,]+")

Run = Callable[[Sequence[str]], str]


def layout_facts(*, run: Run | None = None, root: Path = Path("/")) -> str:
    """JSON with partition tables, block devices, mounts, boot mode and loader, kernel and packages."""
    ask = run or _run
    disks = [name for name in _disks(root) if re.fullmatch(r"[A-Za-z0-9!_.-]+", name)]
    told: dict[str, object] = {
        "format": FORMAT,
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "boot_mode": "uefi" if (root / "sys/firmware/efi").is_dir() else "bios",
        "boot_loaders": [name for name in _BOOT_LOADERS if (root / name).exists()],
        "block_devices": ask(("lsblk", "-J", "-b", "-o", _BLOCK)),
        "partition_tables": {name: ask(("sfdisk", "-d", f"/dev/{name.replace('!', '/')}")) for name in disks},
        "lvm": ask(("lvs", "--reportformat", "json", "--units", "b", "-o", "vg_name,lv_name,lv_attr,lv_size,pool_lv")),
        "btrfs": ask(("btrfs", "filesystem", "show")),
        "efi_entries": ask(("efibootmgr", "-v")) if (root / "sys/firmware/efi").is_dir() else "",
        "files": {name: _text(root / name.lstrip("/")) for name in _FILES if (root / name.lstrip("/")).exists()},
        "packages": next((ask(words) for words in _PACKAGES if shutil.which(words[0])), ""),
    }
    return json.dumps(_fitted(told), sort_keys=True)


def _fitted(told: Mapping[str, object], most: int = 900_000) -> Mapping[str, object]:
    """The list of packages is the longest, and can be done without."""
    if len(json.dumps(told).encode()) <= most:
        return told
    return {**told, "packages": "left out: too long"}


def _disks(root: Path) -> list[str]:
    try:
        names = sorted(os.listdir(root / "sys/block"))  # noqa: PTH208  # names only
    except OSError:
        return []
    return [name for name in names if not name.startswith(("loop", "ram", "zram", "dm-", "sr", "fd", "nbd"))]


def _text(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return _SECRET.sub(r"\1=(left out)", file.read(_LONGEST_ANSWER))
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _run(words: Sequence[str]) -> str:
    program = shutil.which(words[0])
    if program is None:
        return f"{words[0]} is not installed"
    try:
        done = subprocess.run(  # noqa: S603  # a list of words, of which none comes from the network
            [program, *words[1:]],
            capture_output=True,
            timeout=_PROGRAM_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        return f"{words[0]} did not answer"
    except OSError as error:
        return f"{words[0]} cannot be run: {error.strerror}"
    if done.returncode != 0:
        return f"{words[0]} failed: {done.stderr.decode(errors='replace')[:200]}"
    return done.stdout[:_LONGEST_ANSWER].decode(errors="replace")
