"""What of a file tree is restored, and where to: as a person says it, as a job keeps it, as a mover gets it.

Names are bytes. Where one is no UTF-8 it is shown with \\xNN for such a byte, and typed the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents.models import HOST_DRIVER, Disk
from backups.models import Backup
from common.errors import BackupsiteError, ConflictError, InvalidInputError
from engine.manifest import CONTENT_TREE

MOST_PATHS = 1000
LONGEST_PATH = 4096
LONGEST_FOLDER = 300
_ESCAPED = re.compile(r"\\x([89a-f][0-9a-f])")


@dataclass(frozen=True, slots=True)
class FileWish:
    """`paths` below the root of the backup (none: all); `folder`, a new one inside of the target's tree instead of the
    tree itself; `delete_extra`: what the backup does not have is removed, so that the tree is as it was.
    """

    paths: tuple[str, ...] = ()
    folder: str = ""
    delete_extra: bool = False

    def check(self) -> FileWish:
        """Without slashes at the ends. InvalidInputError for what leads out of the tree, or makes no sense."""
        if len(self.paths) > MOST_PATHS:
            raise _error(f"At most {MOST_PATHS} paths at once. Name the folder that they are in.", "paths")
        wish = FileWish(
            tuple(_inside(path, field="paths", longest=LONGEST_PATH) for path in self.paths),
            _inside(self.folder, field="folder", longest=LONGEST_FOLDER) if self.folder.strip() else "",
            self.delete_extra,
        )
        if wish.folder and wish.delete_extra:
            raise _error("In a new folder there is nothing to remove.", "delete_extra")
        return wish

    def as_json(self) -> dict[str, Any]:
        """For the job's row; empty when there is nothing to say."""
        said = {"paths": list(self.paths), "folder": self.folder, "delete_extra": self.delete_extra}
        return {name: value for name, value in said.items() if value}


WHOLE = FileWish()


def of_job(files: Mapping[str, Any]) -> FileWish:
    return FileWish(tuple(files.get("paths", ())), files.get("folder", ""), bool(files.get("delete_extra")))


def path_bytes(path: str) -> bytes:
    """The name in the file system of a path as it is shown."""
    parts = _ESCAPED.split(path)
    return b"".join(bytes.fromhex(one) if odd % 2 else one.encode() for odd, one in enumerate(parts))


def what_is_lost(target: Disk, wish: FileWish, *, content: str) -> str:
    """What a restore onto the target destroys, in words."""
    if content != CONTENT_TREE:
        return f"Restoring destroys all data and all snapshots on {target}."
    if wish.folder:
        return f"Nothing is lost: the files go into the new folder {wish.folder} of {target}."
    named = "Files of these paths" if wish.paths else "Files"
    lost = f"{named} on {target} that are in the backup too are replaced by what they were; what changed since is lost."
    extra = " What is not in the backup is removed." if wish.delete_extra else " What is not in the backup stays."
    return lost + extra


def file_refusal(backup: Backup, target: Disk, wish: FileWish) -> BackupsiteError | None:
    """Why the wish cannot be, whatever the person confirms."""
    if wish == WHOLE:
        return None
    if backup.content != CONTENT_TREE:
        return _error("Single files and folders are those of a backup of files; this one is no such.", "paths")
    if wish.delete_extra and target.driver == HOST_DRIVER:
        return _error(
            "On a whole server nothing is removed: what is mounted there, and what was left out, is not in the backup. "
            "Restore over what is there, or into a new folder.",
            "delete_extra",
        )
    free_bytes = target.storage.free_bytes if target.storage is not None else None
    if wish.folder and not wish.paths and free_bytes is not None and free_bytes < backup.size_bytes:
        return ConflictError(
            f"{target.storage} has {free_bytes} bytes free, the backup {backup.size_bytes}. Restore single paths.",
            code="no_space",
            field="folder",
        )
    return None


def _inside(path: str, *, field: str, longest: int) -> str:
    """Relative, with single slashes."""
    parts = [part for part in path.strip("\r\n").split("/") if part not in {"", "."}]
    if not parts or ".." in parts or "\0" in path:
        raise _error(f"{path[:60]!r} is no path inside of the tree. Write it from the root of the tree on.", field)
    if len(path) > longest:
        raise _error(f"A path has at most {longest} characters.", field)
    return "/".join(parts)


def _error(message: str, field: str) -> InvalidInputError:
    return InvalidInputError(message, code="bad_files", field=field)
