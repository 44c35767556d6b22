"""Making files below a directory, from entries that nobody vouches for beyond their signature.

Everything happens relative to open directories, one name at a time, without following symbolic links, so no entry can
lead outside of the target: not by its name, not by a symbolic link made before it, not by a hard link, not by a
directory that is swapped meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto

from engine.errors import EngineError
from engine.tree_compare import OPEN_EXISTING, Held
from engine.tree_dirs import DirectoryPath, MovedDirectoryError, mount_of, open_directory, proc_path
from engine.tree_entries import FileKind, Marks, TreeEntry
from engine.tree_prune import TEMPORARY_PREFIX, MayLack, OtherDeviceError, remove_tree

_NODE_TYPES = {
    FileKind.FIFO: stat.S_IFIFO,
    FileKind.SOCKET: stat.S_IFSOCK,
    FileKind.CHARACTER_DEVICE: stat.S_IFCHR,
    FileKind.BLOCK_DEVICE: stat.S_IFBLK,
}
# The target as a whole cannot go on; anything else concerns one file.
_FATAL = {
    errno.ENOSPC: "target_full",
    errno.EDQUOT: "target_full",
    errno.EROFS: "target_failed",
    errno.EIO: "target_failed",
}


class TargetError(EngineError):
    """The target cannot take the tree. `target_full` and `target_failed` can be tried again with `overwrite`."""

    default_code = "target_error"


class PlaceError(Exception):
    """One entry cannot be made; the others can."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@contextmanager
def target_trouble() -> Iterator[None]:
    """OSError becomes TargetError when the whole target is concerned, PlaceError otherwise."""
    try:
        yield
    except OSError as error:
        code = _FATAL.get(error.errno or 0)
        if code is not None:
            raise TargetError(f"the target cannot be written: {error.strerror}", code=code) from error
        raise PlaceError(error.strerror or type(error).__name__) from error
    except (OtherDeviceError, MovedDirectoryError) as error:
        raise PlaceError(error.message) from error


class Replace(Enum):
    """What may happen to something else that is where an entry belongs."""

    NOTHING = auto()
    FILES = auto()
    # Directories as well when they are empty.
    ANYTHING_EMPTY = auto()
    ANYTHING = auto()


@dataclass(frozen=True, slots=True)
class LeftDirectory:
    """A directory below which nothing more comes. `entry` is None for one that was lost or not selected; `names` are
    those that were placed in it, or should have been."""

    key: bytes
    entry: TreeEntry | None
    names: Collection[bytes]
    descriptor: int


@dataclass(slots=True)
class _OpenDirectory:
    """`is_other`: something else is mounted there, or a subvolume, that the backup does not have; it is left alone."""

    key: bytes
    entry: TreeEntry | None
    is_other: bool = False
    names: set[bytes] = field(default_factory=set)


