"""Snapshots of mounted ZFS datasets for the time of one backup of a server. Names of ours only, held against others.

Datasets of one pool are snapshotted by one call, which ZFS does in one transaction: they are of the same moment.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from agents.drivers.base import DriverError
from agents.drivers.host_mounts import Mount
from agents.drivers.zfs_commands import Host, is_name

logger = logging.getLogger(__name__)

PREFIX = "bs-host-"
_DISK = "host"


def _host() -> Host:
    """This machine, where no shell and no forced command comes in between."""
    return Host(takes_spaces=True)


def can_hold(mount: Mount) -> bool:
    """Whether it may be held still. Cheap: no program is run."""
    return mount.kind == "zfs" and Host().is_there()


@contextmanager
def held_still(datasets: Iterable[str], name: str) -> Iterator[Mapping[str, str]]:
    """Why a dataset could not be held still, in words, by its name; all others have the snapshot PREFIX + `name`."""
    host, pools, refused = _host(), dict[str, list[str]](), dict[str, str]()
    for dataset in sorted(set(datasets)):
        if is_name(dataset, with_spaces=True):
            pools.setdefault(dataset.partition("/")[0], []).append(dataset)
        else:
            refused[dataset] = f"the name {dataset!r} is none that the agent takes"
    with ExitStack() as held:
        for together in pools.values():
            refused |= _made(host, together, f"{PREFIX}{name}", held)
        yield refused


def _made(host: Host, datasets: Sequence[str], snapshot: str, held: ExitStack) -> dict[str, str]:
    """All at once, but for those that ZFS refuses, such as for their quota; one by one where it does not name any."""
    try:
        host.snapshot_together(datasets, snapshot, disk=_DISK)
    except (DriverError, OSError) as error:
        for dataset in datasets:
            with suppress(DriverError, OSError):
                host.destroy_own(dataset, snapshot)
        if len(datasets) == 1:
            return {datasets[0]: str(error).rstrip(".")}
        named = [dataset for dataset in datasets if f"'{dataset}@{snapshot}'" in str(error)]
        others = [dataset for dataset in datasets if dataset not in named]
        groups = [others, *([one] for one in named)] if named and others else [[one] for one in datasets]
        done = [_made(host, group, snapshot, held) for group in groups]
        return {dataset: why for one in done for dataset, why in one.items()}
    for dataset in datasets:
        held.callback(_destroy, host, dataset, snapshot)
    return {}


def _destroy(host: Host, dataset: str, snapshot: str) -> None:
    """One that is still busy is removed by the next start, or by the program that waits for this process."""
    try:
        host.destroy_own(dataset, snapshot)
    except (DriverError, OSError) as error:
        logger.warning("a snapshot stays", extra={"snapshot": f"{dataset}@{snapshot}", "reason": str(error)})


def leftovers_removed(dataset: str) -> Iterator[str]:
    """Names of snapshots of ours, each once it is gone. DriverError. Under a name that we do not take are none."""
    if not is_name(dataset, with_spaces=True):
        return
    host = _host()
    for snapshot in host.snapshots(dataset):
        if snapshot.name.startswith(PREFIX):
            host.destroy_own(dataset, snapshot.name)
            yield f"{dataset}@{snapshot.name}"
