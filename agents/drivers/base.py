"""What a driver is. Pure: no Django, no Celery; a driver runs in a node's worker and in the agent program alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from engine.restore import BlockTarget
from engine.stream_restore import StreamOutput
from engine.tree_walk import TreeOptions
from engine.waiting import Cancel
from engine.writer import BlockSource

# What all names of points and safety snapshots of ours begin with. Everything else on a node is somebody else's.
POINT_PREFIX = "backupsite-"


class DriverError(Exception):
    """Root of what a driver can meet. `code` is stable; `permanent` says that trying again cannot help."""

    code = "driver_error"
    permanent = True

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class DiskMissingError(DriverError):
    """The disk is not where its row says."""

    code = "disk_missing"


class DiskBusyError(DriverError):
    """Something else uses the disk now."""

    code = "disk_busy"
    permanent = False


class DiskChangedError(DriverError):
    """The disk was written to while it was read; what was read is no one point in time."""

    code = "disk_changed"
    permanent = False


class DiskTooSmallError(DriverError):
    """The target cannot hold the backup. Raised before the first write."""

    code = "target_too_small"


class DiskFullError(DriverError):
    """The place where the target lies has no space left."""

    code = "no_space"


class DiskUnreadableError(DriverError):
    """The operating system gives an error for reads or writes."""

    code = "disk_unreadable"
    permanent = False


@dataclass(frozen=True, slots=True)
class DiskAddress:
    """Where a disk is on its node. `path` is relative to the storage; `size_bytes` is what the control plane knows.

    `server` is the node's own name for the server that has the disk, such as the UUID of a domain; empty for a driver
    that knows no servers.
    """

    storage_path: str
    path: str
    size_bytes: int
    server: str = ""


@dataclass(frozen=True, slots=True)
class DiskWish:
    """One disk to read, and against which earlier point: that of the base backup, or None for everything.

    `kept_points` are the points of backups that a later one may be based on, and safety points; they may be of other
    disks of the server. Every other point of ours on this disk is a leftover, which the driver removes when it opens
    the disk. Points of others are never touched.
    """

    address: DiskAddress
    base_point: str | None = None
    kept_points: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ReadWish:
    """Disks of one server to read as they were at one moment.

    `new_point` names the point that is left behind for the next backup; the driver makes no other name. `freeze` asks
    for file systems to be quiet at that moment.
    """

    disks: Sequence[DiskWish]
    new_point: str
    freeze: bool = False


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that did not stop a backup and that a person should know. `code` is stable."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What the driver knows of an opened disk.

    `point` is what was left behind, empty for none. `full_reason` is a stable code for why all of the disk is read
    although a base point was given; empty when that is not so. `configuration` is the server's own description, such
    as a domain's XML.
    """

    point: str = ""
    frozen: bool = False
    full_reason: str = ""
    warnings: tuple[Warned, ...] = ()
    configuration: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class OpenedDisk:
    """A disk to read, and what is known of it as soon as it is open."""

    source: BlockSource
    facts: SourceFacts