class Placer:
    """Knows the innermost open directory, and moves it along with the keys of the entries. Owns its descriptors.

    `on_moved` is told of directories that somebody moved so that there is no way back up through them: nothing more is
    made in them, and they are not left as others are.
    """

    def __init__(
        self,
        target_descriptor: int,
        *,
        replace: Replace,
        on_leave: Callable[[LeftDirectory], None],
        on_moved: Callable[[bytes], None],
        may_lack: MayLack = lambda *_: False,
    ) -> None:
        self._path = DirectoryPath(target_descriptor)
        self._replace = replace
        self._overwrite = replace is not Replace.NOTHING
        self._on_leave = on_leave
        self._on_moved = on_moved
        self._may_lack = may_lack
        self._open = [_OpenDirectory(b"", None)]
        # The outermost of those that were moved last.
        self._moved: bytes | None = None
        self._temporary_count = 0
        # Keys of files with more names -> (device, inode) of what was made.
        self._heads: dict[bytes, tuple[int, int]] = {}
        self._head_places: set[tuple[int, int]] = set()

    def close(self) -> None:
        self._path.__exit__()

    @property
    def directory(self) -> int:
        return self._path.descriptor

    def go_to_parent(self, key: bytes) -> bytes:
        """Make the parent of `key` the innermost directory and return the last name. PlaceError when it is none."""
        *parents, name = key.split(b"\0")
        while not _is_inside(key, self._open[-1].key):
            self.leave()
        if self._moved is not None and _is_inside(key, self._moved):
            raise PlaceError("a directory above it was moved while it was restored")
        if self._open[-1].is_other:
            raise PlaceError("something else is mounted there now; it was left alone")
        with target_trouble():
            for number in range(self._path.depth, len(parents)):
                # The entry of this directory was lost or not selected.
                self._open[-1].names.add(parents[number])
                self._make_directory(parents[number])
                self._open.append(_OpenDirectory(b"\0".join(parents[: number + 1]), None))
        self._open[-1].names.add(name)
        return name

    def leave(self) -> None:
        """Leave the innermost directory, which gets its metadata now."""
        self._tell_left(self._open.pop())
        if self._open:
            try:
                self._path.leave()
            except MovedDirectoryError:
                self._come_up()

    def _come_up(self) -> None:
        """Whoever owns a deep directory may move it at any time: that costs what is in it and above it, up to a
        directory that is still open, and nothing else."""
        for _ in range(self._path.surface()):
            self._moved = self._open.pop().key
            self._on_moved(self._moved)

    def leave_all(self) -> None:
        while len(self._open) > 1:
            self.leave()
        self._tell_left(self._open[0])

    def _tell_left(self, left: _OpenDirectory) -> None:
        if not left.is_other:
            self._on_leave(LeftDirectory(left.key, left.entry, left.names, self._path.descriptor))

    def place_directory(self, entry: TreeEntry) -> None:
        if not entry.key:
            self._open[0].entry = entry
            return
        name = self.go_to_parent(entry.key)
        with target_trouble():
            outer = self._place() if entry.marks & Marks.NOT_ENTERED else None
            self._make_directory(name)
            is_other = outer is not None and self._place() != outer
        self._open.append(_OpenDirectory(entry.key, entry, is_other))

    def _place(self) -> tuple[int, int]:
        return self._path.device, mount_of(self.directory)

    def keep_file(self, entry: TreeEntry, held: Held) -> int | None:
        """A descriptor that names the file, when it can stay as it is; None when it was compared too long ago, or has
        names by which something else is meant."""
        name = self.go_to_parent(entry.key)
        with target_trouble():
            descriptor = self._open_held(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, held)
            found = os.fstat(descriptor)
            is_alone = found.st_nlink == 1
            is_head = bool(entry.marks & Marks.LINKED) and (found.st_dev, found.st_ino) not in self._head_places
            if found.st_mtime_ns == held.mtime_ns and (is_alone or is_head):
                return descriptor
            os.close(descriptor)
            return None

    def open_held(self, key: bytes, held: Held) -> int:
        """A descriptor to copy from what the target has; PlaceError when it is another file by now."""
        name = self.go_to_parent(key)
        with target_trouble():
            return self._open_held(name, OPEN_EXISTING, held)

    def _open_held(self, name: bytes, flags: int, held: Held) -> int:
        descriptor = os.open(name, flags, dir_fd=self.directory)
        if held.is_still(os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)
        raise PlaceError("changed in the target while it was restored")

    def open_file(self, key: bytes) -> NewFile:
        name = self.go_to_parent(key)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with target_trouble():
            if not self._overwrite:
                return NewFile(self.directory, name, None, os.open(name, flags, 0o600, dir_fd=self.directory))
            if self._replace in _ALSO_DIRECTORIES and self._is_directory(name):
                self._make_way(name)
            temporary = self._temporary_name()
            return NewFile(self.directory, name, temporary, os.open(temporary, flags, 0o600, dir_fd=self.directory))

    def place_symlink(self, entry: TreeEntry) -> int:
        """A descriptor that names the link itself."""
        name = self.go_to_parent(entry.key)
        with target_trouble():
            if not self._has_symlink(name, entry.target):
                self._make_way(name)
                os.symlink(entry.target, name, dir_fd=self.directory)
            descriptor = self._pin(name)
            found = os.fstat(descriptor)
            is_it = stat.S_ISLNK(found.st_mode) and found.st_nlink == 1
            return self._if(is_it and os.readlink(b"", dir_fd=descriptor) == entry.target, descriptor)

    def place_node(self, entry: TreeEntry) -> int:
        """Make a FIFO, socket or device; a descriptor that names it without opening it."""
        name = self.go_to_parent(entry.key)
        with target_trouble():
            device = os.makedev(*entry.rdev)
            if not self._has_node(name, _NODE_TYPES[entry.kind], device):
                self._make_way(name)
                os.mknod(name, _NODE_TYPES[entry.kind] | 0o600, device, dir_fd=self.directory)
            descriptor = self._pin(name)
            return self._if(_is_node(os.fstat(descriptor), _NODE_TYPES[entry.kind], device), descriptor)

    def _pin(self, name: bytes) -> int:
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory)

    @staticmethod
    def _if(is_it: bool, descriptor: int) -> int:
        """The descriptor. PlaceError when whoever owns the directory put something else in the place of what was made:
        it would get the entry's owner and mode."""
        if is_it:
            return descriptor
        os.close(descriptor)
        raise PlaceError("replaced while it was restored")

    def note_head(self, key: bytes, descriptor: int) -> None:
        """Remember a file to which later names may be linked."""
        found = os.fstat(descriptor)
        self._heads[key] = (found.st_dev, found.st_ino)
        self._head_places.add(self._heads[key])

    def forget_head(self, key: bytes) -> None:
        self._heads.pop(key, None)

    def has_head(self, key: bytes) -> bool:
        return key in self._heads

    def place_link(self, key: bytes, head: bytes) -> None:
        """Another name for a file that this run has made; never for anything else."""
        name = self.go_to_parent(key)
        *parents, head_name = head.split(b"\0")
        with target_trouble(), self._descend(parents) as directory:
            pin = os.open(head_name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                self._link(pin, name, head)
            finally:
                os.close(pin)

    def _link(self, pin: int, name: bytes, head: bytes) -> None:
        """By what was opened, not by a name that whoever owns the directory may give to another file meanwhile."""
        found = os.fstat(pin)
        if (found.st_dev, found.st_ino) != self._heads[head]:
            raise PlaceError("the file to link to was replaced")
        if self._replace in _ALSO_DIRECTORIES and self._is_at(name, self._heads[head]):
            return
        self._make_way(name)
        os.link(b"/proc/self/fd/%d" % pin, name, dst_dir_fd=self.directory, follow_symlinks=True)

    @contextmanager
    def _descend(self, names: list[bytes]) -> Iterator[int]:
        descriptor = os.dup(self._path.root)
        try:
            for name in names:
                inner = open_directory(name, descriptor)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def _make_directory(self, name: bytes) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=self.directory)
        except FileExistsError:
            found = os.stat(name, dir_fd=self.directory, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                if not self._overwrite:
                    raise
                os.unlink(name, dir_fd=self.directory)
                os.mkdir(name, 0o700, dir_fd=self.directory)
        self._path.enter(name)

    def _make_way(self, name: bytes) -> None:
        """Remove what has this name, as far as that may be replaced."""
        if not self._overwrite:
            return
        try:
            if self._replace not in _ALSO_DIRECTORIES or not self._is_directory(name):
                os.unlink(name, dir_fd=self.directory)
            elif self._replace is Replace.ANYTHING:
                key = self._open[-1].key + b"\0" + name if self._open[-1].key else name
                remove_tree(self.directory, name, key=key, may_lack=self._may_lack)
            else:
                os.rmdir(name, dir_fd=self.directory)
        except FileNotFoundError:
            return

    def _found(self, name: bytes) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _is_directory(self, name: bytes) -> bool:
        found = self._found(name)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def _is_at(self, name: bytes, place: tuple[int, int]) -> bool:
        found = self._found(name)
        return found is not None and (found.st_dev, found.st_ino) == place

    def _has_symlink(self, name: bytes, target: bytes) -> bool:
        """Only in a restore that compares, and only one that is nothing else under another name."""
        found = self._found(name) if self._replace in _ALSO_DIRECTORIES else None
        if found is None or not stat.S_ISLNK(found.st_mode) or found.st_nlink != 1:
            return False
        return os.readlink(name, dir_fd=self.directory) == target

    def _has_node(self, name: bytes, kind: int, device: int) -> bool:
        found = self._found(name) if self._replace in _ALSO_DIRECTORIES else None
        return found is not None and _is_node(found, kind, device)

    def _temporary_name(self) -> bytes:
        while True:
            self._temporary_count += 1
            name = TEMPORARY_PREFIX + b"%d-%d" % (os.getpid(), self._temporary_count)
            if not os.path.lexists(proc_path(self.directory, name)):
                return name


class NewFile:
    """A regular file that is being written, under its name or (to replace another) under a temporary one."""

    def __init__(self, directory: int, name: bytes, temporary: bytes | None, descriptor: int) -> None:
        self._directory = directory
        self._name = name
        self._temporary = temporary
        self.descriptor = descriptor

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        with target_trouble():
            while view:
                written = os.pwrite(self.descriptor, view, offset)
                offset += written
                view = view[written:]

    def set_size(self, size: int) -> None:
        with target_trouble():
            os.ftruncate(self.descriptor, size)

    def finish(self, *, is_damaged: bool) -> None:
        """Give it its name and close it. A damaged file does not replace another one: PlaceError says so."""
        try:
            if self._temporary is None:
                return
            with target_trouble():
                if is_damaged and os.path.lexists(proc_path(self._directory, self._name)):
                    raise PlaceError("damaged in the backup; the file that is there was kept")
                os.rename(self._temporary, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
                self._temporary = None
        finally:
            self.discard()

    def discard(self) -> None:
        """Close it; remove it when it has no name yet."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        if self._temporary is not None:
            os.unlink(self._temporary, dir_fd=self._directory)
            self._temporary = None


def _is_node(found: os.stat_result, kind: int, device: int) -> bool:
    """Under this name alone."""
    if stat.S_IFMT(found.st_mode) != kind or found.st_nlink != 1:
        return False
    return kind in (stat.S_IFIFO, stat.S_IFSOCK) or found.st_rdev == device


# A restore that compares what it finds, and keeps what is right.
_ALSO_DIRECTORIES = (Replace.ANYTHING_EMPTY, Replace.ANYTHING)


def _is_inside(key: bytes, directory: bytes) -> bool:
    return not directory or key.startswith(directory + b"\0")
