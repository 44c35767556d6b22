"""Driver `btrfs`: subvolumes as file trees, read from snapshots that are there only while they are read.

The snapshot lies beside the subvolume (inside of it, where beside is another file system), named `.<point>.<name>`.
Subvolumes inside are read with it; read-only ones inside, which are other tools' snapshots, are left out with a
warning. Works as root, or for the owner of the subvolumes with the mount option `user_subvol_rm_allowed`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agents.drivers import btrfs_calls as btrfs
from agents.drivers.base import (
    Capability,
    DiskBusyError,
    DiskFullError,
    DiskMissingError,
    DiskUnreadableError,
    DiskWish,
    DriverError,
    OpenedFolder,
    OpenedTree,
    ReadWish,
    SourceFacts,
    TargetFacts,
    Warned,
    WriteWish,
)
from agents.drivers.btrfs_snapshots import Taken, is_in_use, keep_tree, remove_tree, snapshot_tree
from agents.drivers.folders import held_tree, opened_folder, tree_root
from agents.drivers.holding import safe_point
from agents.drivers.safety import NO_SAFETY_POINT
from engine.tree_walk import TreeOptions

NOT_ONE_MOMENT = "not_one_moment"
_NAME_BYTES_MAX = 180
_LISTED_MAX = 5


class NotASubvolumeError(DriverError):
    """A directory, or something on another file system."""

    code = "not_a_subvolume"


class NotPermittedError(DriverError):
    """The worker's user may not snapshot or remove here."""

    code = "not_permitted"


@dataclass(frozen=True, slots=True)
class _Held:
    """A subvolume that is ours alone until the job ends, and the folder for its snapshots, both open."""

    path: Path
    source: int
    folder: int
    folder_path: Path

    def name_of(self, point: str) -> bytes:
        return b".%s.%s" % (point.encode(), _label(self.path))


class BtrfsDriver:
    """See the module."""

    name = "btrfs"

    def probe(self) -> Capability:
        mounts = [line.split(" - ", 1)[1].split() for line in _mounts() if " - btrfs " in line]
        if not mounts:
            return Capability(usable=False, reason="No btrfs file system is mounted on this node.")
        if os.geteuid() != 0 and not any("user_subvol_rm_allowed" in mount[-1].split(",") for mount in mounts):
            reason = "The worker is not root, and no btrfs file system is mounted with user_subvol_rm_allowed."
            return Capability(usable=False, reason=reason)
        return Capability(usable=True)

    @contextmanager
    def open_trees(self, wish: ReadWish) -> Iterator[Sequence[OpenedTree]]:
        point = safe_point(wish.new_point)
        with ExitStack() as stack:
            held = [stack.enter_context(_held(tree_root(disk.address))) for disk in wish.disks]
            for one, disk in zip(held, wish.disks, strict=True):
                _sweep(one.folder, one.path, _kept(disk))
            begun, moment_ns = time.monotonic(), time.time_ns()
            taken = [stack.enter_context(_snapshot(one, point)) for one in held]
            apart = _apart(sum(one.snapshots for one in taken), time.monotonic() - begun)
            yield [_opened(one, point, what, apart, moment_ns) for one, what in zip(held, taken, strict=True)]

    @contextmanager
    def open_folder(self, wish: WriteWish) -> Iterator[OpenedFolder]:
        """A new one is a subvolume, so that it can be backed up in its turn."""
        root = tree_root(wish.address)
        if wish.create and not wish.folder:
            _create(root)
        with _held(root) as held, opened_folder(root, wish.folder, create=wish.create) as path:
            yield OpenedFolder(path, TargetFacts() if wish.create else _safety(held, wish.safety_point))

    def forget(self, disks: Sequence[DiskWish]) -> Sequence[str]:
        removed: list[str] = []
        for disk in disks:
            root = tree_root(disk.address)
            try:
                with _held(root) as held:
                    removed += _sweep(held.folder, root, _kept(disk))
            except DiskBusyError:
                continue  # the job that has it sweeps by itself
            except (DiskMissingError, NotASubvolumeError):
                removed += _sweep_without(root, _kept(disk))
        return removed


@contextmanager
def _held(root: Path) -> Iterator[_Held]:
    """DiskMissingError, DiskBusyError, NotASubvolumeError."""
    with held_tree(root), ExitStack() as stack:
        with _explained(str(root)):
            source = stack.enter_context(btrfs.directory(os.fsencode(root)))
            if not btrfs.is_subvolume(source):
                raise NotASubvolumeError(f"{root} is no btrfs subvolume. Choose one, or the driver filesystem.")
            folder = stack.enter_context(btrfs.directory(os.fsencode(root.parent)))
            is_beside = btrfs.file_system(folder) == btrfs.file_system(source)
        yield _Held(root, source, folder, root.parent) if is_beside else _Held(root, source, source, root)


@contextmanager
def _snapshot(held: _Held, point: str) -> Iterator[Taken]:
    with ExitStack() as stack:
        with _explained(str(held.path)):
            taken = stack.enter_context(snapshot_tree(held.source, held.folder, held.name_of(point)))
        yield taken