@dataclass(frozen=True, slots=True)
class WriteWish:
    """A disk to write a backup of `size_bytes` to.

    `create` makes a new disk, and is refused where there is one already. `safety_point` names a snapshot of what is on
    the disk now, taken before the first write where the storage can; empty for none. `folder` is one inside of a file
    tree, which is written to (or made) instead of the whole; no symbolic link on the way to it is followed.
    `overwrite`: what takes a stream whole, such as a database, may lose what it holds; without it that is refused.
    """

    address: DiskAddress
    size_bytes: int
    create: bool = False
    safety_point: str = ""
    folder: str = ""
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """`safety_point` is the snapshot that was taken, empty when there is none."""

    safety_point: str = ""
    warnings: tuple[Warned, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenedTarget:
    target: BlockTarget
    facts: TargetFacts


@dataclass(frozen=True, slots=True)
class Capability:
    """Whether a driver works on this node, with a sentence why not."""

    usable: bool
    reason: str = ""


class DefinesServers(Protocol):
    """What a driver also is whose `SourceFacts` have a configuration."""

    def define(self, configuration: str, *, name: str, disks: Mapping[str, str]) -> str:
        """Make a new server, shut off, of a description from a backup; returns the node's own name for it.

        `disks` has the absolute path of the new image for that of each old one. Refuses a name that is taken: nothing
        that exists is changed.
        """


class AttachesDisks(Protocol):
    """What a driver also is that makes a new image a disk of its server."""

    def attach(self, server: str, path: str) -> str:
        """Attach the image at the absolute path to the server; returns the guest's name of the disk.

        Raises a DriverError with the next step for a person when it cannot be; the server is as it was then.
        """


class Driver(Protocol):
    """A way to reach disks. Every opened thing is closed on every path, also after errors.

    `open_sources` gives the disks in the order of the wish, all as they were at one moment; what the driver had to do
    for that (a backup job of the hypervisor, a snapshot, a freeze) ends with the block at the latest. It raises
    DiskMissingError, DiskBusyError. `open_target` raises these and DiskTooSmallError, and takes the disk for itself: no
    second opening and no running server may have it at the same time. Neither writes anything before it may.

    `forget` removes points and leftovers of ours that nothing needs, `wish.disks` saying what is kept; it returns what
    it removed. It can be run at any time, also while another program uses the disk, and twice.
    """

    name: str

    def probe(self) -> Capability: ...

    def open_sources(self, wish: ReadWish) -> AbstractContextManager[Sequence[OpenedDisk]]: ...

    def open_target(self, wish: WriteWish) -> AbstractContextManager[OpenedTarget]: ...

    def forget(self, disks: Sequence[DiskWish]) -> Sequence[str]: ...


# --- what is no block device: file trees and byte streams ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenedTree:
    """A directory to read with all that is in it, as it was at one moment where the facts do not warn otherwise.

    `options` say what of it never belongs to the backup; the mover adds what people exclude.
    """

    root: Path
    facts: SourceFacts
    options: TreeOptions = field(default_factory=TreeOptions)


@dataclass(frozen=True, slots=True)
class OpenedStream:
    """Bytes to read to their end, once. `check_complete` is called then, and raises when they are not whole."""

    stream: BinaryIO
    facts: SourceFacts
    check_complete: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class OpenedFolder:
    """A directory that files are restored into; nobody else restores into it meanwhile.

    `not_exact` says why nothing may be removed there that a backup does not have; empty where it may.
    """

    path: Path
    facts: TargetFacts
    not_exact: str = ""


@dataclass(frozen=True, slots=True)
class OpenedOutput:
    """Where a stream is restored to. `finish` is called after the last byte, and raises when it was not taken.

    It may take long, and asks what it is given whether to stop (CanceledError). An `output` that takes no bytes for a
    moment says so (0), so that a cancel is noticed then, too.
    """

    output: StreamOutput
    facts: TargetFacts
    finish: Callable[[Cancel], None] = lambda _: None


class PointKeeper(Protocol):
    """What every driver is; see `Driver` for what is promised."""

    name: str

    def probe(self) -> Capability: ...

    def forget(self, disks: Sequence[DiskWish]) -> Sequence[str]: ...


class TreeDriver(PointKeeper, Protocol):
    """A way to reach file trees. Base points mean nothing to it: what changed is seen in the tree."""

    def open_trees(self, wish: ReadWish) -> AbstractContextManager[Sequence[OpenedTree]]: ...

    def open_folder(self, wish: WriteWish) -> AbstractContextManager[OpenedFolder]: ...


class StreamDriver(PointKeeper, Protocol):
    """A way to reach what gives and takes one stream, such as a database server."""

    def open_streams(self, wish: ReadWish) -> AbstractContextManager[Sequence[OpenedStream]]: ...

    def open_output(self, wish: WriteWish) -> AbstractContextManager[OpenedOutput]: ...
