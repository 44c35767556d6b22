"""Safety points: what was on a disk before a restore wrote to it, kept where the image or the file system can."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

from agents.drivers.base import POINT_PREFIX, DriverError, TargetFacts, Warned
from agents.drivers.qemu_images import add_snapshot, image_facts, remove_snapshot

logger = logging.getLogger(__name__)

NO_SAFETY_POINT = "no_safety_point"
_FICLONE = 0x40049409
_CANNOT_CLONE = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS})


def take_safety_point(path: str, image_format: str, name: str) -> TargetFacts:
    """A snapshot inside of a qcow2 image; else a copy that shares its blocks, where the file system has these."""
    if not name:
        return TargetFacts()
    if image_format == "qcow2":
        add_snapshot(path, name)
        return TargetFacts(safety_point=name)
    if Path(path).is_file() and _clone(path, f"{path}.{name}"):
        return TargetFacts(safety_point=name)
    message = "What was on the disk before was not kept: neither its format nor its file system has snapshots."
    return TargetFacts(warnings=(Warned(NO_SAFETY_POINT, message),))


def unneeded_safety_points(path: str, image_format: str, kept: Set[str], *, is_off: bool) -> list[str]:
    """Remove those of ours on this disk that are not kept; returns their names. A running server's image is left."""
    removed = []
    folder, file_name = os.path.split(path)
    for entry in sorted(Path(folder).glob(f"{_escaped(file_name)}.{POINT_PREFIX}*")):
        name = entry.name[len(file_name) + 1 :]
        if name not in kept:
            entry.unlink()
            removed.append(name)
    if image_format == "qcow2" and is_off:
        for name in sorted(image_facts(path, image_format).snapshots - kept):
            if name.startswith(POINT_PREFIX):
                try:
                    remove_snapshot(path, name)
                except DriverError as error:
                    logger.warning("a safety point stays", extra={"point": name, "reason": error.message})
                    continue
                removed.append(name)
    return removed


def _clone(path: str, copy: str) -> bool:
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError as error:
            with suppress(FileNotFoundError):
                os.unlink(copy)
            if error.errno in _CANNOT_CLONE:
                return False
            raise
        finally:
            os.close(target)
    finally:
        os.close(source)
    return True


def _escaped(name: str) -> str:
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
