"""Driver `host`: a whole server, as the agent on it sees it: all its file systems as one tree.

Each file system that can is held still by a snapshot; the others are read as they are, and the engine marks what
changed meanwhile. They are put together in a mount namespace of our own, read-only, so that nothing that is mounted on
top of files hides them, and nothing of the kernel, of memory or of the network gets in.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
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
from agents.drivers.host_mounts import Mount, chosen, is_below, not_needed, patterns_of, place_of
from agents.drivers.host_needs import WHOLE, places_in_use
from agents.drivers.host_snapshots import NONE, PREFIX, Place, all_standing_still, live_place, remove_leftovers
from agents.drivers.host_space import bind_read_only, let_go, mount_read_only, mounts_here, private_tree, unmount
from engine.tree_facts import Excludes
from engine.tree_source import file_system_types
from engine.tree_walk import TreeOptions

_NO_SNAPSHOT = "not_one_moment"
_NOT_EXACT = (
    "On a whole server nothing is removed that the backup does not have: what is mounted, in memory or left out on "
    "purpose is not in it. Restore over what is there, or into a new folder."
)


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Of this machine. `root`: the directory that counts as the whole server. `work` holds locks and the place where
    the tree is put together. `never` are absolute paths that no backup has, `excludes` patterns of the server's own.
    `needs` are absolute paths that this program goes on to use meanwhile, beside `work` and what every program uses.
    `warnings` are those of each backup, beside what is found when it is made."""

    root: str = "/"
    work: Path = Path("/run/backupsite")
    never: tuple[str, ...] = ()
    excludes: tuple[str, ...] = field(default=())
    needs: tuple[str, ...] = ()
    warnings: tuple[Warned, ...] = ()


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
            yield OpenedFolder(path, TargetFacts(), not_exact=_NOT_EXACT)

    def forget(self, disks: Sequence[DiskWish]) -> Sequence[str]:
        """Nothing stays between two backups: whatever there is was left by one that was killed. DiskBusyError."""
        with held_server(self.name, str(self.settings.work)):
            return [name for mount in self.mounts() if not mount.left_out for name in remove_leftovers(mount)]

    def mounts(self) -> list[Mount]:
        """What makes up the server now, what is left out included."""
        return chosen(mounts_here(), root=self.settings.root, is_excluded=self._excluded())

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
            # Nothing of it would be read: it is neither held still nor held at all.
            is_excluded = self._excluded()
            kept = [mount for mount in kept if not is_excluded(mount.point)]
            configuration = layout_facts()
            moment_ns = time.time_ns()
            name = "".join(sign for sign in point if sign.isalnum())[:40] or "now"
            places = held.enter_context(all_standing_still(kept, name))
            tree = self.settings.work / "tree"
            tree.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                held.enter_context(private_tree(tree))
            except PermissionError:
                facts = SourceFacts(warnings=(*self.settings.warnings, *_live(root)), configuration=configuration)
                left_out = patterns_of([mount.point for mount in mounts if mount.left_out], root=root)
                yield OpenedTree(Path(root), facts, self._options(left_out, kept, moment_ns=moment_ns))
                return
            with_mounts = held.enter_context(_mounted(places, self.settings.work / "volumes"))
            places, warnings = _put_together(with_mounts, tree, mounts, root=root)
            self._let_go()
            warnings = [*self.settings.warnings, *_not_still(places), *warnings]
            facts = SourceFacts(warnings=tuple(warnings), configuration=configuration)
            # What is left out has its directory in the tree, with what lies under it.
            covered = [mount.point for mount in mounts if mount.left_out]
            covered += [path for place in places for path in place.left_out]
            bound = {place.point for place in places}
            yield OpenedTree(
                tree,
                facts,
                dataclasses.replace(
                    self._options((), [mount for mount in kept if mount.point in bound], moment_ns=moment_ns),
                    covered=tuple(_inside(covered, root=root)),
                    file_systems=partial(_live_types, _snapshot_devices(places, tree, root=root)),
                ),
            )

    def _let_go(self) -> None:
        """Of all mounts but what this program needs: the tree has its own. Also where unmounting on the server does not
        reach us."""
        settings = self.settings
        points = not_needed(
            mounts_here(), needed={*places_in_use(), *settings.needs}, whole=WHOLE, ours=os.path.realpath(settings.work)
        )
        let_go(points)

    def _excluded(self) -> Callable[[str], bool]:
        """Whether the walk will not get to a path."""
        excludes = Excludes((*self.settings.excludes, *self._never()))

        def is_excluded(path: str) -> bool:
            names = [name.split(b"/") for name in _inside([path], root=self.settings.root)]
            return any(
                excludes.has(b"\0".join(parts[:count]), is_directory=True)
                for parts in names
                for count in range(1, len(parts) + 1)
            )

        return is_excluded

    def _never(self, shown: Iterable[str] = ()) -> Sequence[str]:
        settings = self.settings
        return patterns_of((*settings.never, str(settings.work), *shown), root=settings.root)

    def _options(self, left_out: Sequence[str], kept: Sequence[Mount], *, moment_ns: int) -> TreeOptions:
        settings = self.settings
        # Where it is shown, ZFS has all snapshots of a live dataset in there once more.
        shown = (os.path.join(mount.point, ".zfs") for mount in kept if mount.kind == "zfs")
        return TreeOptions(
            exclude=(*settings.excludes, *left_out, *self._never(shown), f"{PREFIX}*/"),
            one_file_system=False,
            is_snapshot=True,
            moment_ns=moment_ns,
            mounts=(
                *(b"" for mount in kept if mount.point == settings.root),
                *_inside([mount.point for mount in kept], root=settings.root),
            ),
        )


