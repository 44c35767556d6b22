"""Walking a file system in the order of keys, relative to open directories, with trouble noted instead of raised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from engine.errors import SourceError
from engine.stream_pages import KEY_SIZE_MAX
from engine.tree_dirs import DirectoryPath, MovedDirectoryError
from engine.tree_entries import NAME_SIZE_MAX, FileKind, key_of, path_of
from engine.tree_facts import Excludes
from engine.tree_names import names_in_order
from engine.tree_source import PSEUDO_FILE_SYSTEMS, Seen, file_system_types, look, look_at_root
from engine.waiting import Cancel, check_cancel

_LISTED_MAX = 1000


class ProblemKind(StrEnum):
    CHANGED = "changed"  # stored, but not as it was at one moment
    UNREADABLE = "unreadable"  # stored in part or by name only
    VANISHED = "vanished"  # not stored: it went away while the tree was walked
    METADATA = "metadata"  # stored without its extended attributes
    LINK = "link"  # stored as a file of its own though it is a hard link
    NOT_MOUNTED = "not_mounted"  # a directory that had a file system of its own in the base, and has none now


@dataclass(frozen=True, slots=True)
class Problem:
    path: bytes
    kind: ProblemKind
    reason: str


class ProblemLog:
    """Counts everything, lists the first thousand."""

    def __init__(self) -> None:
        self.listed: list[Problem] = []
        self.counts: Counter[ProblemKind] = Counter()

    def add(self, key: bytes, kind: ProblemKind, reason: str) -> None:
        self.counts[kind] += 1
        if len(self.listed) < _LISTED_MAX:
            self.listed.append(Problem(path_of(key), kind, reason))


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeOptions:
    """What of the tree belongs to the backup. `exclude` has patterns as in a .gitignore file at the root.

    A directory on another file system is stored, its content only without `one_file_system`; content that the
    kernel makes up (proc, sysfs ...) only with `pseudo_file_systems` as well. `is_snapshot`: each time the tree is
    another snapshot of the same source, with another device number, which then says nothing of a file; `moment_ns` is
    when the first of it was taken, in nanoseconds since 1970 (None: files are read as they are now).

    Paths below the root, as bytes with slashes: `covered` directories have something else on them at the source (a
    mount, a subvolume), which is not in the tree: what is below them in the tree is stored, and the mark says that it
    is not all. `mounts` are those on which file systems are mounted that belong to the tree, b"" for the root.
    """

    exclude: tuple[str, ...] = ()
    one_file_system: bool = True
    pseudo_file_systems: bool = False
    is_snapshot: bool = False
    moment_ns: int | None = None
    covered: tuple[bytes, ...] = ()
    mounts: tuple[bytes, ...] = ()
    file_systems: Callable[[], Mapping[int, str]] = field(default=file_system_types)


@dataclass(frozen=True, slots=True)
class Visit:
    """A name and the open directory in which to find it, valid until the next one is asked for.

    `not_entered`: not all, or nothing, that is below the directory at the source is visited.
    """

    seen: Seen
    directory: int
    not_entered: bool


class TreeWalker:
    """Visits each directory, then what is in it, then what follows. Symbolic links are never followed."""

    def __init__(self, *, options: TreeOptions, problems: ProblemLog, cancel: Cancel) -> None:
        self._options = options
        self._problems = problems
        self._cancel = cancel
        self._excludes = Excludes(options.exclude)
        self._covered = frozenset(key_of(path) for path in options.covered)
        self._types: Mapping[int, str] = {} if options.one_file_system else options.file_systems()

    def walk(self, root_descriptor: int) -> Iterator[Visit]:
        """Takes over the descriptor. SourceError when the root cannot be listed."""
        with DirectoryPath(root_descriptor) as path:
            root = look_at_root(root_descriptor)
            try:
                pending = [(b"", names_in_order(path.descriptor))]
            except OSError as error:
                raise SourceError("the root of the tree cannot be listed", code="root_unreadable") from error
            yield Visit(root, path.descriptor, False)
            yield from self._below(path, pending, root.found.st_dev)

    def _below(
        self, path: DirectoryPath, pending: list[tuple[bytes, Iterator[bytes]]], root_device: int
    ) -> Iterator[Visit]:
        while pending:
            parent, names = pending[-1]
            name = next(names, None)
            if name is None:
                pending.pop()
                if pending:
                    self._leave(path, pending)
                continue
            check_cancel(self._cancel)
            key = parent + b"\0" + name if parent else name
            seen = self._look(path.descriptor, name, key)
            if seen is None:
                continue
            if seen.kind != FileKind.DIRECTORY:
                yield Visit(seen, path.descriptor, False)
                continue
            try:
                children = self._enter(path, seen, root_device)
            except MovedDirectoryError:
                self._come_up(path, pending)
                continue
            if children is None:
                yield Visit(seen, path.descriptor, True)
                continue
            yield Visit(Seen(key, b".", seen.kind, seen.found), path.descriptor, key in self._covered)
            pending.append((key, children))

    def _leave(self, path: DirectoryPath, pending: list[tuple[bytes, Iterator[bytes]]]) -> None:
        try:
            path.leave()
        except MovedDirectoryError:
            self._come_up(path, pending)

    def _come_up(self, path: DirectoryPath, pending: list[tuple[bytes, Iterator[bytes]]]) -> None:
        """Whoever owns a deep directory may move it at any time: what is left in it and above it, up to a directory
        that is still open, is passed over, and costs the others nothing."""
        for _ in range(path.surface()):
            key, _ = pending.pop()
            self._problems.add(key, ProblemKind.CHANGED, "moved while the tree was walked: not all of it was read")

    def _look(self, directory: int, name: bytes, key: bytes) -> Seen | None:
        """None for what is left out: excluded, gone, or with a name that no entry can have."""
        if len(key) > KEY_SIZE_MAX or len(name) > NAME_SIZE_MAX:
            self._problems.add(key[:KEY_SIZE_MAX], ProblemKind.UNREADABLE, "the path is too long")
            return None
        try:
            seen = look(directory, name, key)
        except FileNotFoundError:
            self._problems.add(key, ProblemKind.VANISHED, "gone before it was looked at")
            return None
        except OSError as error:
            self._problems.add(key, ProblemKind.UNREADABLE, _reason(error))
            return None
        return None if self._excludes.has(key, is_directory=seen.kind == FileKind.DIRECTORY) else seen

    def _enter(self, path: DirectoryPath, seen: Seen, root_device: int) -> Iterator[bytes] | None:
        """The names in a directory, which is the innermost now; None when it is not entered. MovedDirectoryError when
        there is no way back from it."""
        device = seen.found.st_dev
        if device != root_device and self._options.one_file_system:
            return None
        if self._types.get(device) in PSEUDO_FILE_SYSTEMS and not self._options.pseudo_file_systems:
            return None
        try:
            path.enter(seen.name, expect=(device, seen.found.st_ino))
        except MovedDirectoryError:
            self._problems.add(seen.key, ProblemKind.CHANGED, "replaced while the tree was walked")
            return None
        except OSError as error:
            self._problems.add(seen.key, ProblemKind.UNREADABLE, _reason(error))
            return None
        try:
            return names_in_order(path.descriptor)
        except OSError as error:
            self._problems.add(seen.key, ProblemKind.UNREADABLE, _reason(error))
            path.leave()
            return None


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
