"""The server's file systems as the control plane is told of them, and what is left over of killed backups."""

from __future__ import annotations

import logging
import os

from agents.agent_messages import TreeFacts
from agents.drivers.base import DriverError
from agents.drivers.host import HostDriver
from agents.drivers.host_mounts import Mount
from agents.drivers.host_snapshots import way_of

logger = logging.getLogger(__name__)
_MOST = 200


def tree_facts(driver: HostDriver) -> list[TreeFacts]:
    """What belongs to the server first; of the rest what is neither the kernel's nor in memory."""
    try:
        mounts = driver.mounts()
    except (OSError, ValueError) as error:
        logger.warning("the mounts cannot be read", extra={"reason": str(error)})
        return []
    kept = [mount for mount in mounts if not mount.left_out]
    others = [mount for mount in mounts if mount.left_out and _is_worth_saying(mount)]
    return [_facts(mount) for mount in [*kept, *others][:_MOST]]


def clean_up(driver: HostDriver) -> None:
    """Snapshots of a backup that was killed. Its mounts and locks went with its process."""
    try:
        for name in driver.forget(()):
            logger.info("a leftover was removed", extra={"name_of_it": name})
    except (DriverError, OSError, ValueError) as error:
        logger.warning("leftovers cannot be removed", extra={"reason": str(error)})


def _is_worth_saying(mount: Mount) -> bool:
    return not mount.left_out.startswith(("made up", "in memory", "below"))


def _facts(mount: Mount) -> TreeFacts:
    total_bytes = used_bytes = 0
    # One that is left out may be on a network that is gone: it is not even looked at.
    if not mount.left_out:
        try:
            space = os.statvfs(mount.point)
            total_bytes = space.f_blocks * space.f_frsize
            used_bytes = total_bytes - space.f_bfree * space.f_frsize
        except OSError as error:
            logger.warning("a file system cannot be measured", extra={"mount": mount.point, "reason": str(error)})
    return TreeFacts(
        mount_point=_plain(mount.point),
        kind=mount.kind,
        device=_plain(mount.device),
        total_bytes=total_bytes,
        used_bytes=used_bytes,
        snapshot="none" if mount.left_out else way_of(mount),
        left_out=mount.left_out,
    )


def _plain(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
