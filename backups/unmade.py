"""Files that restores make on nodes, by names that nobody else gives: what a killed worker left of them is removed.

Runs in a worker of the node.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from agents.models import Disk, Storage
from backups.models import Job, JobEvent
from backups.transitions import DISK_MADE
from tenants.audit import record

# What the name of a new disk begins with; the rest is random.
NEW_DISK = "restored-"
# And that of a restore drill's scratch file; the rest is the job's id.
SCRATCH = "backupsite-drill-"


def scratch_name(job: Job) -> str:
    return f"{SCRATCH}{job.pk.hex}.img"


def remove_unmade(disk: Disk) -> str:
    """Remove the image of a new disk that a killed worker made, and of which nobody was told; its path, empty for none.

    Its name is one that only this row has. Nothing is removed once the control plane was told that the disk is there.
    """
    if disk.storage is None or not disk.storage.path.startswith("/") or not disk.path.startswith(NEW_DISK):
        return ""
    if disk.incomplete_since is None or "/" in disk.path:
        return ""
    if JobEvent.objects.filter(job__disk=disk, job__creates_disk=True, code=DISK_MADE).exists():
        return ""
    path = Path(disk.storage.path, disk.path)
    if path.is_symlink() or not path.is_file():
        return ""
    path.unlink()
    record(action="disk.swept", subject=disk, actor=None, after={"removed": [str(path)]})
    return str(path)


def remove_scratch(name: str) -> list[str]:
    """Remove scratch files of restore drills on this node that run no more; their paths."""
    removed = []
    for path in Storage.objects.filter(node__name=name, for_drills=True).values_list("path", flat=True):
        for scratch in Path(path).glob(f"{SCRATCH}{'[0-9a-f]' * 32}.img"):
            running = Job.objects.active().filter(pk=UUID(scratch.stem.removeprefix(SCRATCH)))
            if not running.exists() and scratch.is_file() and not scratch.is_symlink():
                scratch.unlink(missing_ok=True)
                removed.append(str(scratch))
    return removed
