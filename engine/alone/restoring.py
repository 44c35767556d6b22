"""`restore`: one backup to where the person wants it. A disk image goes to a file, a block device or standard output, a
stream to a file or standard output, a file tree into a directory."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.alone.bucket import Bucket, BucketSource
from engine.alone.catalogue import FoundManifest, OpenDomain
from engine.alone.moves import Moves
from engine.errors import DamagedError, EngineError, UnsupportedError
from engine.manifest import CONTENT_DISK, CONTENT_STREAM, CONTENT_TREE, ManifestBody
from engine.ranges import ByteRange
from engine.relocations import Relocations
from engine.restore import ProgressReport, RestoreKeys, RestoreResult, StreamTarget, restore_disk
from engine.store.base import ObjectRef
from engine.stream_place import restore_stream_in_place
from engine.stream_restore import restore_stream
from engine.targets import FileTarget, TargetError, open_target
from engine.tree_restore import RestoreProblemKind, TreeDamagedError, TreeRestoreOptions, restore_tree
from engine.waiting import Cancel

STANDARD_OUTPUT = "-"


class NotConfirmedError(EngineError):
    """The target holds something, and the person did not say that it may be overwritten."""

    default_code = "not_confirmed"


@dataclass(frozen=True, slots=True)
class RestoreOrder:
    """What to do with the target. `resume`: what it holds already and is right is left alone. `paths`: of a tree.

    `trust_mtime` and `delete_extra` are for the resume of a tree: what has the right size and time counts as right, and
    what the backup does not have is removed.
    """

    to: str
    force: bool = False
    resume: bool = False
    fill_damaged: bool = False
    paths: tuple[str, ...] = ()
    trust_mtime: bool = False
    delete_extra: bool = False


@dataclass(frozen=True, slots=True)
class RestoreOutcome:
    """What was restored, and what not.

    `damaged`: (offset, length) in bytes. `lost`: files or parts of a tree that could not be restored, one text each.
    `damaged_files`: of a tree, (offset, length) in each file that is damaged. `remarks`: what a tree has otherwise than
    at the source, such as owners that only root may set. Counters are empty
    where a damaged disk or stream ended.
    """

    backup: str
    size_bytes: int
    damaged: tuple[ByteRange, ...] = ()
    lost: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    damaged_files: tuple[tuple[str, tuple[ByteRange, ...]], ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return not self.damaged and not self.lost


@dataclass(frozen=True, slots=True)
class _Source:
    """One backup, ready to be read."""

    bucket: Bucket
    domain: OpenDomain
    body: ManifestBody
    ref: ObjectRef
    keys: RestoreKeys
    relocations: Sequence[Relocations]

    def common(self) -> dict[str, Any]:
        """What all three ways of restoring are told."""
        return {
            "manifest_ref": self.ref,
            "object_source": BucketSource(self.bucket),
            "keys": self.keys,
            "trusted_writers": self.domain.description.body.writers,
            "relocations": self.relocations,
        }


def restore_backup(
    bucket: Bucket,
    domain: OpenDomain,
    found: FoundManifest,
    order: RestoreOrder,
    *,
    progress: ProgressReport,
    cancel: Cancel,
) -> RestoreOutcome:
    """Damage is in the outcome; everything else that stops the restore is raised. `check_order` comes before."""
    if found.body is None or found.ref is None:
        raise EngineError("the manifest was not verified", code="internal")
    _check_content(found.body, order)
    source = _source(bucket, domain, found.body, found.ref)
    restore = {CONTENT_DISK: _restore_disk, CONTENT_STREAM: _restore_stream, CONTENT_TREE: _restore_tree}
    return restore[found.body.content](source, order, progress, cancel)


def check_order(order: RestoreOrder, *, confirm: Callable[[str], bool]) -> None:
    """Raise unless the target may be written: NotConfirmedError, TargetError, EngineError (bad_option).

    An existing file with content, and every block device, needs `force` and the person's confirmation of its name.
    """
    is_stream = order.to == STANDARD_OUTPUT
    if is_stream and (order.resume or order.force):
        raise EngineError("standard output cannot be resumed or forced", code="bad_option")
    if is_stream or not _holds_something(order.to):
        return
    if not order.force:
        raise NotConfirmedError(f"{order.to} holds something: give --force to overwrite it")
    if not confirm(order.to):
        raise NotConfirmedError(f"{order.to} was not confirmed; nothing was written")


def _check_content(body: ManifestBody, order: RestoreOrder) -> None:
    content = body.content
    if content not in {CONTENT_DISK, CONTENT_STREAM, CONTENT_TREE}:
        raise UnsupportedError(f"this backup is a {content}: a newer program can restore it", code="other_content")
    wrong = {
        "--to -": content == CONTENT_TREE and order.to == STANDARD_OUTPUT,
        "--path": content != CONTENT_TREE and bool(order.paths),
        "--fill-damaged": order.fill_damaged and (content == CONTENT_TREE or _is_in_place(content, order)),
        "--trust-mtime": order.trust_mtime and not (content == CONTENT_TREE and order.resume),
        "--delete-extra": order.delete_extra and not (content == CONTENT_TREE and order.resume),
    }
    for option, is_wrong in wrong.items():
        if is_wrong:
            needed = " and needs --resume" if option in {"--trust-mtime", "--delete-extra"} else ""
            message = f"{option} is not possible here{needed}: this backup is a {content}"
            raise EngineError(message, code="bad_option")


def _is_in_place(content: str, order: RestoreOrder) -> bool:
    # In a file or on a disk damage is left untouched; zeros would look like data.
    return order.to != STANDARD_OUTPUT and (content == CONTENT_DISK or order.resume)


def _source(bucket: Bucket, domain: OpenDomain, body: ManifestBody, ref: ObjectRef) -> _Source:
    relocations = Moves(bucket, domain).relevant([entry.sha256 for entry in body.packs])
    moved_sessions = [session for relocation in relocations for session in relocation.sessions]
    data_keys = domain.keyring.data_keys([*body.sessions, *moved_sessions])
    return _Source(bucket, domain, body, ref, RestoreKeys(domain.domain_keys, data_keys), relocations)


def _restore_disk(source: _Source, order: RestoreOrder, progress: ProgressReport, cancel: Cancel) -> RestoreOutcome:
    with _target(order, source.body.size_bytes) as target:
        try:
            result = restore_disk(
                **source.common(),
                target=target,
                differential=order.resume,
                fill_damaged=order.fill_damaged,
                progress=progress,
                cancel=cancel,
            )
        except DamagedError as error:
            return RestoreOutcome(source.ref.sha256, source.body.size_bytes, tuple(error.ranges))
    return RestoreOutcome(source.ref.sha256, source.body.size_bytes, counters=_counters(result))


def _counters(result: RestoreResult) -> dict[str, int]:
    return {
        "written_bytes": result.written_bytes,
        "zeroed_bytes": result.zeroed_bytes,
        "same_bytes": result.same_bytes,
        "fetched_bytes": result.fetched_bytes,
    }


def _restore_stream(source: _Source, order: RestoreOrder, progress: ProgressReport, cancel: Cancel) -> RestoreOutcome:
    if order.resume:
        return _resume_stream(source, order, progress, cancel)
    with _stream_file(order.to) as file:
        try:
            result = restore_stream(
                **source.common(), output=file, fill_damaged=order.fill_damaged, progress=progress, cancel=cancel
            )
        except DamagedError as error:
            return RestoreOutcome(source.ref.sha256, source.body.size_bytes, tuple(error.ranges))
    counters = {"written_bytes": result.written_bytes}
    return RestoreOutcome(source.ref.sha256, source.body.size_bytes, counters=counters)


def _resume_stream(source: _Source, order: RestoreOrder, progress: ProgressReport, cancel: Cancel) -> RestoreOutcome:
    """Like a disk: in place, and what is right already is left alone."""
    with _target(order, source.body.size_bytes) as target:
        if isinstance(target, StreamTarget):
            raise EngineError("standard output cannot be resumed", code="bad_option")
        try:
            result = restore_stream_in_place(
                **source.common(), target=target, differential=True, progress=progress, cancel=cancel
            )
        except DamagedError as error:
            return RestoreOutcome(source.ref.sha256, source.body.size_bytes, tuple(error.ranges))
    return RestoreOutcome(source.ref.sha256, source.body.size_bytes, counters=_counters(result))


def _restore_tree(source: _Source, order: RestoreOrder, progress: ProgressReport, cancel: Cancel) -> RestoreOutcome:
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        Path(order.to).mkdir(mode=0o700)
    try:
        result = restore_tree(
            **source.common(),
            target=order.to,
            select=[os.fsencode(path) for path in order.paths],
            options=TreeRestoreOptions(
                overwrite=order.force,
                differential=order.resume,
                trust_mtime=order.trust_mtime,
                delete_extra=order.delete_extra,
            ),
            progress=progress,
            cancel=cancel,
        )
    except TreeDamagedError as error:
        result = error.result
    ranges = [(_shown(file.path), file.ranges) for file in result.damaged_files]
    lost = [f"{path}: {sum(length for _, length in damaged)} bytes are damaged" for path, damaged in ranges]
    lost += [f"{_shown(entries.path)}: {entries.count} names from here on are lost" for entries in result.lost_entries]
    not_made = [problem for problem in result.problems if problem.kind is RestoreProblemKind.NOT_MADE]
    others = [problem for problem in result.problems if problem.kind is not RestoreProblemKind.NOT_MADE]
    return RestoreOutcome(
        backup=source.ref.sha256,
        size_bytes=source.body.size_bytes,
        lost=(*lost, *(f"{_shown(problem.path)}: {problem.reason}" for problem in not_made)),
        remarks=tuple(f"{_shown(problem.path)}: {problem.kind}: {problem.reason}" for problem in others),
        damaged_files=tuple(ranges),
        counters={
            "entries": result.entry_count,
            "written_bytes": result.written_bytes,
            "same_bytes": result.same_bytes,
            "same_files": result.same_files,
            "deleted": result.deleted_count,
        },
    )


def _shown(path: bytes) -> str:
    return os.fsdecode(path) or "/"


@contextmanager
def _stream_file(path: str) -> Iterator[io.FileIO]:
    if path == STANDARD_OUTPUT:
        yield io.FileIO(1, "wb", closefd=False)
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TargetError(f"The target {path} cannot be opened: {error.strerror}.") from error
    with io.FileIO(descriptor, "wb") as file:
        yield file
        os.fsync(descriptor)


def _holds_something(path: str) -> bool:
    try:
        state = os.stat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise TargetError(f"The target {path} cannot be looked at: {error.strerror}.") from error
    if stat.S_ISDIR(state.st_mode):
        return any(Path(path).iterdir())
    return not stat.S_ISREG(state.st_mode) or state.st_size > 0


@contextmanager
def _target(order: RestoreOrder, size_bytes: int) -> Iterator[FileTarget | StreamTarget]:
    if order.to == STANDARD_OUTPUT:
        yield StreamTarget(1)
        return
    exists = os.path.exists(order.to)
    if exists:
        _shorten(order.to, size_bytes)
    with open_target(order.to, size_bytes=size_bytes, existing=exists) as target:
        yield target


def _shorten(path: str, size_bytes: int) -> None:
    """A file that is longer than the image would be restored with a tail of zeros, so it is cut first."""
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode) or state.st_size <= size_bytes:
        return
    try:
        with open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(size_bytes)
    except BlockingIOError as error:
        raise TargetError(f"The target {path} is in use by another program.", code="target_busy") from error
    except OSError as error:
        raise TargetError(f"The target {path} cannot be shortened: {error.strerror}.") from error
