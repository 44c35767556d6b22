"""Making files below a directory, from entries that nobody vouches for beyond their signature.

Everything happens relative to open directories, one name at a time, without following symbolic links, so no entry can
lead outside of the target: not by its name, not by a symbolic link made before it, not by a hard link, not by a
directory that is swapped meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.errors import EngineError
from engine.tree_dirs import DirectoryPath, open_directory, proc_path
from engine.tree_entries import FileKind, TreeEntry

_TEMPORARY_PREFIX = b".backupsite-restore-"
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


class Placer:
    """Knows the innermost open directory, and moves it along with the keys of the entries. Owns its descriptors."""

    def __init__(self, target_descriptor: int, *, overwrite: bool, on_leave: Callable[[TreeEntry, int], None]) -> None:
        """`on_leave` is called for each directory, with an open descriptor, when nothing more comes below it."""
        self._path = DirectoryPath(target_descriptor)
        self._overwrite = overwrite
        self._on_leave = on_leave
        # One for each open directory: its key, and its entry where there was one.
        self._open: list[tuple[bytes, TreeEntry | None]] = [(b"", None)]
        self._temporary_count = 0
        # Keys of files with more names -> (device, inode) of what was made.
        self._heads: dict[bytes, tuple[int, int]] = {}

    def close(self) -> None:
        self._path.__exit__()

    @property
    def directory(self) -> int:
        return self._path.descriptor

    def go_to_parent(self, key: bytes) -> bytes:
        """Make the parent of `key` the innermost directory and return the last name. PlaceError when it is none."""
        *parents, name = key.split(b"\0")
        while not _is_inside(key, self._open[-1][0]):
            self.leave()
        with target_trouble():
            for number in range(self._path.depth, len(parents)):
                # The entry of this directory was lost or not selected.
                self._make_directory(parents[number])
                self._open.append((b"\0".join(parents[: number + 1]), None))
        return name

    def leave(self) -> None:
        """Leave the innermost directory, which gets its metadata now."""
        _, entry = self._open.pop()
        if entry is not None:
            self._on_leave(entry, self._path.descriptor)
        if self._open:
            self._path.leave()

    def leave_all(self) -> None:
        while len(self._open) > 1:
            self.leave()
        _, entry = self._open[0]
        if entry is not None:
            self._on_leave(entry, self._path.descriptor)

    def place_directory(self, entry: TreeEntry) -> None:
        if not entry.key:
            self._open[0] = (b"", entry)
            return
        name = self.go_to_parent(entry.key)
        with target_trouble():
            self._make_directory(name)
        self._open.append((entry.key, entry))

    def open_file(self, key: bytes) -> NewFile:
        name = self.go_to_parent(key)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with target_trouble():
            if not self._overwrite:
                return NewFile(self.directory, name, None, os.open(name, flags, 0o600, dir_fd=self.directory))
            temporary = self._temporary_name()
            return NewFile(self.directory, name, temporary, os.open(temporary, flags, 0o600, dir_fd=self.directory))

    def place_symlink(self, entry: TreeEntry) -> bytes:
        name = self.go_to_parent(entry.key)
        with target_trouble():
            self._make_way(name)
            os.symlink(entry.target, name, dir_fd=self.directory)
        return name

    def place_node(self, entry: TreeEntry) -> int:
        """Make a FIFO, socket or device; a descriptor that names it without opening it."""
        name = self.go_to_parent(entry.key)
        with target_trouble():
            self._make_way(name)
            device = os.makedev(*entry.rdev)
            os.mknod(name, _NODE_TYPES[entry.kind] | 0o600, device, dir_fd=self.directory)
            return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory)

    def note_head(self, key: bytes, descriptor: int) -> None:
        """Remember a file to which later names may be linked."""
        found = os.fstat(descriptor)
        self._heads[key] = (found.st_dev, found.st_ino)

    def forget_head(self, key: bytes) -> None:
        self._heads.pop(key, None)

    def has_head(self, key: bytes) -> bool:
        return key in self._heads

    def place_link(self, key: bytes, head: bytes) -> None:
        """Another name for a file that this run has made; never for anything else."""
        name = self.go_to_parent(key)
        *parents, head_name = head.split(b"\0")
        with target_trouble(), self._descend(parents) as directory:
            found = os.stat(head_name, dir_fd=directory, follow_symlinks=False)
            if (found.st_dev, found.st_ino) != self._heads[head]:
                raise PlaceError("the file to link to was replaced")
            self._make_way(name)
            os.link(head_name, name, src_dir_fd=directory, dst_dir_fd=self.directory, follow_symlinks=False)

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
        """With `overwrite`, remove what has this name unless it is a directory."""
        if not self._overwrite:
            return
        try:
            os.unlink(name, dir_fd=self.directory)
        except FileNotFoundError:
            return

    def _temporary_name(self) -> bytes:
        while True:
            self._temporary_count += 1
            name = _TEMPORARY_PREFIX + b"%d-%d" % (os.getpid(), self._temporary_count)
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


def _is_inside(key: bytes, directory: bytes) -> bool:
    return not directory or key.startswith(directory + b"\0")
