"""`make bench-changed-blocks`: a QEMU server's disk by the libvirt driver, into a local store.

All of it, then with 1 % changed, then unchanged, and beside these what reading all of it again costs.

BENCH_DISK_GIB=10 of disk, BENCH_DATA_GIB=4 of it with data. The changes are 64 KiB blocks, the granularity of QEMU's
bitmaps, spread evenly by chance. The last read finds every difference that the bitmaps had missed, and must find none.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from agents.drivers.base import POINT_PREFIX, ReadWish
from agents.drivers.qemu_images import served_image
from engine.crypto import generate_domain_keys, generate_tenant_key, generate_writer_key
from engine.store.base import ObjectRef
from engine.writer import BackupBase, WriteContext, WriteResult, write_disk_backup
from tests.bench.stores import DirectoryStore
from tests.drivers.libvirt_lab import Lab, missing_tools, running_lab

KIB, MIB, GIB = 1024, 1024**2, 1024**3
BLOCK = 64 * KIB
RESULTS = Path("var/bench/changed-blocks.json")
DISK = "disk.qcow2"
LIMITS = {"read_share": 0.011, "stored_share": 0.012, "changed_seconds": 20, "unchanged_seconds": 3}
UNCHANGED_STORED_MAX = 64 * KIB


@dataclass
class Backups:
    """One line of backups of the server's disk. `seconds` are from asking the driver until everything is released."""

    lab: Lab
    server: str
    store: DirectoryStore
    size_bytes: int
    taken: list[ObjectRef] = field(default_factory=list)
    points: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tenant, self._writer = generate_tenant_key(), generate_writer_key()
        self._domain = generate_domain_keys(os.urandom)

    def take(self, *, with_point: bool = True) -> dict[str, float]:
        """`with_point`: the driver is told of the last point, so that it knows what changed."""
        base = self.points[-1] if with_point and self.points else None
        point = f"{POINT_PREFIX}{len(self.taken)}"
        began = time.monotonic()
        with self.lab.driver.open_sources(ReadWish([self.lab.wish(self.server, DISK, base, self.points)], point)) as [
            disk
        ]:
            assert not disk.facts.full_reason, disk.facts.full_reason
            opened = time.monotonic()
            result = self._write(disk.source)
        self.points.append(point)
        self.taken.append(result.manifest)
        return {
            "seconds": time.monotonic() - began,
            "open_seconds": opened - began,
            "read_bytes": result.stats.read_bytes,
            "stored_bytes": result.stats.stored_bytes,
            "changed_bytes": result.stats.changed_bytes,
            "read_share": result.stats.read_bytes / self.size_bytes,
            "stored_share": result.stats.stored_bytes / self.size_bytes,
        }

    def _write(self, source: object) -> WriteResult:
        context = WriteContext(
            tenant="bench",
            domain="server-1",
            source_id="disk-0",
            sequence=len(self.taken) + 1,
            created_at=datetime.now(UTC),
            domain_keys=self._domain,
            tenant_public_key=self._tenant.public,
            writer_key=self._writer,
            random_bytes=os.urandom,
        )
        base = BackupBase(self.taken[-1], self.store) if self.taken else None
        return write_disk_backup(source=source, sink=self.store, base=base, context=context)  # type: ignore[arg-type]  # a BlockSource


def measure(lab: Lab, *, disk_bytes: int, data_bytes: int) -> dict[str, dict[str, float]]:
    """Fill the disk, then back it up four times."""
    chooser = random.Random(20260101)
    path = lab.disk(DISK, disk_bytes)
    places = sorted(chooser.sample(range(disk_bytes // BLOCK), data_bytes // BLOCK))
    _write_blocks(lab, path, places)
    server = lab.server("bench", [DISK])
    lab.start("bench")
    backups = Backups(lab, server, DirectoryStore(lab.folder / "store"), disk_bytes)
    figures = {"full": backups.take()}
    lab.stop("bench")
    _write_blocks(lab, path, sorted(chooser.sample(places, disk_bytes // 100 // BLOCK)))
    lab.start("bench")
    figures["1 % changed"] = backups.take()
    figures["unchanged"] = backups.take()
    figures["unchanged, all read"] = backups.take(with_point=False)
    if figures["unchanged, all read"]["changed_bytes"]:
        raise RuntimeError("the bitmaps missed changes: reading all of the disk found more")
    shutil.rmtree(lab.folder / "store")
    return figures


def _write_blocks(lab: Lab, path: Path, places: list[int]) -> None:
    """New content in each of these blocks: half of it noise, half of it zeros, so that it compresses as files do."""
    with served_image(str(path), "qcow2", folder=str(lab.folder), name="fill", writable=True) as client:
        for place in places:
            client.write(place * BLOCK, os.urandom(BLOCK // 2) + bytes([place % 255 + 1]) * (BLOCK // 2))
        client.flush()


def verdicts(figures: dict[str, dict[str, float]]) -> dict[str, bool]:
    changed, unchanged = figures["1 % changed"], figures["unchanged"]
    return {
        "1 % changed: read at most 1.1 % of the disk": changed["read_share"] <= LIMITS["read_share"],
        "1 % changed: stored at most 1.1 % + 0.1 % map": changed["stored_share"] <= LIMITS["stored_share"],
        "1 % changed: at most 20 s": changed["seconds"] <= LIMITS["changed_seconds"],
        "unchanged: at most 3 s": unchanged["seconds"] <= LIMITS["unchanged_seconds"],
        "unchanged: stored at most 64 KiB": unchanged["stored_bytes"] <= UNCHANGED_STORED_MAX,
    }


def main() -> int:
    if missing := missing_tools():
        raise RuntimeError(f"these packages are missing: {', '.join(missing)}")
    disk_bytes = int(float(os.environ.get("BENCH_DISK_GIB", "10")) * GIB)
    data_bytes = int(float(os.environ.get("BENCH_DATA_GIB", "4")) * GIB)
    with running_lab(parent=tempfile.gettempdir()) as lab:
        figures = measure(lab, disk_bytes=disk_bytes, data_bytes=data_bytes)
    met = verdicts(figures)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    told = {"disk_bytes": disk_bytes, "data_bytes": data_bytes, "backups": figures, "verdicts": met}
    RESULTS.write_text(json.dumps(told, indent=2) + "\n")
    print(
        f"  {disk_bytes / GIB:g} GiB disk, {data_bytes / GIB:g} GiB of data   seconds  to open   read MiB  stored MiB"
    )
    for name, of in figures.items():
        sizes = f"{of['read_bytes'] / MIB:>10.1f} {of['stored_bytes'] / MIB:>11.2f}"
        print(f"  {name:<34} {of['seconds']:>7.2f} {of['open_seconds']:>8.2f} {sizes}")
    for name, is_met in met.items():
        print(f"  {'met' if is_met else 'MISSED':<7} {name}")
    return 0 if all(met.values()) else 1
