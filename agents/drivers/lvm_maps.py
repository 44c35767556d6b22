"""What of thin volumes of a pool is mapped and what of two differs, by the one snapshot of the pool's metadata."""

from __future__ import annotations

import io
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agents.drivers.base import DiskBusyError, DriverError
from agents.drivers.children import running
from agents.drivers.holding import held_server, standing_for
from agents.drivers.lvm_commands import Group, LvmError, Volume, explain, run
from engine.scan import Extent

logger = logging.getLogger(__name__)

_SECTOR_BYTES = 512
_POOL_WAIT_SECONDS = 60.0
# What is only in the older one was discarded since: it reads as zeros now.
_DIFFERENCE = re.compile(r'<(?:different|left_only|right_only) begin="(\d+)" length="(\d+)"')
_MAPPING = re.compile(r'<(?:single_mapping origin_block="(\d+)"|range_mapping origin_begin="(\d+)".* length="(\d+)")')
_BLOCK = re.compile(r'<superblock.* data_block_size="(\d+)"')
_DEVICE = re.compile(r'<device dev_id="(\d+)" mapped_blocks="(\d+)"')


class ChangesUnknownError(LvmError):
    """What is mapped and what differs cannot be told now; everything can still be read."""

    code = "changes_unknown"


class PoolMap:
    """What of thin volumes of one pool is mapped, by the snapshot of its metadata that `reading_pool` holds."""

    def __init__(self, metadata: str) -> None:
        self._metadata = metadata

    def mapped(self, volume: Volume) -> list[Extent]:
        """What the pool holds of it; for the rest see `external_origin`.

        Without such a device the dump is empty and its exit status 0: nothing would be read, so it has to name the
        device and tell of as many blocks as it says that there are.
        """
        command = ["thin_dump", "--metadata-snap", "--dev-id", str(volume.thin_id), self._metadata]
        devices: list[tuple[int, int]] = []
        blocks = 0

        def mapping_of(line: str) -> tuple[int, int] | None:
            nonlocal blocks
            if told := _DEVICE.search(line):
                devices.append((int(told[1]), int(told[2])))
            place = _mapping_of(line)
            blocks += place[1] if place else 0
            return place

        found = _extents(command, mapping_of, size_bytes=volume.size_bytes)
        if devices != [(volume.thin_id, blocks)]:
            raise ChangesUnknownError(f"thin_dump does not tell of all blocks of the volume {volume.name}.")
        return found

    def changed(self, before: Volume, after: Volume) -> list[Extent]:
        ids = ["--thin1", str(before.thin_id), "--thin2", str(after.thin_id)]
        command = ["thin_delta", "--metadata-snap", *ids, self._metadata]
        return _extents(command, _difference_of, size_bytes=after.size_bytes)


def external_origin(volumes: Mapping[str, Volume], volume: Volume) -> str:
    """The volume outside of the pool that is read where nothing of this one was written; empty where that is zeros.

    Origins in the same pool are as good as copies, but they may have one. A name that `volumes` does not have (hidden,
    or gone and only remembered) counts as outside.
    """
    one = volume
    for _ in volumes:
        origin = volumes.get(one.origin)
        if origin is None or origin.pool != volume.pool:
            break
        one = origin
    return one.origin


@contextmanager
def reading_pool(group: Group, pool: str) -> Iterator[PoolMap]:
    """The pool's one snapshot of its metadata is ours meanwhile. ChangesUnknownError when it cannot be had."""
    for tool in ("thin_delta", "thin_dump"):
        if shutil.which(tool) is None:
            raise ChangesUnknownError(f"There is no {tool} on this node; install thin-provisioning-tools.")
    mapper = f"{_doubled(group.name)}-{_doubled(pool)}"
    with _held_pool(group, pool) as folder:
        mark = Path(folder, "reserved")
        release_left(f"{mapper}-tpool", mark)
        if _is_reserved(f"{mapper}-tpool"):
            raise ChangesUnknownError(f"Another program holds the snapshot of the metadata of the pool {pool}.")
        mark.touch()
        try:
            run("dmsetup", "message", f"{mapper}-tpool", "0", "reserve_metadata_snap")
            yield PoolMap(f"/dev/mapper/{mapper}_tmeta")
        finally:
            try:
                release_left(f"{mapper}-tpool", mark)
            except DriverError as error:
                logger.warning("the pool's metadata stays reserved", extra={"pool": pool, "reason": error.message})


def release_left(pool_device: str, mark: Path) -> None:
    """What a job of ours reserved; never what somebody else did."""
    if mark.exists():
        if _is_reserved(pool_device):
            run("dmsetup", "message", pool_device, "0", "release_metadata_snap")
        mark.unlink()


def sweep_pool(group: Group, pool: str) -> list[str]:
    """As `release_left`, unless a job reads the pool now."""
    try:
        with held_server(_standing_for_pool(group, pool)) as folder:
            mark = Path(folder, "reserved")
            if not mark.exists():
                return []
            release_left(f"{_doubled(group.name)}-{_doubled(pool)}-tpool", mark)
            return ["metadata_snap"]
    except DiskBusyError:
        return []


@contextmanager
def _held_pool(group: Group, pool: str) -> Iterator[str]:
    """Jobs of other servers read the map of the same pool, for a moment each."""
    end = time.monotonic() + _POOL_WAIT_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                folder = stack.enter_context(held_server(_standing_for_pool(group, pool)))
                break
            except DiskBusyError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
        yield folder


def _standing_for_pool(group: Group, pool: str) -> str:
    return standing_for(f"lvm-pool:{group.name}/{pool}")


def _is_reserved(pool_device: str) -> bool:
    told = run("dmsetup", "status", pool_device)
    found = re.search(r"thin-pool \d+ \d+/\d+ \d+/\d+ (\S+)", told)
    if found is None:
        raise ChangesUnknownError(f"dmsetup says of {pool_device}: {told.strip()[:100]}")
    return found[1] != "-"


def _extents(
    command: Sequence[str], range_of: Callable[[str], tuple[int, int] | None], *, size_bytes: int
) -> list[Extent]:
    """Ascending, neighbours put together; the last block may reach beyond the end of the volume."""
    found: list[Extent] = []
    block_bytes = 0
    with running(*command, explain=explain) as child:
        for line in io.TextIOWrapper(child.output, encoding="ascii", errors="replace"):
            if told := _BLOCK.search(line):
                block_bytes = int(told[1]) * _SECTOR_BYTES
            place = range_of(line)
            if place is None:
                continue
            start, end = place[0] * block_bytes, min((place[0] + place[1]) * block_bytes, size_bytes)
            if found and found[-1].offset + found[-1].length == start:
                start = found.pop().offset
            found.append(Extent(offset=start, length=end - start))
        child.check_complete()
    if not block_bytes:
        raise ChangesUnknownError(f"{command[0]} does not say how large blocks are.")
    return found


def _difference_of(line: str) -> tuple[int, int] | None:
    found = _DIFFERENCE.search(line)
    return (int(found[1]), int(found[2])) if found else None


def _mapping_of(line: str) -> tuple[int, int] | None:
    found = _MAPPING.search(line)
    if found is None:
        return None
    return (int(found[1]), 1) if found[1] else (int(found[2]), int(found[3]))


def _doubled(name: str) -> str:
    """As device-mapper writes names."""
    return name.replace("-", "--")
