"""How much one session may upload: it bounds what a stolen token costs. Runs in the signer process."""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import F
from django.utils import timezone

from agents.drivers.registry import content_of
from agents.models import Disk
from backups.models import Session, live_sessions
from common.errors import InvalidInputError
from engine.manifest import CONTENT_DISK, CONTENT_TREE
from engine.store.http import PutSpec

MIB = 1024 * 1024
# What one session may upload beyond the size of its disk: headers, maps, incompressible blocks.
QUOTA_SLACK_BYTES = 256 * 1024 * 1024
# Objects are some MiB each; this many allow for packs that close early. One per MiB of the disk comes on top.
QUOTA_SLACK_OBJECTS = 1024
# What a tree on a file system that was not measured, or a stream, may upload: it only bounds what a stolen token costs.
UNKNOWN_BYTES = 16 * 1024**4


def charge(session: Session, specs: Sequence[PutSpec]) -> None:
    """Count what was granted against the session's quotas of bytes and objects, in one conditional statement."""
    disk_bytes = _most_bytes(session.job.disk)
    size_bytes, count = sum(spec.size_bytes for spec in specs), len(specs)
    within = live_sessions(timezone.now()).filter(
        pk=session.pk,
        granted_bytes__lte=disk_bytes * 5 // 4 + QUOTA_SLACK_BYTES - size_bytes,
        granted_objects__lte=disk_bytes // MIB + QUOTA_SLACK_OBJECTS - count,
    )
    charged = within.update(granted_bytes=F("granted_bytes") + size_bytes, granted_objects=F("granted_objects") + count)
    if charged != 1:
        raise InvalidInputError("The session has used up what a backup of this disk may upload.", code="quota_exceeded")


def _most_bytes(disk: Disk) -> int:
    """How much there can be to read. Nobody knows how a tree or a stream has grown since its last backup: a tree at
    most to the size of the file system that it lies on."""
    if content_of(disk.driver) == CONTENT_DISK:
        return disk.size_bytes
    measured = disk.storage.total_bytes if disk.storage is not None else None
    is_tree = content_of(disk.driver) == CONTENT_TREE
    return max(disk.size_bytes, measured if is_tree and measured else UNKNOWN_BYTES)
