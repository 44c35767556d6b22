"""Backups of ZFS datasets and volumes as datasets: chains of snapshots on the pool of a backup node.

A chain begins with a full stream and goes on with incremental ones as long as both sides have the same last snapshot,
told by its guid. When they have not, a new chain begins in a dataset of its own and the old one stays as it is, with
all of its backups. So nothing is ever rolled back, and two definitions of one disk have chains of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from agents.drivers.base import DiskFullError, DiskMissingError, DriverError
from agents.drivers.zfs_commands import (
    OWNER,
    SNAPSHOT_PREFIX,
    UNFINISHED,
    Host,
    Snapshot,
    ZfsError,
    ZfsMissingError,
    ZfsModifiedError,
)
from agents.drivers.zfs_head import Head
from agents.drivers.zfs_properties import on_a_backup_node
from agents.drivers.zfs_streams import modes_of, receive, sent
from engine.waiting import Cancel, never_cancel

logger = logging.getLogger(__name__)

FIRST, BASE_LOST, TARGET_CHANGED = "first_backup", "base_lost", "target_changed"
MOST_RESUMES = 5


@dataclass(frozen=True, slots=True)
class Base:
    """An earlier backup: `dataset@snapshot` on the target, and the guid that both sides must have."""

    place: str
    guid: str


@dataclass(frozen=True, slots=True)
class SendWish:
    """What to send. `bases` newest first; `chain` is the dataset that a full stream goes to; `disk` marks what is ours.

    `kept` are snapshots that other backups of the disk go on from, `known` all that belong to some backup.
    """

    source: str
    disk: str
    snapshot: str
    chain: str
    bases: Sequence[Base] = ()
    kept: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    bytes_per_second: int = 0


@dataclass(frozen=True, slots=True)
class SentSet:
    """`full_reason` is empty for an incremental stream. Bytes: of the stream, and what the backup takes up."""

    place: str
    guid: str
    full_reason: str
    moved_bytes: int
    written_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Plan:
    dataset: str
    increment: tuple[str, ...]
    full_reason: str


def send_set(
    source: Host,
    target: Host,
    wish: SendWish,
    *,
    tell: Callable[[int, int], None] = lambda _, __: None,
    cancel: Cancel = never_cancel,
) -> SentSet:
    """One backup. `tell` hears of bytes sent and bytes to send (0: not known).

    A stream that is cut is gone on with. When it fails for good, nothing of this backup is left on either side. On the
    target it is marked as unfinished until `finish_set`: a program that is killed in between leaves what can be told.
    """
    _tidy(source, target, wish)
    guid = _take_snapshot(source, wish)
    plan = _plan(source, target, wish)
    try:
        try:
            moved_bytes = _send(source, target, wish, plan, guid, tell=tell, cancel=cancel)
        except ZfsModifiedError:
            if not plan.increment:
                raise
            logger.warning("the target was changed, a new chain begins", extra={"dataset": plan.dataset})
            target.abort_receive(plan.dataset)
            plan = _Plan(wish.chain, (), TARGET_CHANGED)
            moved_bytes = _send(source, target, wish, plan, guid, tell=tell, cancel=cancel)
        received = _own(target, plan.dataset, wish.snapshot)
        if received is None or received.guid != guid:
            raise ZfsError(f"{plan.dataset}@{wish.snapshot} is not what was sent.")
        _make_ours(target, plan, wish)
    except BaseException:
        _undo(source, target, wish, plan)
        raise
    return SentSet(
        place=f"{plan.dataset}@{wish.snapshot}",
        guid=guid,
        full_reason=plan.full_reason,
        moved_bytes=moved_bytes,
        written_bytes=received.written_bytes or moved_bytes,
        size_bytes=_size_of(source, wish.source),
    )


def forget_points(
    source: Host,
    dataset: str,
    *,
    disk: str,
    kept: frozenset[str],
    known: frozenset[str],
    only: frozenset[str] | None = None,
) -> list[str]:
    """Remove snapshots of ours on the disk that no backup goes on from; what is removed. Of `only`, when given.

    A backup that is not the newest keeps a bookmark where there are such: it costs nothing, and should the newer ones
    be removed on the target, the next backup goes on from it.
    """
    removed = []
    bookmarked = {one.name for one in source.bookmarks(dataset)}
    for one in source.snapshots(dataset):
        if _is_ours(one, disk) and one.name not in kept and (only is None or one.name in only):
            if one.name in known and one.name not in bookmarked and source.abilities.bookmarks:
                source.bookmark(dataset, one.name)
            source.destroy_own(dataset, one.name)
            removed.append(one.name)
    for name in bookmarked - known - kept:
        if name.startswith(SNAPSHOT_PREFIX):
            source.destroy_own(dataset, name, mark="#")
            removed.append(f"#{name}")
    return removed


def finish_set(target: Host, place: str) -> None:
    """The backup counts now. May run twice, and by a sweep when the program that made the backup was killed before."""
    dataset, _, name = place.partition("@")
    if target.own_value(dataset, UNFINISHED) == name:
        target.unmark(dataset, UNFINISHED)


def drop_unfinished(target: Host, dataset: str, *, known: frozenset[str]) -> str:
    """Remove what a killed program left in the dataset of a backup that does not count; its name, empty for none.

    `known` are snapshots of backups that count, or that are under way: where such a one is marked, nothing is removed.
    """
    name = target.own_value(dataset, UNFINISHED)
    if not name or name in known:
        return ""
    disk = target.own_value(dataset, OWNER)
    target.abort_receive(dataset)
    remove_set(target, f"{dataset}@{name}", disk=disk)
    if target.exists(dataset):
        target.unmark(dataset, UNFINISHED)
    return name


def remove_set(target: Host, place: str, *, disk: str) -> bool:
    """Remove a backup; its dataset with the last one. Whether it was there. May run twice.

    When it was the newest, the dataset goes back to the one before, so that the next backup can go on from that. Not
    when somebody wrote to the dataset: that stays, and a new chain begins.
    """
    dataset, _, name = place.partition("@")
    found = _own(target, dataset, name)
    if found is not None:
        is_unchanged = target.is_unchanged(dataset)
        target.destroy_own(dataset, name)
        left = target.snapshots(dataset)
        if is_unchanged and left and left[-1].name.startswith(SNAPSHOT_PREFIX):
            target.rollback_to_last(dataset, left[-1].name)
    if target.exists(dataset) and not target.snapshots(dataset) and not target.resume_token(dataset):
        target.destroy_dataset(dataset, disk=disk)
    return found is not None


# --- parts ------------------------------------------------------------------------------------------------------------


def _take_snapshot(source: Host, wish: SendWish) -> str:
    """The guid of the backup's snapshot, which an earlier attempt at it may have taken."""
    if not source.exists(wish.source):
        raise DiskMissingError(f"The dataset {wish.source} is not there. Was it renamed or destroyed?")
    if _own(source, wish.source, wish.snapshot) is None:
        source.snapshot(wish.source, wish.snapshot, disk=wish.disk)
    taken = _own(source, wish.source, wish.snapshot)
    if taken is None:
        raise ZfsMissingError(f"{wish.source}@{wish.snapshot} is not there, though it was just taken.")
    return taken.guid


