"""Directories of file trees: where they are, who uses them now, and opening a folder to restore into.

Drivers of file trees share this. Below the root of a disk whoever owns the files may have put symbolic links: none of
them is followed when something is to be written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from agents.drivers.base import DiskAddress, DiskBusyError, DiskMissingError, DiskUnreadableError, DriverError
from agents.drivers.holding import held_server, standing_for
from engine.tree_dirs import OPEN_DIRECTORY, open_directory
from engine.tree_source import PSEUDO_FILE_SYSTEMS, file_system_types


class PseudoTreeError(DriverError):
    """The kernel makes up what is in this tree; there is nothing to keep."""

    code = "pseudo_file_system"


def tree_root(address: DiskAddress) -> Path:
    """The real path of the tree, links followed: its storage itself or inside of it. DiskMissingError otherwise."""
    storage = os.path.realpath(address.storage_path)
    root = os.path.realpath(os.path.join(storage, address.path))
    if os.path.commonpath([storage, root]) != storage:
        raise DiskMissingError(f"The path {address.path} leads out of its storage.")
    return Path(root)


@contextmanager
def held_tree(root: Path) -> Iterator[None]:
    """No other job of ours has the tree meanwhile. DiskBusyError."""
    with ExitStack() as stack:
        try:
            stack.enter_context(held_server(standing_for(str(root))))
        except DiskBusyError as error:
            raise DiskBusyError(f"The folder {root} is in use by another job.") from error
        yield


def refuse_no_tree(root: Path) -> None:
    """DiskMissingError, DiskUnreadableError or PseudoTreeError for what is no directory with files of people."""
    try:
        os.close(os.open(root, OPEN_DIRECTORY))
        device = os.stat(root).st_dev
    except FileNotFoundError as error:
        raise DiskMissingError(
            f"The folder {root} is not there. Was it moved or removed, or is its file system not mounted?"
        ) from error
    except NotADirectoryError as error:
        raise DiskMissingError(f"{root} is no folder. A file or block device is read by the driver image.") from error
    except OSError as error:
        raise DiskUnreadableError(f"The folder {root} cannot be opened: {error.strerror}.") from error
    kind = file_system_types().get(device, "")
    if kind in PSEUDO_FILE_SYSTEMS:
        raise PseudoTreeError(f"{root} is a {kind} file system, which the kernel makes up. Choose another folder.")


@contextmanager
def opened_folder(root: Path, folder: str, *, create: bool) -> Iterator[Path]:
    """A directory to restore into: `root` itself, or `folder` inside of it (relative; links are not followed).

    `create` makes it with the folders above it, mode 0700, and takes one that is there only when it is empty:
    DiskBusyError. The path that is given stays the same directory whatever is renamed meanwhile.
    """
    if create and not folder:
        _make_root(root)
    refuse_no_tree(root)
    descriptor = os.open(root, OPEN_DIRECTORY)
    try:
        for name in Path(folder).parts:
            inner = _step(descriptor, name, create=create, shown=root / folder)
            os.close(descriptor)
            descriptor = inner
        if create and os.listdir(descriptor):  # noqa: PTH208  # a descriptor has no path
            raise DiskBusyError(f"The folder {root / folder} is there already, with files. Choose another name.")
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _make_root(root: Path) -> None:
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DiskUnreadableError(f"The folder {root} cannot be made: {error.strerror}.") from error


def _step(directory: int, name: str, *, create: bool, shown: Path) -> int:
    if name in {"..", "/"}:
        raise DiskMissingError(f"The folder {shown} leads out of the tree.")
    try:
        if create:
            with suppress(FileExistsError):
                os.mkdir(name, mode=0o700, dir_fd=directory)
        return open_directory(os.fsencode(name), directory)
    except FileNotFoundError as error:
        raise DiskMissingError(f"The folder {shown} is not there.") from error
    except OSError as error:
        raise DiskUnreadableError(
            f"The folder {shown} cannot be opened: {error.strerror}. Symbolic links are not followed."
        ) from error
