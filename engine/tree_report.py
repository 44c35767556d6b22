"""What came of restoring a file tree: what was written, what is damaged, and what is otherwise than at the source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from engine.errors import EngineError
from engine.manifest import ManifestInfo


class RestoreProblemKind(StrEnum):
    NOT_MADE = "not_made"
    METADATA = "metadata"
    NOT_IN_BACKUP = "not_in_backup"  # could not be read when it was backed up
    NOT_DELETED = "not_deleted"  # is not in the backup, and could not be removed
    CHANGED = "changed"  # changed while it was backed up: restored, but of no single moment


@dataclass(frozen=True, slots=True)
class RestoreProblem:
    path: bytes
    kind: RestoreProblemKind
    reason: str


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """`ranges` are (offset, length) in bytes, holes in what was restored."""

    path: bytes
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class LostEntries:
    """So many entries are unknown: from `path` on, before `next_path` (None: to the end)."""

    path: bytes
    next_path: bytes | None
    count: int


@dataclass(frozen=True, slots=True)
class TreeRestoreResult:
    """Lists are cut after ten thousand; the counts have everything.

    Same files were left as they were, but for their metadata. `same_bytes` were not fetched: those of same files, and
    what was copied from a file of the target to the one that took its place.
    """

    manifest: ManifestInfo
    entry_count: int
    written_bytes: int
    problems: tuple[RestoreProblem, ...]
    problem_counts: Mapping[RestoreProblemKind, int]
    same_bytes: int = 0
    same_files: int = 0
    deleted_count: int = 0
    damaged_files: tuple[DamagedFile, ...] = ()
    lost_entries: tuple[LostEntries, ...] = ()


class TreeDamagedError(EngineError):
    """All but what `result` lists as damaged or lost was restored."""

    default_code = "damaged"

    def __init__(self, result: TreeRestoreResult) -> None:
        self.result = result
        files, pages = len(result.damaged_files), len(result.lost_entries)
        super().__init__(f"{files} files and {pages} pages of names could not be restored whole")
