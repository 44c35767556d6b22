"""Writing a file tree as a backup: full, or incremental against an earlier one of the same source.

The file system and the base's entries are walked side by side in the order of keys. A name whose size, times, inode
and device are as in the base keeps its entry and chunks without being opened; a file that differs is read and its
chunks are looked for among those of the same name in the base. Memory does not grow with the number of files.

Trouble with single files never ends a backup: it is marked in the entry, counted and listed in the result.
"""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.backup import BackupBase, ProgressReport, WriteContext, WriteResult
from engine.chunking import Chunker, ChunkSizes
from engine.errors import SourceError
from engine.manifest import CONTENT_TREE
from engine.resume import ResumableSession
from engine.store.base import ObjectSink, ObjectSource
from engine.stream_pages import Branch
from engine.stream_session import ChunkSession, new_uploader, reading_base, resumed_chunks
from engine.stream_writer import DEFAULT_CHUNK_SIZES, file_pieces
from engine.tree_base import BaseEntries
from engine.tree_dirs import open_directory
from engine.tree_entries import FileKind, Marks, TreeEntry, key_of, path_of
from engine.tree_facts import mounts_of, told
from engine.tree_queue import EntryQueue, OpenEntry
from engine.tree_source import OwnerNames, Seen, describe, open_regular
from engine.tree_walk import Problem, ProblemKind, ProblemLog, TreeOptions, TreeWalker, Visit
from engine.waiting import Cancel, check_cancel, never_cancel

# Files with further names yet to come; about 250 bytes of memory each.
_LINKS_MAX = 200_000
# A backup counts less than 4 EiB. What is on disks never comes near it, but holes cost nothing: so many bytes of them
# may the files of one owner have, and all files together. What is beyond is stored by name only.
_HOLES_OF_OWNER_MAX, _HOLES_MAX = 1 << 56, 1 << 61
# Of waiting in all, and between two tries.
_LEASES_SECONDS, _LEASE_STEP_SECONDS = 30.0, 0.02
_COUNTER_OF_KIND = {
    FileKind.FILE: "files",
    FileKind.DIRECTORY: "directories",
    FileKind.SYMLINK: "symlinks",
    FileKind.HARD_LINK: "hard_links",
}


@dataclass(frozen=True, slots=True)
class TreeWriteResult:
    """`problems` has the first thousand, `problem_counts` all; a backup with any of them has warnings."""

    write: WriteResult
    problems: tuple[Problem, ...]
    problem_counts: Mapping[ProblemKind, int]
    counters: Mapping[str, int]

    @property
    def has_warnings(self) -> bool:
        return any(self.problem_counts.values())


def write_tree_backup(
    *,
    root: str | bytes | os.PathLike[str],
    sink: ObjectSink,
    base: BackupBase | None,
    context: WriteContext,
    options: TreeOptions | None = None,
    sizes: ChunkSizes = DEFAULT_CHUNK_SIZES,
    owners: OwnerNames | None = None,
    now_ns: Callable[[], int] = time.time_ns,
    progress: ProgressReport | None = None,
    cancel: Cancel = never_cancel,
    resume: Sequence[ResumableSession] = (),
    resume_source: ObjectSource | None = None,
) -> TreeWriteResult:
    """Write the directory `root` and what is below it; the manifest is the last object.

    `now_ns` is the clock of this machine in nanoseconds since 1970, compared with the files' times. SourceError when
    the root cannot be walked; BaseMismatchError when the base cannot be used or read: write a full backup then.
    `resume` names what earlier attempts at this source stored, oldest first; it is read through `resume_source`.
    """
    options = options or TreeOptions()
    uploader = new_uploader(sink=sink, context=context, cancel=cancel)
    with (
        uploader,
        resumed_chunks(resume, resume_source, context=context, cancel=cancel) as resumed,
        ChunkSession(
            context=context,
            content=CONTENT_TREE,
            base=base,
            uploader=uploader,
            resumed=resumed,
            progress=progress,
            cancel=cancel,
        ) as session,
    ):
        write = _TreeWrite(
            session=session,
            context=context,
            chunker=Chunker(id_key=context.domain_keys.id_key, sizes=sizes),
            owners=owners or OwnerNames(),
            now_ns=now_ns,
            options=options,
            cancel=cancel,
        )
        walker = TreeWalker(options=options, problems=write.problems, cancel=cancel)
        root_branch = write.run(walker, _open_root(root))
        counters = write.final_counters()
        result = session.commit(
            root=root_branch,
            size_bytes=root_branch.total_bytes if root_branch is not None else 0,
            counters=counters,
            facts=told(excludes=options.exclude, mounts={*options.mounts, *write.not_mounted}),
        )
    problems = write.problems
    return TreeWriteResult(result, tuple(problems.listed), dict(problems.counts), counters)