def _plan(source: Host, target: Host, wish: SendWish) -> _Plan:
    """From the newest base that both sides have, and that is the last on the target."""
    here = {one.guid: f"@{one.name}" for one in source.snapshots(wish.source)}
    marks = {one.guid: f"{wish.source}#{one.name}" for one in source.bookmarks(wish.source)}
    for base in wish.bases:
        dataset, _, name = base.place.partition("@")
        others = [one for one in target.snapshots(dataset) if one.name != wish.snapshot]
        newest = others[-1] if others else Snapshot("", "")
        known = here.get(base.guid) or marks.get(base.guid)
        if known and (newest.name, newest.guid) == (name, base.guid):
            return _Plan(dataset, ("-i", known), "")
    return _Plan(wish.chain, (), BASE_LOST if wish.bases else FIRST)


def _send(
    source: Host,
    target: Host,
    wish: SendWish,
    plan: _Plan,
    guid: str,
    *,
    tell: Callable[[int, int], None],
    cancel: Cancel,
) -> int:
    """Bytes moved; 0 when an earlier attempt had all of it there."""
    there = _own(target, plan.dataset, wish.snapshot)
    if there is not None and there.guid == guid:
        return 0
    if not plan.increment:
        target.create_parents(plan.dataset)
    whole = [*modes_of(source, wish.source), *plan.increment, f"{wish.source}@{wish.snapshot}"]
    total_bytes = source.stream_bytes(whole)
    _refuse_full(target, plan.dataset, total_bytes)
    moved = [0]

    def count(step_bytes: int) -> None:
        moved[-1] = step_bytes
        tell(sum(moved), max(total_bytes, sum(moved)))

    for left in range(MOST_RESUMES, -1, -1):
        token = _own_token(source, target, plan.dataset, wish)
        stream = ["-t", token] if token else whole
        try:
            receive(
                target,
                plan.dataset,
                sent(source, stream, cancel=cancel),
                options=lambda head: _options(target, wish, head),
                bytes_per_second=wish.bytes_per_second,
                tell=count,
                cancel=cancel,
            )
            break
        except DriverError as error:
            if not left or isinstance(error, DiskFullError) or not target.resume_token(plan.dataset):
                raise
            logger.warning("a stream was cut and is gone on with", extra={"dataset": plan.dataset})
            moved.append(0)
    return sum(moved)


