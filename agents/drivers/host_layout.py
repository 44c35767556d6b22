"""What is needed to build a server's disks again before its files can be restored: kept inside of each backup.

Nothing here stops a backup: a program that is missing, hangs or fails leaves a sentence in place of its answer.
"""

from __future__ import annotations

import json
import os
import platform
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from agents.drivers.children import environment

FORMAT = 1
# The mover takes 1 MiB in all; JSON makes some signs longer.
_LONGEST_ANSWER = 200_000
_LONGEST_FACTS = 900_000
_LEFT_OUT = "left out: too long"
_PROGRAM_SECONDS = 20.0
# Of a server with disks that no longer answer each one would cost its time.
_ALL_SECONDS = 120.0
_KILL_SECONDS = 1.0
_CHUNK_BYTES = 64 * 1024
_LONGEST_COMPLAINT = 1000
_FILES = (
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/mdadm/mdadm.conf",
    "/etc/mdadm.conf",
    "/etc/default/grub",
    "/proc/cmdline",
)
_BLOCK = "NAME,KNAME,PKNAME,TYPE,SIZE,FSTYPE,FSVER,LABEL,UUID,PARTTYPE,PARTUUID,MOUNTPOINT,MODEL,SERIAL,RO"
_LVM = ("--reportformat", "json", "--units", "b", "-o")
_PROGRAMS: Mapping[str, Sequence[str]] = {
    "block_devices": ("lsblk", "-J", "-b", "-o", _BLOCK),
    "raid": ("mdadm", "--detail", "--scan"),
    "lvm_physical": ("pvs", *_LVM, "pv_name,pv_uuid,vg_name,pv_size,pv_free,pe_start"),
    "lvm_groups": ("vgs", *_LVM, "vg_name,vg_uuid,vg_extent_size,vg_size,vg_free,pv_count,lv_count"),
    "lvm": ("lvs", *_LVM, "vg_name,lv_name,lv_uuid,lv_attr,lv_size,segtype,stripes,pool_lv,origin,devices"),
    "btrfs": ("btrfs", "filesystem", "show"),
    "zfs_pools": ("zpool", "list", "-v", "-P"),
    "zfs_status": ("zpool", "status", "-P"),
    "zfs_datasets": ("zfs", "list", "-H", "-p", "-o", "name,type,used,volsize,mountpoint,canmount"),
}
_PACKAGES = (
    ("dpkg-query", "-W", "-f", "${Package} ${Version} ${Architecture}\n"),
    ("rpm", "-qa", "--qf", "%{NAME} %{VERSION}-%{RELEASE} %{ARCH}\n"),
)
_BOOT_LOADERS = ("boot/grub/grub.cfg", "boot/grub2/grub.cfg", "boot/loader/loader.conf", "boot/efi/EFI", "efi/EFI")
# A passphrase may stand in a file of options; it does not belong into a backup's description.
_SECRET = re.compile(
    r"(?i)([\w.-]*(?:passw(?:or)?d|passphrase|secret|token|credential|(?<![a-z])pass|(?<![a-z])key)\d*)="
    r"(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s,]+)"
)
# As in ftp://user:password@host.
_SECRET_OF_URL = re.compile(r":[^\s/@,]+@")

Run = Callable[[Sequence[str]], str]


def layout_facts(*, run: Run | None = None, root: Path = Path("/")) -> str:
    """JSON with partition tables, block devices, mounts, boot mode and loader, kernel and packages. At most 900,000
    bytes, and two minutes."""
    ask = run or partial(_run, until=time.monotonic() + _ALL_SECONDS)
    disks = [name for name in _disks(root) if re.fullmatch(r"[A-Za-z0-9!_.-]+", name)]
    has_efi = (root / "sys/firmware/efi").is_dir()
    told: dict[str, Any] = {
        "format": FORMAT,
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "boot_mode": "uefi" if has_efi else "bios",
        "boot_loaders": [name for name in _BOOT_LOADERS if (root / name).exists()],
        "files": {name: _text(root / name.lstrip("/")) for name in _FILES if (root / name.lstrip("/")).exists()},
        "partition_tables": {name: ask(("sfdisk", "-d", f"/dev/{name.replace('!', '/')}")) for name in disks},
        **{name: ask(words) for name, words in _PROGRAMS.items()},
        "efi_entries": ask(("efibootmgr", "-v")) if has_efi else "",
        "packages": next((ask(words) for words in _PACKAGES if shutil.which(words[0])), ""),
    }
    return json.dumps(_fitted(told))


def _fitted(told: dict[str, Any], most: int = _LONGEST_FACTS) -> dict[str, Any]:
    """Without the longest answers where it is too long: the list of packages before all else, which can be done
    without, and the partition tables at the very end."""
    names = [name for name, answer in told.items() if isinstance(answer, str) and name != "packages"]
    by_length = sorted(names, key=lambda name: len(told[name]), reverse=True)
    for name in ("packages", *by_length, "files", "partition_tables"):
        if len(json.dumps(told).encode()) <= most:
            break
        told = {**told, name: _LEFT_OUT}
    return told


def _disks(root: Path) -> list[str]:
    try:
        names = sorted(os.listdir(root / "sys/block"))  # noqa: PTH208  # names only
    except OSError:
        return []
    return [name for name in names if not name.startswith(("loop", "ram", "zram", "dm-", "sr", "fd", "nbd"))]


def _text(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return _without_secrets(file.read(_LONGEST_ANSWER))
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _without_secrets(text: str) -> str:
    return _SECRET_OF_URL.sub(":(left out)@", _SECRET.sub(r"\1=(left out)", text))


def _run(words: Sequence[str], *, until: float) -> str:
    """`until`: of the monotonic clock, when no program is asked any more."""
    program = shutil.which(words[0])
    if program is None:
        return f"{words[0]} is not installed"
    end = min(until, time.monotonic() + _PROGRAM_SECONDS)
    if end <= time.monotonic():
        return f"{words[0]} was not asked: other programs took too long"
    try:
        process = subprocess.Popen(  # noqa: S603  # a list of words, of which none comes from the network
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
    except OSError as error:
        return f"{words[0]} cannot be run: {error.strerror}"
    with process.stdout or nullcontext(), process.stderr or nullcontext():
        return _answer(process, words[0], end)


def _answer(process: subprocess.Popen[bytes], name: str, end: float) -> str:
    """What it prints before `end`, and no more than is kept. A program that the kernel does not let go is not waited
    for."""
    said = {pipe: b"" for pipe in (process.stdout, process.stderr) if pipe is not None}
    answer, complaint = said
    is_open = set(said)
    while is_open and len(said[answer]) <= _LONGEST_ANSWER and (left := end - time.monotonic()) > 0:
        for pipe in select.select(list(is_open), [], [], left)[0]:
            chunk = os.read(pipe.fileno(), _CHUNK_BYTES)
            kept = said[pipe] if pipe is answer else said[pipe][-_LONGEST_COMPLAINT:]
            said[pipe] = kept + chunk
            if not chunk:
                is_open.discard(pipe)
    code = _end(process, max(end - time.monotonic(), 0.1) if not is_open else 0.0)
    text = said[answer].decode(errors="replace")
    if len(said[answer]) > _LONGEST_ANSWER:
        return text[:_LONGEST_ANSWER] + "\n(cut: too long)"
    if code is None:
        return f"{name} did not answer"
    return text if code == 0 else f"{name} failed: {said[complaint].decode(errors='replace').strip()[:200]}"


def _end(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Its exit code when it ends by itself within this time."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_SECONDS)
        return None
