"""Driver `host`: a whole server, as the agent on it sees it: all its file systems as one tree.

Each file system that can is held still by a snapshot; the others are read as they are, and the engine marks what
changed meanwhile. They are put together in a mount namespace of our own, read-only, so that nothing that is mounted on
top of files hides them, and nothing of the kernel, of memory or of the network gets in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agents.drivers.base import (
    Capability,
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
from agents.drivers.folders import opened_folder
from agents.drivers.holding import held_server
from agents.drivers.host_layout import layout_facts
from agents.drivers.host_mounts import Mount, chosen, is_below, parse_mounts, patterns_of
from agents.drivers.host_snapshots import NONE, PREFIX, Place, remove_leftovers, standing_still
from agents.drivers.host_space import bind_read_only, private_tree
from engine.tree_walk import TreeOptions

_MOUNTS = Path("/proc/self/mountinfo")
_NO_SNAPSHOT = "not_one_moment"


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Of this machine. `root`: the directory that counts as the whole server. `work` holds locks and the place where
    the tree is put together. `never` are absolute paths that no backup has, `excludes` patterns of the server's own."""

    root: str = "/"
    work: Path = Path("/run/backupsite")
    never: tuple[str, ...] = ()
    excludes: tuple[str, ...] = field(default=())


class HostDriver:
    """See the module. The agent program sets `configured` before a driver is loaded by its name."""

    name = "host"
    configured: HostSettings | None = None

    @property
    def settings(self) -> HostSettings:
        if self.configured is None:
            raise DriverError("The driver host is for the agent program; a node does not back up itself.")
        return self.configured

    def probe(self) -> Capability:
        if self.configured is None:
            return Capability(usable=False, reason="It is for agents: a node does not back up itself.")
        if os.geteuid() != 0:
            return Capability(usable=False, reason="The whole server can be read by root alone.")
        return Capability(usable=True)

    @contextmanager
    def open_trees(self, wish: ReadWish) -> Iterator[Sequence[OpenedTree]]:
        with ExitStack() as held:
            yield [held.enter_context(self._opened(wish.new_point)) for _ in wish.disks]

    @contextmanager
    def open_folder(self, wish: WriteWish) -> Iterator[OpenedFolder]:
        root = Path(self.settings.root)
        with (
            held_server(self.name, str(self.settings.work)),
            opened_folder(root, wish.folder, create=wish.create) as path,
        ):
            yield OpenedFolder(path, TargetFacts())

    def forget(self, disks: Sequence[DiskWish]) -> Sequence[str]:
        """Nothing stays between two backups: whatever there is was left by one that was killed. DiskBusyError."""
        with held_server(self.name, str(self.settings.work)):
            return [name for mount in self.mounts() if not mount.left_out for name in remove_leftovers(mount)]

    def mounts(self) -> list[Mount]:
        """What makes up the server now, what is left out included."""
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as lines:
            return chosen(parse_mounts(lines), root=self.settings.root)

    @contextmanager
    def _opened(self, point: str) -> Iterator[OpenedTree]:
        root = self.settings.root
        if not Path(root).is_dir():
            raise DiskMissingError(f"The directory {root} is not there.")
        with held_server(self.name, str(self.settings.work)), ExitStack() as held:
            mounts = self.mounts()
            kept = [mount for mount in mounts if not mount.left_out]
            for mount in kept:
                remove_leftovers(mount)
            configuration = layout_facts()
            name = "".join(sign for sign in point if sign.isalnum())[:40] or "now"
            places = [place for mount in kept for place in held.enter_context(standing_still(mount, name))]
            tree = self.settings.work / "tree"
            tree.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                held.enter_context(private_tree(tree))
            except PermissionError:
                facts = SourceFacts(warnings=_live(root), configuration=configuration)
                yield OpenedTree(
                    Path(root),
                    facts,
                    self._options(patterns_of([mount.point for mount in mounts if mount.left_out], root=root)),
                )
                return
            warnings = [*_not_still(places), *_put_together(places, tree, root=root)]
            facts = SourceFacts(warnings=tuple(warnings), configuration=configuration)
            # What is left out has its directory in the tree, and nothing in it.
            yield OpenedTree(tree, facts, self._options(()))

    def _options(self, left_out: Sequence[str]) -> TreeOptions:
        settings = self.settings
        never = patterns_of((*settings.never, str(settings.work)), root=settings.root)
        excludes = (*settings.excludes, *left_out, *never, f"{PREFIX}*/")
        return TreeOptions(exclude=excludes, one_file_system=False, is_snapshot=True)


def _put_together(places: Sequence[Place], tree: Path, *, root: str) -> Iterator[Warned]:
    for number, place in enumerate(places):
        yield from place.warnings
        if number == 0:
            source = place.source / os.path.relpath(root, place.point)
            target = tree
        else:
            if not is_below(place.point, root):
                continue
            source, target = place.source, tree / os.path.relpath(place.point, root)
        try:
            if os.path.realpath(target) != str(target):
                raise OSError(0, "a symbolic link is on the way to it")
            bind_read_only(source, target)
        except OSError as error:
            if number == 0:
                raise DiskUnreadableError(f"{root} cannot be opened: {error.strerror}.") from error
            yield Warned("tree_left_out", f"{place.point} is not in the backup: {error.strerror}.")


def _not_still(places: Sequence[Place]) -> Iterator[Warned]:
    live = sorted({place.point for place in places if place.snapshot == NONE})
    if live:
        shown = ", ".join(live[:5]) + (f" and {len(live) - 5} more" if len(live) > 5 else "")
        yield Warned(_NO_SNAPSHOT, f"Without a snapshot, so files there are of different moments: {shown}.")


def _live(root: str) -> tuple[Warned, ...]:
    why = f"The agent may make no mounts of its own here: {root} was read as it is, what is hidden by mounts left out."
    return (Warned(_NO_SNAPSHOT, why),)
