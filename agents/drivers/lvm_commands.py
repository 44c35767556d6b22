"""Thin volumes by LVM's own programs, and what of two of them differs by thin-provisioning-tools.

Every call is an argument list. Names are checked before they are put into one, and what is removed has a name of ours.
"""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.drivers.base import POINT_PREFIX, DiskBusyError, DiskFullError, DiskMissingError, DriverError
from agents.drivers.children import answer, environment, running
from agents.drivers.holding import held_server, standing_for
from engine.scan import Extent

logger = logging.getLogger(__name__)

SECTOR_BYTES = 512
_NAME = re.compile(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]*")
_FIELDS = (
    "lv_name,lv_uuid,lv_attr,pool_lv,origin,thin_id,lv_size,lv_active,lv_device_open,data_percent,metadata_percent,"
    "chunk_size,kernel_discards"
)
_POOL_WAIT_SECONDS = 60.0
# What is only in the older one was discarded since: it reads as zeros now.
_DIFFERENCE = re.compile(r'<(?:different|left_only|right_only) begin="(\d+)" length="(\d+)"')
_MAPPING = re.compile(r'<(?:single_mapping origin_block="(\d+)"|range_mapping origin_begin="(\d+)".* length="(\d+)")')
_BLOCK = re.compile(r'<superblock.* data_block_size="(\d+)"')


class LvmError(DriverError):
    """LVM says no, in its own words."""

    code = "lvm_failed"
    permanent = False


class LvmDeniedError(LvmError):
    """LVM wants root."""

    code = "not_permitted"
    permanent = True


class ChangesUnknownError(LvmError):
    """What is mapped and what differs cannot be told now; everything can still be read."""

    code = "changes_unknown"


@dataclass(frozen=True, slots=True)
class Volume:
    """A row of `lvs`; percentages and `chunk_bytes` of a pool."""

    name: str
    uuid: str
    attributes: str
    pool: str
    origin: str
    thin_id: int
    size_bytes: int
    is_active: bool
    is_open: bool
    data_percent: float
    metadata_percent: float
    chunk_bytes: int
    discards: str

    @property
    def is_pool(self) -> bool:
        return self.attributes.startswith("t")


def explain(words: str, status: int) -> DriverError:
    lines = [line.strip() for line in words.splitlines() if "warning" not in line.lower()]
    told = "; ".join(lines[-2:])[:300] or f"exit status {status}"
    lowered = words.lower()
    if "failed to find logical volume" in lowered or "not found" in lowered:
        return DiskMissingError(f"LVM: {told}")
    if "permission denied" in lowered or "are you root" in lowered or "operation not permitted" in lowered:
        return LvmDeniedError(f"LVM: {told}. The worker has to be root for the driver lvm.")
    if "insufficient free space" in lowered or "out of data space" in lowered:
        return DiskFullError(f"LVM: {told}")
    if "in use" in lowered or "busy" in lowered:
        return DiskBusyError(f"LVM: {told}")
    return LvmError(f"LVM: {told}")


class Group:
    """A volume group by its name, and the folder of its devices."""

    def __init__(self, name: str, devices: str) -> None:
        self.name = check_name(name)
        self._devices = devices

    def volumes(self) -> dict[str, Volume]:
        told = _run("lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", _FIELDS, self.name)
        rows = json.loads(told)["report"][0]["lv"]
        return {row["lv_name"]: _volume(row) for row in rows}

    def device(self, volume: str) -> str:
        return f"{self._devices}/{self.name}/{check_name(volume)}"

    def snapshot(self, origin: str, name: str) -> None:
        """LVM suspends the volume for it, which writes out a file system that is mounted on this machine."""
        _run("lvcreate", "--yes", "--snapshot", "--name", ours(name), self._whole(origin))

    def activate(self, volume: str) -> None:
        """Also a snapshot, which is otherwise left out when a machine starts."""
        _run("lvchange", "--activate", "y", "--ignoreactivationskip", self._whole(volume))

    def deactivate(self, volume: str) -> None:
        _run("lvchange", "--activate", "n", self._whole(volume))

    def remove(self, name: str) -> None:
        """Nothing, where it is gone."""
        with suppress(DiskMissingError):
            _run("lvremove", "--yes", self._whole(ours(name)))

    def create(self, name: str, pool: str, size_bytes: int) -> None:
        size = ["--virtualsize", f"{size_bytes}b", "--wipesignatures", "n"]
        _run("lvcreate", "--yes", "--thin", *size, "--name", check_name(name), self._whole(pool))

    def _whole(self, volume: str) -> str:
        return f"{self.name}/{check_name(volume)}"


class PoolMap:
    """What of thin volumes of one pool is mapped, by the snapshot of its metadata that `reading_pool` holds."""

    def __init__(self, metadata: str) -> None:
        self._metadata = metadata

    def mapped(self, volume: Volume) -> list[Extent]:
        command = ["thin_dump", "--metadata-snap", "--dev-id", str(volume.thin_id), self._metadata]
        return _extents(command, _mapping_of, size_bytes=volume.size_bytes)

    def changed(self, before: Volume, after: Volume) -> list[Extent]:
        ids = ["--thin1", str(before.thin_id), "--thin2", str(after.thin_id)]
        command = ["thin_delta", "--metadata-snap", *ids, self._metadata]
        return _extents(command, _difference_of, size_bytes=after.size_bytes)


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
            _run("dmsetup", "message", f"{mapper}-tpool", "0", "reserve_metadata_snap")
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
            _run("dmsetup", "message", pool_device, "0", "release_metadata_snap")
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
    told = _run("dmsetup", "status", pool_device)
    found = re.search(r"thin-pool \d+ \d+/\d+ \d+/\d+ (\S+)", told)
    if found is None:
        raise ChangesUnknownError(f"dmsetup says of {pool_device}: {told.strip()[:100]}")
    return found[1] != "-"


def check_name(name: str) -> str:
    if not _NAME.fullmatch(name) or name in {".", ".."}:
        raise DiskMissingError(f"{name!r} is no name of LVM.")
    return name


def ours(name: str) -> str:
    if not name.startswith(POINT_PREFIX):
        raise LvmError(f"{name!r} is no snapshot of ours.")
    return name


def _run(*command: str) -> str:
    return answer(*command, explain=explain, env={**environment(), "LVM_SUPPRESS_FD_WARNINGS": "1"})


def _extents(
    command: Sequence[str], range_of: Callable[[str], tuple[int, int] | None], *, size_bytes: int
) -> list[Extent]:
    """Ascending, neighbours put together; the last block may reach beyond the end of the volume."""
    found: list[Extent] = []
    block_bytes = 0
    with running(*command, explain=explain) as child:
        for line in io.TextIOWrapper(child.output, encoding="ascii", errors="replace"):
            if told := _BLOCK.search(line):
                block_bytes = int(told[1]) * SECTOR_BYTES
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


def _volume(row: Mapping[str, Any]) -> Volume:
    return Volume(
        name=row["lv_name"],
        uuid=row["lv_uuid"],
        attributes=row["lv_attr"],
        pool=row["pool_lv"],
        origin=row["origin"],
        thin_id=int(row["thin_id"] or 0),
        size_bytes=int(row["lv_size"]),
        is_active=row["lv_active"].startswith("active"),
        is_open=row["lv_device_open"] == "open",
        data_percent=float(row["data_percent"] or 0),
        metadata_percent=float(row["metadata_percent"] or 0),
        chunk_bytes=int(row["chunk_size"] or 0),
        discards=row["kernel_discards"],
    )


def _doubled(name: str) -> str:
    """As device-mapper writes names."""
    return name.replace("-", "--")
