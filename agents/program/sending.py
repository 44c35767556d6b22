"""Has the engine send what a driver opened: a disk, a file tree or a stream."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypedDict

from agents.drivers.base import DriverError, OpenedDisk, OpenedStream, OpenedTree, Warned
from agents.program.naming_files import problems_of_backup
from agents.protocol import BackupWork
from engine.backup import BackupBase, ProgressReport, WriteContext, WriteResult
from engine.resume import ResumableSession
from engine.store.base import ObjectSink, ObjectSource
from engine.stream_writer import write_stream_backup
from engine.tree_writer import write_tree_backup
from engine.waiting import Cancel
from engine.writer import write_disk_backup

Opened: TypeAlias = OpenedDisk | OpenedTree | OpenedStream


class TreeEmptyError(DriverError):
    """There is no file in a tree that had some."""

    code = "tree_empty"
    permanent = False


class Means(TypedDict):
    """What every writer of the engine is given."""

    sink: ObjectSink
    base: BackupBase | None
    context: WriteContext
    progress: ProgressReport
    cancel: Cancel
    resume: Sequence[ResumableSession]
    resume_source: ObjectSource | None


@dataclass(frozen=True, slots=True)
class Sent:
    """What was stored, and what of single files a person should know."""

    result: WriteResult
    warnings: tuple[Warned, ...] = ()


def total_bytes(opened: Opened, work: BackupWork) -> int:
    """How much there is to look at. Of a tree or stream what the last backup had, 0 when there is none."""
    if isinstance(opened, OpenedDisk):
        return opened.source.size_bytes
    return work.disk.size_bytes if work.base is not None else 0


def send(opened: Opened, work: BackupWork, means: Means) -> Sent:
    """Raises what the engine's writers raise, and TreeEmptyError."""
    if isinstance(opened, OpenedDisk):
        return Sent(write_disk_backup(source=opened.source, **means))
    if isinstance(opened, OpenedStream):
        return Sent(write_stream_backup(source=opened.stream, check_complete=opened.check_complete, **means))
    return _send_tree(opened, work, means)


def _send_tree(opened: OpenedTree, work: BackupWork, means: Means) -> Sent:
    """Trouble with single files does not stop it. Without any file where there were some, it is no backup."""
    if work.base_files and not set(os.listdir(opened.root)) - {"lost+found"}:  # noqa: PTH208  # no paths are needed
        raise _tree_empty(opened.root, work)
    options = dataclasses.replace(opened.options, exclude=(*opened.options.exclude, *work.excludes))
    found = write_tree_backup(root=opened.root, options=options, **means)
    if work.base_files and not found.counters.get("files"):
        raise _tree_empty(opened.root, work)
    return Sent(found.write, problems_of_backup(found))


def _tree_empty(root: Path, work: BackupWork) -> TreeEmptyError:
    return TreeEmptyError(
        f"The folder {root} has no file to back up, and the last backup has {work.base_files}. Is its file system "
        "mounted? If they were all removed on purpose, leave one file there, which may be empty."
    )
