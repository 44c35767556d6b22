"""Restoring a file tree, or some paths of it, into a directory.

Pages and chunks are fetched ahead in the order of the entries and verified before anything is written; files are made
by one thread. What is damaged is listed by file and range, everything else is restored. A differential restore first
compares the files that are there: what is the same stays, and the rest of a file is copied from it as far as it goes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from engine.errors import EngineError
from engine.fetching import RestoreKeys
from engine.manifest import CONTENT_TREE, ManifestBody, ManifestInfo
from engine.relocations import Relocations
from engine.restore import RestoreProgress
from engine.sealing import RecordSealer, block_sealer
from engine.store.base import ObjectRef, ObjectSource
from engine.stream_fetch import ChunkOpener, Got, fetch_in_order, open_for_restore
from engine.stream_reader import PageReader
from engine.tree_compare import Held, TargetFiles
from engine.tree_dirs import mount_of
from engine.tree_entries import FileKind, Marks, TreeEntry, key_of, path_of
from engine.tree_facts import Excludes, excludes_of
from engine.tree_meta import MetadataOptions, MetadataSetter
from engine.tree_options import TreeRestoreOptions, hands_down_acls, may_replace, open_target_directory
from engine.tree_place import LeftDirectory, NewFile, PlaceError, Placer, target_trouble
from engine.tree_plan import Begin, Data, End, RestorePlan, Tag
from engine.tree_prune import TEMPORARY_PREFIX, extra_names, remove_tree
from engine.tree_report import (
    DamagedFile,
    LostEntries,
    RestoreProblem,
    RestoreProblemKind,
    TreeDamagedError,
    TreeRestoreResult,
)
from engine.waiting import Cancel, check_cancel, never_cancel

__all__ = [
    "DamagedFile",
    "LostEntries",
    "RestoreProblem",
    "RestoreProblemKind",
    "TreeDamagedError",
    "TreeRestoreOptions",
    "TreeRestoreResult",
    "restore_tree",
]

_LISTED_MAX = 10_000


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
    """Restore into the directory `target`, which must exist, and be empty unless `overwrite` or `differential`.

    `select` has paths below the root of the backup (with slashes); each comes with all that is in it, in its place.
    Before the first write: TargetError, KeyMismatchError, PathNotFoundError, EngineError (bad_option). TargetError
    when the target fails or is full; TreeDamagedError when everything else was restored.
    """
    options = options or TreeRestoreOptions()
    options.check()
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
    selected = [key_of(path) for path in select]
    RestorePlan(reader, selected).check()
    excludes = excludes_of(manifest.source_facts)
    descriptor = open_target_directory(target, options)
    sealer = _content_sealer(manifest.body, keys)
    with ExitStack() as stack:
        held = None
        if options.differential:
            files = TargetFiles(descriptor, sealer=sealer, trust_mtime=options.trust_mtime, cancel=cancel)
            held = stack.enter_context(files)
        plan = RestorePlan(reader, selected, target=held)
        restore = _TreeRestore(descriptor, options, plan, sealer, whole=not select, excludes=excludes)
        stack.callback(restore.close)
        for got in fetch_in_order(plan.wants(), opener=opener, cancel=cancel):
            check_cancel(cancel)
            restore.take(got)
            if progress is not None and isinstance(got.tag, End):
                progress(RestoreProgress(manifest.body.size_bytes, restore.done_bytes, restore.written_bytes))
        restore.finish()
    result = restore.result(manifest)
    if result.damaged_files or result.lost_entries:
        raise TreeDamagedError(result)
    return result


def _content_sealer(body: ManifestBody, keys: RestoreKeys) -> RecordSealer:
    """Only for content ids: they depend on the id key, so that any data key would do."""
    return block_sealer(tenant=body.tenant, domain=body.domain, id_key=keys.domain.id_key, data_key=bytes(32))


@dataclass(slots=True)
class _OpenFile:
    """A file that is written; `old` is a descriptor of the one whose place it takes, to copy from."""

    entry: TreeEntry
    file: NewFile
    old: int | None = None
    damaged: list[tuple[int, int]] = field(default_factory=list)

    def discard(self) -> None:
        self.file.discard()
        self.close_old()

    def close_old(self) -> None:
        if self.old is not None:
            os.close(self.old)
            self.old = None


class _TreeRestore:
    def __init__(
        self,
        target: int,
        options: TreeRestoreOptions,
        plan: RestorePlan,
        sealer: RecordSealer,
        *,
        whole: bool,
        excludes: Excludes,
    ) -> None:
        self._options = options
        self._plan = plan
        self._sealer = sealer
        self._whole = whole
        owner = options.restore_owner if options.restore_owner is not None else os.geteuid() == 0
        self._metadata = MetadataSetter(
            MetadataOptions(
                restore_owner=owner,
                owner_by_name=options.owner_by_name,
                keep_setuid=options.keep_setuid,
                clear_acls=options.differential or hands_down_acls(target),
                clear_xattrs=options.differential,
            )
        )
        self._excludes = excludes
        self._target = target
        self._placer = Placer(
            target,
            replace=may_replace(options),
            on_leave=self._leave,
            on_moved=self._moved,
            may_lack=self._may_lack,
        )
        self._file: _OpenFile | None = None
        self._problems: list[RestoreProblem] = []
        self._problem_counts: Counter[RestoreProblemKind] = Counter()
        self._damaged: list[DamagedFile] = []
        self._lost: list[LostEntries] = []
        self._entry_count = 0
        self._same_bytes = self._same_files = self._deleted_count = 0
        self.written_bytes = self.done_bytes = 0

    def take(self, got: Got[Tag]) -> None:
        tag = got.tag
        if isinstance(tag, Begin):
            self._begin(tag.entry, tag.held)
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
            self._file.discard()
        self._placer.close()

    def result(self, manifest: ManifestInfo) -> TreeRestoreResult:
        return TreeRestoreResult(
            manifest=manifest,
            entry_count=self._entry_count,
            written_bytes=self.written_bytes,
            problems=tuple(self._problems),
            problem_counts=dict(self._problem_counts),
            same_bytes=self._same_bytes,
            same_files=self._same_files,
            deleted_count=self._deleted_count,
            damaged_files=tuple(self._damaged),
            lost_entries=tuple(self._lost),
        )

    def _begin(self, entry: TreeEntry, held: Held | None) -> None:
        self._entry_count += 1
        try:
            if self._options.differential and entry.key:
                # Also what cannot be made is no extra of its directory.
                self._placer.go_to_parent(entry.key)
            self._make(entry, held)
        except PlaceError as error:
            self._problem(entry.key, RestoreProblemKind.NOT_MADE, error.reason)

    def _make(self, entry: TreeEntry, held: Held | None) -> None:
        if entry.kind == FileKind.DIRECTORY:
            if entry.key or self._whole:
                self._placer.place_directory(entry)
        elif entry.kind == FileKind.FILE:
            self._open_file(entry, held)
        elif entry.kind == FileKind.SYMLINK:
            descriptor = self._placer.place_symlink(entry)
            try:
                self._note_metadata(entry, self._metadata.apply_to_symlink(entry, descriptor))
            finally:
                os.close(descriptor)
        elif entry.kind == FileKind.HARD_LINK:
            self._link(entry)
        else:
            descriptor = self._placer.place_node(entry)
            try:
                self._set_metadata(entry, descriptor)
            finally:
                os.close(descriptor)

    def _open_file(self, entry: TreeEntry, held: Held | None) -> None:
        if entry.marks & Marks.UNREADABLE and not self._options.keep_partial:
            self._problem(entry.key, RestoreProblemKind.NOT_IN_BACKUP, "could not be read when it was backed up")
            return
        if entry.marks & Marks.CHANGED:
            self._problem(entry.key, RestoreProblemKind.CHANGED, "changed while it was backed up")
        if held is not None and held.is_same and self._keep(entry, held):
            return
        old = self._placer.open_held(entry.key, held) if held is not None else None
        try:
            self._file = _OpenFile(entry, self._placer.open_file(entry.key), old)
        except BaseException:
            if old is not None:
                os.close(old)
            raise

    def _keep(self, entry: TreeEntry, held: Held) -> bool:
        """The file is there already: it gets its metadata. False when it has to be made anew all the same."""
        descriptor = self._placer.keep_file(entry, held)
        if descriptor is None:
            if held.link_count == 1:
                # Nothing of it was fetched.
                raise PlaceError("changed in the target while it was restored")
            return False
        try:
            self._set_metadata(entry, descriptor)
            if entry.marks & Marks.LINKED:
                self._placer.note_head(entry.key, descriptor)
        finally:
            os.close(descriptor)
        self._same_files += 1
        self._same_bytes += entry.size
        return True

    def _data(self, place: Data, data: bytes | None) -> None:
        opened = self._file
        if opened is None:
            return
        if place.held_id is not None:
            self._copy(opened, place, place.held_id)
            return
        if data is None:
            opened.damaged.append((place.offset, place.length))
            return
        try:
            opened.file.write(place.offset, data)
            self.written_bytes += len(data)
        except PlaceError as error:
            self._give_up(opened, error)

    def _copy(self, opened: _OpenFile, place: Data, content_id: bytes) -> None:
        """From the file whose place is taken; it was compared a while ago, so its content is looked at once more."""
        try:
            if opened.old is None:
                raise EngineError("there is no file to copy from", code="internal")
            with target_trouble():
                data = os.pread(opened.old, place.length, place.offset)
            if len(data) != place.length or self._sealer.content_id(data) != content_id:
                raise PlaceError("changed in the target while it was restored")
            opened.file.write(place.offset, data)
            self._same_bytes += len(data)
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
            opened.close_old()
        except PlaceError as error:
            self._give_up(opened, error)
        if opened.damaged and len(self._damaged) < _LISTED_MAX:
            self._damaged.append(DamagedFile(entry.path, tuple(opened.damaged)))

    def _give_up(self, opened: _OpenFile, error: PlaceError) -> None:
        opened.discard()
        self._file = None
        self._placer.forget_head(opened.entry.key)
        self._problem(opened.entry.key, RestoreProblemKind.NOT_MADE, error.reason)

    def _link(self, entry: TreeEntry) -> None:
        if not self._placer.has_head(entry.target):
            raise PlaceError("the file that it is another name of was not restored")
        self._placer.place_link(entry.key, entry.target)

    def _leave(self, left: LeftDirectory) -> None:
        if self._options.differential:
            self._remove_extras(left)
        if left.entry is not None:
            self._set_metadata(left.entry, left.descriptor)

    def _moved(self, key: bytes) -> None:
        reason = (
            "moved while it was restored: what was still to be made in it, its owner, mode and times are not restored"
        )
        self._problem(key, RestoreProblemKind.NOT_MADE, reason)

    def _remove_extras(self, left: LeftDirectory) -> None:
        """What is not in the backup, where it is known what is; and always what a cut restore left behind."""
        try:
            with target_trouble():
                extras = list(extra_names(left.descriptor, left.names, all_of_them=self._may_delete(left)))
        except PlaceError as error:
            self._problem(left.key, RestoreProblemKind.NOT_DELETED, error.reason)
            return
        for name in extras:
            key = left.key + b"\0" + name if left.key else name
            try:
                with target_trouble():
                    self._deleted_count += remove_tree(left.descriptor, name, key=key, may_lack=self._may_lack)
            except PlaceError as error:
                self._problem(key, RestoreProblemKind.NOT_DELETED, error.reason)

    def _may_delete(self, left: LeftDirectory) -> bool:
        """Behind a lost page of names, extras can no longer be told from what is only unknown. In another mount than
        that of the target nothing is deleted: whether it was there at the backup, nobody knows."""
        if not self._options.delete_extra or self._lost or left.entry is None:
            return False
        if left.entry.marks & Marks.NOT_ENTERED or not self._plan.is_selected(left.key):
            return False
        return mount_of(left.descriptor) == mount_of(self._target)

    def _may_lack(self, key: bytes, is_directory: bool) -> bool:
        return not _is_temporary(key) and self._excludes.may_lack(key, is_directory=is_directory)

    def _set_metadata(self, entry: TreeEntry, descriptor: int) -> None:
        self._note_metadata(entry, self._metadata.apply(entry, descriptor))

    def _note_metadata(self, entry: TreeEntry, failed: Iterator[str]) -> None:
        for reason in failed:
            self._problem(entry.key, RestoreProblemKind.METADATA, reason)

    def _problem(self, key: bytes, kind: RestoreProblemKind, reason: str) -> None:
        self._problem_counts[kind] += 1
        if len(self._problems) < _LISTED_MAX:
            self._problems.append(RestoreProblem(path_of(key), kind, reason))


def _is_temporary(key: bytes) -> bool:
    """A name that a cut restore may have left; patterns of people do not mean it."""
    return key.rpartition(b"\0")[2].startswith(TEMPORARY_PREFIX)


def _restored_size(entry: TreeEntry) -> int:
    """The whole size; of a file that was not read to its end only what was."""
    if not entry.marks & Marks.UNREADABLE:
        return entry.size
    if entry.chunk_map is not None:
        return entry.chunk_map.total_bytes
    return sum(chunk.total_bytes for chunk in entry.chunks)