def _opened(held: _Held, point: str, taken: Taken, apart: tuple[Warned, ...], moment_ns: int) -> OpenedTree:
    root = held.folder_path / os.fsdecode(held.name_of(point))
    # There are no mounts in a snapshot: other devices in it are the subvolumes inside.
    missing = (*taken.read_only, *taken.moved, *(path for path, _ in taken.refused))
    options = TreeOptions(one_file_system=False, is_snapshot=True, moment_ns=moment_ns, covered=missing)
    return OpenedTree(root, SourceFacts(warnings=(*apart, *_left_out(taken))), options)


def _left_out(taken: Taken) -> Iterator[Warned]:
    if taken.read_only:
        message = "Read-only subvolumes inside are not in the backup, as snapshots of other tools are"
        yield Warned("snapshots_left_out", f"{message}: {_listed(taken.read_only)}.")
    if taken.refused:
        reasons = ", ".join(sorted({reason for _, reason in taken.refused}))
        paths = _listed([path for path, _ in taken.refused])
        yield Warned("subvolumes_missing", f"Subvolumes inside are not in the backup ({reasons}): {paths}.")
    if taken.moved:
        message = "Subvolumes inside were made, moved or removed at the moment of the backup and may not be in it"
        yield Warned("subvolumes_missing", f"{message}: {_listed(taken.moved)}.")


def _listed(paths: Sequence[bytes]) -> str:
    more = f" and {len(paths) - _LISTED_MAX} more" if len(paths) > _LISTED_MAX else ""
    return ", ".join(path.decode(errors="backslashreplace") for path in paths[:_LISTED_MAX]) + more


def _apart(count: int, seconds: float) -> tuple[Warned, ...]:
    if count < 2:
        return ()
    message = f"The {count} subvolumes were taken one after the other, all within {seconds:.3f} s."
    return (Warned(NOT_ONE_MOMENT, message),)


def _safety(held: _Held, point: str) -> TargetFacts:
    if not point:
        return TargetFacts()
    try:
        keep_tree(held.source, held.folder, held.name_of(safe_point(point)))
    except FileExistsError:
        pass  # an earlier attempt of the same restore kept it
    except OSError as error:
        message = f"What was in the subvolume before was not kept: {error.strerror}."
        return TargetFacts(warnings=(Warned(NO_SAFETY_POINT, message),))
    return TargetFacts(safety_point=point)


def _create(root: Path) -> None:
    """Nothing, where something is already: whether that is empty is looked at later."""
    with _explained(str(root.parent)), btrfs.directory(os.fsencode(root.parent)) as folder:
        if not btrfs.file_system(folder):
            raise NotASubvolumeError(f"{root.parent} is not on a btrfs file system. Choose the driver filesystem.")
        with suppress(FileExistsError):
            btrfs.create(folder, os.fsencode(root.name))


def _sweep_without(root: Path, kept: Set[str]) -> list[str]:
    """What is left of a subvolume that is gone."""
    try:
        with btrfs.directory(os.fsencode(root.parent)) as folder:
            return _sweep(folder, root, kept) if btrfs.file_system(folder) else []
    except FileNotFoundError:
        return []


def _sweep(folder: int, root: Path, kept: Set[str]) -> list[str]:
    """Remove snapshots of ours of this subvolume that nobody keeps and no job reads; returns their points."""
    removed = []
    ours = re.compile(rb"\.(backupsite-[A-Za-z0-9-]+)\." + re.escape(_label(root)), re.DOTALL)
    for name in sorted(map(os.fsencode, os.listdir(folder))):
        found = ours.fullmatch(name)
        if found is None or found[1].decode() in kept:
            continue
        with _explained(os.fsdecode(name)):
            if not is_in_use(folder, name):
                remove_tree(folder, name)
                removed.append(found[1].decode())
    return removed


def _kept(disk: DiskWish) -> set[str]:
    return {*disk.kept_points, *([disk.base_point] if disk.base_point else [])}


def _label(root: Path) -> bytes:
    name = os.fsencode(root.name or "root")
    return name if len(name) <= _NAME_BYTES_MAX else hashlib.sha256(name).hexdigest().encode()


def _mounts() -> list[str]:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DiskMissingError(f"{path} is not there. Was it moved, renamed or removed?") from error
    except OSError as error:
        raise _meaning(path, error) from error


def _meaning(path: str, error: OSError) -> DriverError:
    if error.errno in {errno.EPERM, errno.EACCES}:
        return NotPermittedError(
            f"The worker's user may not snapshot {path}. Run it as root; or let it own the subvolume, and mount the "
            "file system with user_subvol_rm_allowed."
        )
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFullError(f"There is no space left for a snapshot of {path}.")
    if error.errno in {errno.ENOTDIR, errno.ELOOP}:
        return DiskMissingError(f"{path} is no directory. Choose a btrfs subvolume.")
    return DiskUnreadableError(f"{path} cannot be read or snapshotted: {error.strerror}.")