@contextmanager
def _mounted(places: Sequence[Place], folder: Path) -> Iterator[list[Place]]:
    """Snapshots that are devices yet, as directories; the live ones where a device cannot be mounted. They are mounted
    in this process's own namespace, so call it inside of `private_tree`; what was made of them goes before them."""
    found: list[Place] = []
    with ExitStack() as held:
        for number, place in enumerate(places):
            if place.held is None:
                found.append(place)
                continue
            target = folder / str(number)
            try:
                target.mkdir(mode=0o700, parents=True, exist_ok=True)
                mount_read_only(place.held.device, target, kind=place.held.kind, options=place.held.options)
            except OSError as error:
                found.append(live_place(place.point, error.strerror or type(error).__name__))
                continue
            held.callback(unmount, target)
            found.append(dataclasses.replace(place, source=target / str(place.source).lstrip("/")))
        yield found


def _snapshot_devices(places: Sequence[Place], tree: Path, *, root: str) -> frozenset[int]:
    """Numbers of devices that there are for this backup alone."""
    still = [place for place in places if place.snapshot != NONE and is_below(place.point, root)]
    return frozenset((tree / os.path.relpath(place.point, root)).stat().st_dev for place in still)


def _live_types(left_out: frozenset[int]) -> dict[int, str]:
    """As `file_system_types`: without snapshots, whose numbers say nothing of a file from one backup to the next."""
    return {device: kind for device, kind in file_system_types().items() if device not in left_out}


def _inside(points: Iterable[str], *, root: str) -> Iterator[bytes]:
    """Paths below the root of the tree; the root itself, and what is elsewhere, is passed over."""
    for point in points:
        if point != root and is_below(point, root):
            yield os.fsencode(os.path.relpath(point, root))


def _put_together(
    places: Sequence[Place], tree: Path, mounts: Sequence[Mount], *, root: str
) -> tuple[list[Place], list[Warned]]:
    """What is in the tree now, and what a person should know; `mounts` made up the server when the places were chosen.
    DiskUnreadableError without the first of it."""
    done: list[Place] = []
    warnings: list[Warned] = []
    for number, place in enumerate(places):
        if number and not is_below(place.point, root):
            continue
        try:
            done.append(_bound(place, tree, mounts, root=root, is_first=not number))
            warnings += done[-1].warnings
        except OSError as error:
            if not number:
                raise DiskUnreadableError(f"{root} cannot be opened: {error.strerror}.") from error
            warnings.append(Warned("tree_left_out", f"{place.point} is not in the backup: {error.strerror}."))
    return done, warnings


def _bound(place: Place, tree: Path, mounts: Sequence[Mount], *, root: str, is_first: bool) -> Place:
    """The place, or the live one where its snapshot cannot be had. OSError, also where the server has something else
    mounted there by now: what lies under it would pass for it."""
    within = Path(os.path.relpath(root, place.point)) if is_first else Path()
    target = tree, Path() if is_first else Path(os.path.relpath(place.point, root))

    def bind(source: Path) -> None:
        ours = tree.parent
        expected = None if source.is_relative_to(ours) else place_of(str(source), mounts)
        bind_read_only(_split(source, ours=ours), target, expected)

    try:
        bind(place.source / within)
    except OSError as error:
        if place.snapshot == NONE:
            raise
        place = live_place(place.point, error.strerror or type(error).__name__)
        bind(place.source / within)
    return place


def _split(source: Path, *, ours: Path) -> tuple[Path, Path]:
    """What is below our own folder may be behind a link of the administrator's, as that of the folder itself."""
    start = ours if source.is_relative_to(ours) else Path("/")
    return start, source.relative_to(start)


def _not_still(places: Sequence[Place]) -> Iterator[Warned]:
    live = sorted({place.point for place in places if place.snapshot == NONE})
    if live:
        shown = ", ".join(live[:5]) + (f" and {len(live) - 5} more" if len(live) > 5 else "")
        yield Warned(_NO_SNAPSHOT, f"Without a snapshot, so files there are of different moments: {shown}.")


def _live(root: str) -> tuple[Warned, ...]:
    why = f"The agent may make no mounts of its own here: {root} was read as it is, what is hidden by mounts left out."
    return (Warned(_NO_SNAPSHOT, why),)
