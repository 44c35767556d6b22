"""A received ZFS dataset in the place of another one, or as a new one.

It is received beside its place and swapped by renaming: until then, and after every failure before, the place holds
what it held. What is beside it carries a tag in its name that no other restore has, so that whoever comes after a
program that was killed can tell what it left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from agents.drivers.base import DiskBusyError, DriverError
from agents.drivers.zfs_commands import OWNER, SNAPSHOT_PREFIX, Host
from agents.drivers.zfs_head import Head
from agents.drivers.zfs_properties import as_they_were
from agents.drivers.zfs_streams import is_encrypted, receive, sent
from engine.waiting import Cancel, never_cancel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SwapWish:
    """`tag` names what is beside the dataset meanwhile, and is that of no other swap; `disk` marks what came.

    `create`: the dataset is to be a new one, which stays marked as ours; refused where there is one of that name.
    """

    dataset: str
    disk: str
    tag: str
    create: bool = False
    bytes_per_second: int = 0
    tell: Callable[[int], None] = lambda _: None


def restore_set(read_from: Host, place: str, write_to: Host, wish: SwapWish, *, cancel: Cancel = never_cancel) -> int:
    """A backup in the place of a dataset; bytes received."""
    raw = ("-w",) if is_encrypted(read_from, place.partition("@")[0]) else ()
    return swap_in(write_to, wish, sent(read_from, [*raw, place], cancel=cancel), cancel=cancel)


def swap_in(host: Host, wish: SwapWish, steps: Iterable[bytes], *, cancel: Cancel = never_cancel) -> int:
    """Receive a full stream beside the dataset, then swap. The old one goes last; on a failure before, it is back.

    What was set on the old dataset is set on the new one; nothing is mounted. Raises DiskBusyError.
    """
    beside, before = f"{wish.dataset}-new-{wish.tag}", f"{wish.dataset}-before-{wish.tag}"
    settle_swap(host, wish)
    was_there = host.exists(wish.dataset)
    _refuse_swap(host, wish, was_there)
    mark = wish.disk if wish.create else wish.tag

    def options(head: Head) -> list[str]:
        return as_they_were(host, wish.dataset if was_there else "", is_volume=head.is_volume, mark=mark)

    try:
        count = receive(
            host, beside, steps, options=options, bytes_per_second=wish.bytes_per_second, tell=wish.tell, cancel=cancel
        )
        host.set(beside, OWNER, mark)
        if was_there:
            host.rename(wish.dataset, before)
        try:
            host.rename(beside, wish.dataset)
        except BaseException:
            if was_there:
                host.rename(before, wish.dataset)
            raise
    except BaseException:
        with suppress(DriverError):
            _destroy(host, beside, wish.tag)
        raise
    _finish_swap(host, wish, before if was_there else "")
    return count


def _refuse_swap(host: Host, wish: SwapWish, was_there: bool) -> None:
    if was_there and wish.create:
        raise DiskBusyError(f"There is a dataset {wish.dataset} already. Choose another name.")
    if was_there and host.datasets_below(wish.dataset) != [wish.dataset]:
        raise DiskBusyError(f"There are datasets below {wish.dataset}; a restore would destroy them. Move them first.")


def _finish_swap(host: Host, wish: SwapWish, before: str) -> None:
    """The restore is done; what cannot be tidied now is only in the way. The snapshot that came is the disk's own."""
    for one in host.snapshots(wish.dataset):
        if one.name.startswith(SNAPSHOT_PREFIX):
            with suppress(DriverError):
                host.mark(f"{wish.dataset}@{one.name}", wish.disk)
    try:
        if before:
            _destroy(host, before, wish.tag)
        if not wish.create:
            host.unmark(wish.dataset)
    except DriverError as error:
        logger.warning("what a restore replaced is still there", extra={"dataset": before, "reason": error.message})


def settle_swap(host: Host, wish: SwapWish) -> bool:
    """After an attempt that was killed in its swap: the old one is back, unless the new one is in its place already.

    A new dataset that nobody was told of goes. Whether anything was left; may run at any time but beside that restore.
    """
    beside, before = f"{wish.dataset}-new-{wish.tag}", f"{wish.dataset}-before-{wish.tag}"
    left = False
    if host.exists(before):
        left = True
        if not host.exists(wish.dataset):
            host.rename(before, wish.dataset)
        elif host.own_value(wish.dataset, OWNER) == wish.tag:
            _destroy(host, before, wish.tag)
            host.unmark(wish.dataset)
    if wish.create and host.exists(wish.dataset) and host.own_value(wish.dataset, OWNER) == wish.disk:
        host.destroy_dataset(wish.dataset, disk=wish.disk)
        left = True
    return _destroy(host, beside, wish.tag) or left


def _destroy(host: Host, dataset: str, tag: str) -> bool:
    """What a swap has beside the dataset, by the name that only this swap gives. Whether it was there."""
    if not host.exists(dataset):
        return False
    host.set(dataset, OWNER, tag)
    host.destroy_dataset(dataset, disk=tag)
    return True