def _options(target: Host, wish: SendWish, head: Head) -> list[str]:
    resuming = ["-s"] if target.abilities.resumes else []
    return [
        *resuming,
        *on_a_backup_node(target, is_volume=head.is_volume, disk=wish.disk, snapshot=wish.snapshot),
    ]


def _refuse_full(target: Host, dataset: str, wanted_bytes: int) -> None:
    free = target.value(dataset.rpartition("/")[0], "available")
    if free.isdigit() and wanted_bytes > int(free):
        raise DiskFullError(
            f"The pool has {free} bytes free; the backup needs {wanted_bytes}. Free some, or remove backups."
        )


def _own_token(source: Host, target: Host, dataset: str, wish: SendWish) -> str:
    """The token of a cut stream of this very backup. One of another backup is forgotten with what it had brought."""
    token = target.resume_token(dataset)
    if not token:
        return ""
    try:
        if f"@{wish.snapshot}" in source.run("send", "-n", "-v", "-P", "-t", token):
            return token
    except ZfsError as error:
        logger.warning("a cut stream cannot be gone on with", extra={"reason": error.message})
    target.abort_receive(dataset)
    return ""


def _make_ours(target: Host, plan: _Plan, wish: SendWish) -> None:
    """Where it could not be said to `receive`. Nobody changes it by mounting it: the next stream needs it as it is."""
    if target.abilities.overrides:
        return
    target.set(plan.dataset, UNFINISHED, wish.snapshot)
    if not plan.increment:
        target.set(plan.dataset, OWNER, wish.disk)
        target.set(plan.dataset, "readonly", "on")


def _tidy(source: Host, target: Host, wish: SendWish) -> None:
    """What attempts that were killed left: their snapshots on the disk, half a stream on the target."""
    kept = wish.kept | {wish.snapshot}
    forget_points(source, wish.source, disk=wish.disk, kept=kept, known=wish.known | {wish.snapshot})
    for dataset in {base.place.partition("@")[0] for base in wish.bases}:
        _own_token(source, target, dataset, wish)
        if target.exists(dataset):
            drop_unfinished(target, dataset, known=wish.known | {wish.snapshot})


def _undo(source: Host, target: Host, wish: SendWish, plan: _Plan) -> None:
    """Each step for itself: what cannot be undone now is tidied by the next run."""
    with suppress(DriverError):
        if target.exists(plan.dataset):
            drop_unfinished(target, plan.dataset, known=wish.known)
    with suppress(DriverError):
        target.abort_receive(plan.dataset)
    with suppress(DriverError):
        if _own(target, plan.dataset, wish.snapshot) is not None:
            target.destroy_own(plan.dataset, wish.snapshot)
    with suppress(DriverError):
        if not plan.increment and target.exists(plan.dataset) and not target.snapshots(plan.dataset):
            target.set(plan.dataset, OWNER, wish.disk)
            target.destroy_dataset(plan.dataset, disk=wish.disk)
    with suppress(DriverError):
        source.destroy_own(wish.source, wish.snapshot)


def _own(host: Host, dataset: str, name: str) -> Snapshot | None:
    return next((one for one in host.snapshots(dataset) if one.name == name), None)


def _is_ours(one: Snapshot, disk: str) -> bool:
    return one.name.startswith(SNAPSHOT_PREFIX) and one.disk == disk


def _size_of(host: Host, dataset: str) -> int:
    told = host.value(dataset, "referenced")
    return int(told) if told.isdigit() else 0
