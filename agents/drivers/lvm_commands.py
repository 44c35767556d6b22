"""Thin volumes by LVM's own programs, and what of two of them differs by thin-provisioning-tools.

Every call is an argument list. Names are checked before they are put into one, and what is removed has a name of ours.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from agents.drivers.base import POINT_PREFIX, DiskBusyError, DiskFullError, DiskMissingError, DriverError
from agents.drivers.children import answer, environment

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]*")
_FIELDS = (
    "lv_name,lv_uuid,lv_attr,pool_lv,origin,thin_id,lv_size,lv_active,lv_device_open,data_percent,metadata_percent,"
    "chunk_size,kernel_discards"
)


class LvmError(DriverError):
    """LVM says no, in its own words."""

    code = "lvm_failed"
    permanent = False


class LvmDeniedError(LvmError):
    """LVM wants root."""

    code = "not_permitted"
    permanent = True


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
        told = run("lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", _FIELDS, self.name)
        rows = json.loads(told)["report"][0]["lv"]
        return {row["lv_name"]: _volume(row) for row in rows}

    def device(self, volume: str) -> str:
        return f"{self._devices}/{self.name}/{check_name(volume)}"

    def free_bytes(self) -> int:
        """What no volume has yet."""
        told = run("vgs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", "vg_free", self.name)
        return int(json.loads(told)["report"][0]["vg"][0]["vg_free"])

    def snapshot(self, origin: str, name: str, *, size_bytes: int = 0) -> None:
        """LVM suspends the volume for it, which writes out a file system that is mounted on this machine.

        `size_bytes` is the room of a classic snapshot; a thin one has none of its own.
        """
        size = ["--size", f"{size_bytes}b"] if size_bytes else []
        run("lvcreate", "--yes", "--snapshot", *size, "--name", ours(name), self._whole(origin))

    def activate(self, volume: str) -> None:
        """Also a snapshot, which is otherwise left out when a machine starts."""
        run("lvchange", "--activate", "y", "--ignoreactivationskip", self._whole(volume))

    def deactivate(self, volume: str) -> None:
        run("lvchange", "--activate", "n", self._whole(volume))

    def remove(self, name: str) -> None:
        """Nothing, where it is gone."""
        with suppress(DiskMissingError):
            run("lvremove", "--yes", self._whole(ours(name)))

    def create(self, name: str, pool: str, size_bytes: int) -> None:
        size = ["--virtualsize", f"{size_bytes}b", "--wipesignatures", "n"]
        run("lvcreate", "--yes", "--thin", *size, "--name", check_name(name), self._whole(pool))

    def _whole(self, volume: str) -> str:
        return f"{self.name}/{check_name(volume)}"


def check_name(name: str) -> str:
    if not _NAME.fullmatch(name) or name in {".", ".."}:
        raise DiskMissingError(f"{name!r} is no name of LVM.")
    return name


def ours(name: str) -> str:
    if not name.startswith(POINT_PREFIX):
        raise LvmError(f"{name!r} is no snapshot of ours.")
    return name


def run(*command: str) -> str:
    return answer(*command, explain=explain, env={**environment(), "LVM_SUPPRESS_FD_WARNINGS": "1"})


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
