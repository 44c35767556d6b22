"""Restoring a file tree, or some paths of it, into a directory.

Pages and chunks are fetched ahead in the order of the entries and verified before anything is written; files are made
by one thread. What is damaged is listed by file and range, everything else is restored.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from engine.errors import EngineError
from engine.fetching import RestoreKeys
from engine.manifest import CONTENT_TREE, ManifestInfo
from engine.relocations import Relocations
from engine.restore import RestoreProgress
from engine.store.base import ObjectRef, ObjectSource
from engine.stream_fetch import ChunkOpener, Got, fetch_in_order, open_for_restore
from engine.stream_reader import PageReader
from engine.tree_entries import FileKind, Marks, TreeEntry, key_of, path_of
from engine.tree_meta import MetadataOptions, MetadataSetter
from engine.tree_place import NewFile, PlaceError, Placer, TargetError
from engine.tree_plan import Begin, Data, End, RestorePlan, Tag
from engine.waiting import Cancel, check_cancel, never_cancel

_LISTED_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRestoreOptions:
    """`overwrite` allows a target that is not empty: files are replaced (whole, by renaming), directories are
    merged, nothing is removed. `restore_owner` None: when running as root. `keep_partial` restores the readable
    beginning of files that could not be read to their end when they were backed up.
    """

    overwrite: bool = False
    restore_owner: bool | None = None
    owner_by_name: bool = False
    keep_setuid: bool = False
    keep_partial: bool = False


class RestoreProblemKind(StrEnum):
    NOT_MADE = "not_made"
    METADATA = "metadata"
    NOT_IN_BACKUP = "not_in_backup"  # could not be read when it was backed up
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
    """Lists are cut after ten thousand; the counts have everything."""

    manifest: ManifestInfo
    entry_count: int
    written_bytes: int
    problems: tuple[RestoreProblem, ...]
    problem_counts: Mapping[RestoreProblemKind, int]
    damaged_files: tuple[DamagedFile, ...] = ()
    lost_entries: tuple[LostEntries, ...] = ()


class TreeDamagedError(EngineError):
    """All but what `result` lists as damaged or lost was restored."""

    default_code = "damaged"

    def __init__(self, result: TreeRestoreResult) -> None:
        self.result = result
        files, pages = len(result.damaged_files), len(result.lost_entries)
        super().__init__(f"{files} files and {pages} pages of names could not be restored whole")


def restore_tree(
    *,
    manifest_ref: ObjectRef,
    object_source: ObjectSource,
    keys: RestoreKeys,
    trusted_writers: Collection[bytes],
    target: str | bytes | os.PathLike[str],
    select: Sequence[bytes] = (),
    options: TreeRestoreOptions | None = None,
    relocations: Sequence[Relocations] = (),
    gone_packs: Collection[bytes] = (),
    progress: Callable[[RestoreProgress], None] | None = None,
    cancel: Cancel = never_cancel,
) -> TreeRestoreResult:
    """Restore into the directory `target`, which must exist, and be empty unless `overwrite`.

    `select` has paths below the root of the backup (with slashes); each comes with all that is in it, in its place.
    Before the first write: TargetError, KeyMismatchError, PathNotFoundError. TargetError when the target fails or is
    full; TreeDamagedError when everything else was restored.
    """
    options = options or TreeRestoreOptions()
    manifest = open_for_restore(
        manifest_ref=manifest_ref,
        object_source=object_source,
        keys=keys,
        trusted_writers=trusted_writers,
        content=CONTENT_TREE,
    )
    opener = ChunkOpener(
        body=manifest.body,
        object_source=object_source,
        keys=keys,
        relocations=relocations,
        gone_packs=gone_packs,
    )
    reader = PageReader(manifest=manifest, object_source=object_source, map_key=keys.domain.map_key)
    plan = RestorePlan(reader, [key_of(path) for path in select])
    plan.check()
    restore = _TreeRestore(_open_target(target, options), options, plan, whole=not select)
    try:
        for got in fetch_in_order(plan.wants(), opener=opener, cancel=cancel):
            check_cancel(cancel)
            restore.take(got)
            if progress is not None and isinstance(got.tag, End):
                progress(RestoreProgress(manifest.body.size_bytes, restore.done_bytes, restore.written_bytes))
        restore.finish()
    finally:
        restore.close()
    result = restore.result(manifest)
    if result.damaged_files or result.lost_entries:
        raise TreeDamagedError(result)
    return result


def _open_target(target: str | bytes | os.PathLike[str], options: TreeRestoreOptions) -> int:
    try:
        descriptor = os.open(os.fsencode(target), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TargetError("the target is no directory that can be opened", code="target_missing") from error
    if not options.overwrite and os.listdir(descriptor):  # noqa: PTH208 - a descriptor
        os.close(descriptor)
        raise TargetError("the target is not empty", code="target_not_empty")
    return descriptor


@dataclass(slots=True)
class _OpenFile:
    entry: TreeEntry
    file: NewFile
    damaged: list[tuple[int, int]] = field(default_factory=list)


class _TreeRestore:
    def __init__(self, target: int, options: TreeRestoreOptions, plan: RestorePlan, *, whole: bool) -> None:
        self._options = options
        self._plan = plan
        self._whole = whole
        owner = options.restore_owner if options.restore_owner is not None else os.geteuid() == 0
        self._metadata = MetadataSetter(
            MetadataOptions(
                restore_owner=owner,
                owner_by_name=options.owner_by_name,
                keep_setuid=options.keep_setuid,
                clear_acls=_hands_down_acls(target),
            )
        )
        self._placer = Placer(target, overwrite=options.overwrite, on_leave=self._set_metadata)
        self._file: _OpenFile | None = None
        self._problems: list[RestoreProblem] = []
        self._problem_counts: Counter[RestoreProblemKind] = Counter()
        self._damaged: list[DamagedFile] = []
        self._lost: list[LostEntries] = []
        self._entry_count = 0
        self.written_bytes = self.done_bytes = 0

    def take(self, got: Got[Tag]) -> None:
        tag = got.tag
        if isinstance(tag, Begin):
            self._begin(tag.entry)
        elif isinstance(tag, Data):
            self._data(tag, got.data)
        elif isinstance(tag, End):
            self._end(tag.entry)
        else:
            next_path = path_of(tag.next_key) if tag.next_key is not None else None
            self._lost.append(LostEntries(path_of(tag.key), next_path, tag.leaf_count))

    def finish(self) -> None:
        self._placer.leave_all()

    def close(self) -> None:
        if self._file is not None:
            self._file.file.discard()
        self._placer.close()

    def result(self, manifest: ManifestInfo) -> TreeRestoreResult:
        return TreeRestoreResult(
            manifest=manifest,
            entry_count=self._entry_count,
            written_bytes=self.written_bytes,
            problems=tuple(self._problems),
            problem_counts=dict(self._problem_counts),
            damaged_files=tuple(self._damaged),
            lost_entries=tuple(self._lost),
        )

    def _begin(self, entry: TreeEntry) -> None:
        self._entry_count += 1
        try:
            self._make(entry)
        except PlaceError as error:
            self._problem(entry.key, RestoreProblemKind.NOT_MADE, error.reason)

    def _make(self, entry: TreeEntry) -> None:
        if entry.kind == FileKind.DIRECTORY:
            if entry.key or self._whole:
                self._placer.place_directory(entry)
        elif entry.kind == FileKind.FILE:
            self._open_file(entry)
        elif entry.kind == FileKind.SYMLINK:
            name = self._placer.place_symlink(entry)
            self._note_metadata(entry, self._metadata.apply_to_symlink(entry, self._placer.directory, name))
        elif entry.kind == FileKind.HARD_LINK:
            self._link(entry)
        else:
            descriptor = self._placer.place_node(entry)
            try:
                self._set_metadata(entry, descriptor)
            finally:
                os.close(descriptor)

    def _open_file(self, entry: TreeEntry) -> None:
        if entry.marks & Marks.UNREADABLE and not self._options.keep_partial:
            self._problem(entry.key, RestoreProblemKind.NOT_IN_BACKUP, "could not be read when it was backed up")
            return
        self._file = _OpenFile(entry, self._placer.open_file(entry.key))
        if entry.marks & Marks.CHANGED:
            self._problem(entry.key, RestoreProblemKind.CHANGED, "changed while it was backed up")

    def _data(self, place: Data, data: bytes | None) -> None:
        opened = self._file
        if opened is None:
            return
        if data is None:
            opened.damaged.append((place.offset, place.length))
            return
        try:
            opened.file.write(place.offset, data)
            self.written_bytes += len(data)
        except PlaceError as error:
            self._give_up(opened, error)

    def _end(self, entry: TreeEntry) -> None:
        self.done_bytes += entry.size
        opened, self._file = self._file, None
        if opened is None:
            return
        try:
            opened.file.set_size(_restored_size(entry))
            self._set_metadata(entry, opened.file.descriptor)
            if entry.marks & Marks.LINKED:
                self._placer.note_head(entry.key, opened.file.descriptor)
            opened.file.finish(is_damaged=bool(opened.damaged))
        except PlaceError as error:
            self._give_up(opened, error)
        if opened.damaged and len(self._damaged) < _LISTED_MAX:
            self._damaged.append(DamagedFile(entry.path, tuple(opened.damaged)))

    def _give_up(self, opened: _OpenFile, error: PlaceError) -> None:
        opened.file.discard()
        self._file = None
        self._placer.forget_head(opened.entry.key)
        self._problem(opened.entry.key, RestoreProblemKind.NOT_MADE, error.reason)

    def _link(self, entry: TreeEntry) -> None:
        if not self._placer.has_head(entry.target):
            raise PlaceError("the file that it is another name of was not restored")
        self._placer.place_link(entry.key, entry.target)

    def _set_metadata(self, entry: TreeEntry, descriptor: int) -> None:
        self._note_metadata(entry, self._metadata.apply(entry, descriptor))

    def _note_metadata(self, entry: TreeEntry, failed: Iterator[str]) -> None:
        for reason in failed:
            self._problem(entry.key, RestoreProblemKind.METADATA, reason)

    def _problem(self, key: bytes, kind: RestoreProblemKind, reason: str) -> None:
        self._problem_counts[kind] += 1
        if len(self._problems) < _LISTED_MAX:
            self._problems.append(RestoreProblem(path_of(key), kind, reason))


def _restored_size(entry: TreeEntry) -> int:
    """The whole size; of a file that was not read to its end only what was."""
    if not entry.marks & Marks.UNREADABLE:
        return entry.size
    if entry.chunk_map is not None:
        return entry.chunk_map.total_bytes
    return sum(chunk.total_bytes for chunk in entry.chunks)


def _hands_down_acls(descriptor: int) -> bool:
    try:
        return "system.posix_acl_default" in os.listxattr(descriptor)
    except OSError:
        return False