def _open_root(root: str | bytes | os.PathLike[str]) -> int:
    try:
        return open_directory(os.path.realpath(os.fsencode(root)))
    except OSError as error:
        raise SourceError("the root of the tree cannot be opened", code="root_unreadable") from error


@dataclass(slots=True)
class _Links:
    """The first name of a file, and how many are still to come."""

    key: bytes
    left: int


class _TreeWrite:
    def __init__(
        self,
        *,
        session: ChunkSession,
        context: WriteContext,
        chunker: Chunker,
        owners: OwnerNames,
        now_ns: Callable[[], int],
        options: TreeOptions,
        cancel: Cancel,
    ) -> None:
        self._session = session
        self._chunker = chunker
        self._owners = owners
        self._now_ns = now_ns
        # Devices whose numbers mean something in a snapshot; None when it is none.
        self._mounted = frozenset(options.file_systems()) if options.is_snapshot else None
        self._moment_ns = options.moment_ns
        # Where the base had file systems that are not there now; those whose directories still are go on being missed.
        mounts = {key_of(path) for path in options.mounts}
        with reading_base():
            self._missed = {key_of(path) for path in mounts_of(session.base_facts)} - mounts
        self.not_mounted: list[bytes] = []
        self._root_device: int | None = None
        self._cancel = cancel
        self._base = BaseEntries(session, distrusted_packs=context.distrusted_packs)
        self._queue = EntryQueue(session)
        self._lease_seconds = _LEASES_SECONDS
        self._holes: Counter[int] = Counter()
        self._links: dict[tuple[int, int], _Links] = {}
        self._counters: Counter[str] = Counter()
        self.problems = ProblemLog()

    def run(self, walker: TreeWalker, root_descriptor: int) -> Branch | None:
        if self._mounted is not None:
            self._root_device = os.fstat(root_descriptor).st_dev
        for visit in walker.walk(root_descriptor):
            self._visit(visit)
            self._queue.settle()
        self._session.pipe.flush()
        self._queue.settle()
        self._session.packs.close_pack()
        self._base.finish()
        return self._queue.finish()

    def final_counters(self) -> dict[str, int]:
        found = {f"problems_{kind.value}": count for kind, count in self.problems.counts.items()}
        return {**self._counters, **found}

    def _visit(self, visit: Visit) -> None:
        seen = visit.seen
        if seen.key in self._missed and seen.kind == FileKind.DIRECTORY:
            self.not_mounted.append(path_of(seen.key))
            why = "not mounted" if seen.key else "not mounted; if its files lie here from now on, set the tree up anew"
            self.problems.add(seen.key, ProblemKind.NOT_MOUNTED, why)
        old = self._base.take(seen.key)
        entry = self._hard_link(seen)
        if entry is None and self._has_too_many_holes(seen):
            self._base.drop(old)
            self._put_name(visit)
            return
        if entry is None and old is not None and self._is_unchanged(old, visit):
            self._note_links(seen)
            self._count("unchanged", old)
            self._session.stats.scanned_bytes += old.size
            self._queue.put(old)
            return
        if entry is None:
            entry = self._describe(visit)
        if entry is None:
            self._base.drop(old)
        elif entry.kind == FileKind.FILE:
            self._read(visit, entry, old)
        else:
            self._base.drop(old)
            self._count("unchanged" if entry == old else "changed", entry)
            self._queue.put(entry)

    def _is_unchanged(self, old: TreeEntry, visit: Visit) -> bool:
        device = visit.seen.found.st_dev
        # Other devices that nobody has mounted are subvolumes of the snapshot.
        any_device = self._mounted is not None and (device == self._root_device or device not in self._mounted)
        return self._base.is_unchanged(old, visit.seen, not_entered=visit.not_entered, any_device=any_device)

    def _describe(self, visit: Visit) -> TreeEntry | None:
        seen = visit.seen
        try:
            entry = describe(seen, directory=visit.directory, owners=self._owners, now_ns=self._seen_ns())
        except FileNotFoundError:
            self.problems.add(seen.key, ProblemKind.VANISHED, "gone before it was read")
            return None
        except OSError as error:
            self.problems.add(seen.key, ProblemKind.UNREADABLE, error.strerror or "cannot be read")
            return None
        if entry.marks & Marks.METADATA_LOST:
            self.problems.add(seen.key, ProblemKind.METADATA, "extended attributes could not be read")
        return entry.marked(Marks.NOT_ENTERED) if visit.not_entered else entry

    def _has_too_many_holes(self, seen: Seen) -> bool:
        """Those of the file are counted where there are not."""
        if seen.kind != FileKind.FILE:
            return False
        owner, holes = seen.found.st_uid, max(seen.found.st_size - seen.found.st_blocks * 512, 0)
        if self._holes[owner] + holes > _HOLES_OF_OWNER_MAX or self._holes.total() + holes > _HOLES_MAX:
            return True
        self._holes[owner] += holes
        return False

    def _put_name(self, visit: Visit) -> None:
        self.problems.add(visit.seen.key, ProblemKind.UNREADABLE, "it says it is larger than any disk")
        entry = self._describe(visit)
        if entry is not None:
            self._count("changed", entry)
            self._queue.put(entry.with_content(chunks=(), chunk_map=None, size=0, marks=entry.marks | Marks.UNREADABLE))

    def _seen_ns(self) -> int:
        """When what is read now was as it is."""
        now_ns = self._now_ns()
        return now_ns if self._moment_ns is None else min(now_ns, self._moment_ns)

    def _read(self, visit: Visit, entry: TreeEntry, old: TreeEntry | None) -> None:
        """Put the content of a regular file into the queue, and its entry behind it."""
        try:
            descriptor = self._opened(visit)
        except FileNotFoundError:
            self._base.drop(old)
            self.problems.add(entry.key, ProblemKind.VANISHED, "gone before it was opened")
            return
        except OSError as error:
            self._base.drop(old)
            self.problems.add(entry.key, ProblemKind.UNREADABLE, error.strerror or "cannot be opened")
            self._count("changed", entry)
            self._queue.put(entry.marked(Marks.UNREADABLE))
            return
        try:
            self._note_links(visit.seen)
            self._count("changed", entry)
            self._read_content(descriptor, self._queue.open(entry, known=self._base.chunks_of(old)), visit.seen)
        finally:
            os.close(descriptor)

    def _opened(self, visit: Visit) -> int:
        """Who has a lease on a file, such as a file server, gives it up in a moment. All of a tree are waited for so
        long and no longer."""
        while True:
            try:
                return open_regular(visit.directory, visit.seen)
            except BlockingIOError:
                if self._lease_seconds <= 0:
                    raise OSError(errno.EBUSY, "somebody has a lease on it") from None
                self._lease_seconds -= _LEASE_STEP_SECONDS
                check_cancel(self._cancel)
                time.sleep(_LEASE_STEP_SECONDS)

    def _read_content(self, descriptor: int, open_entry: OpenEntry, seen: Seen) -> None:
        entry = open_entry.entry
        marks = Marks(entry.marks)
        held_bytes = 0
        data_end = 0
        try:
            for piece in file_pieces(descriptor, self._chunker, size_bytes=entry.size):
                check_cancel(self._cancel)
                held_bytes += piece.hole + len(piece.data)
                if piece.data:
                    data_end = held_bytes
                    self._session.stats.read_bytes += len(piece.data)
                    self._queue.add(open_entry, piece)
        except OSError as error:
            marks |= Marks.UNREADABLE
            self.problems.add(entry.key, ProblemKind.UNREADABLE, error.strerror or "cannot be read")
        after = os.fstat(descriptor)
        size = entry.size
        if _state(after) != _state(seen.found):
            marks |= Marks.CHANGED
            size = max(data_end, min(size, after.st_size))
            self.problems.add(entry.key, ProblemKind.CHANGED, "changed while it was read")
        self._session.stats.scanned_bytes += size
        self._queue.close(open_entry, size=size, marks=int(marks))

    def _hard_link(self, seen: Seen) -> TreeEntry | None:
        """An entry that refers to the first name of the same file, if there is one."""
        if seen.kind != FileKind.FILE or seen.found.st_nlink < 2:
            return None
        place = (seen.found.st_dev, seen.found.st_ino)
        links = self._links.get(place)
        if links is None:
            return None
        links.left -= 1
        if not links.left:
            del self._links[place]
        return TreeEntry(key=seen.key, kind=FileKind.HARD_LINK, target=links.key)

    def _note_links(self, seen: Seen) -> None:
        if seen.kind != FileKind.FILE or seen.found.st_nlink < 2:
            return
        if len(self._links) >= _LINKS_MAX:
            self.problems.add(seen.key, ProblemKind.LINK, "too many hard links at once")
            return
        self._links[seen.found.st_dev, seen.found.st_ino] = _Links(seen.key, seen.found.st_nlink - 1)

    def _count(self, how: str, entry: TreeEntry) -> None:
        self._counters[_COUNTER_OF_KIND.get(entry.kind, "specials")] += 1
        self._counters[f"{how}_entries"] += 1


def _state(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns
