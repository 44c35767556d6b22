"""`make bench-inner-loop`: the engine alone, its store in memory: what reading, sealing and opening cost by themselves.

The figures are for allocated data: MiB/s of wall time and CPU seconds per GiB, the best of some rounds: noise of the
machine only ever adds. `seal` and `open` are one thread's work on records, `write` and `restore` the whole pipelines.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from agents.drivers.base import DiskAddress, DiskWish, ReadWish
from agents.drivers.image import ImageDriver
from engine.backup import DEFAULT_BLOCK_SIZE
from engine.compression import Compressor
from engine.crypto import generate_domain_keys, generate_tenant_key, generate_writer_key
from engine.envelope import unwrap_envelope
from engine.repository import open_manifest
from engine.restore import RestoreKeys, restore_disk
from engine.sealing import block_sealer
from engine.store.base import Buffer, ObjectKind, ObjectRef
from engine.writer import WriteContext, write_disk_backup
from tests.bench import images

MIB = 1024 * 1024
GIB = 1024 * MIB
RESULTS = Path("var/bench/inner-loop.json")
TENANT, DOMAIN = "bench", "server-1"


class MemoryStore:
    """Keeps what is put; sizes of packs are the only other thing asked of it."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put(self, *, key: str, data: Buffer, sha256: str) -> ObjectRef:
        self.objects[key] = bytes(data)
        return ObjectRef(key, sha256, len(data))

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        return self.objects[ref.key][offset : ref.size_bytes if length is None else offset + length]


class NullTarget:
    """Takes everything, keeps nothing."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def write(self, offset: int, data: bytes) -> None: ...

    def zero(self, offset: int, length: int) -> None: ...

    def flush(self) -> None: ...


class Cost(NamedTuple):
    wall_seconds: float
    cpu_seconds: float


class Vault:
    """Keys and one store for the backups of one image."""

    def __init__(self, image: Path, *, block_size: int, compression_level: int | None = 1) -> None:
        self.store = MemoryStore()
        self._image = image
        self._block_size = block_size
        self._level = compression_level
        self._tenant_key = generate_tenant_key()
        self._writer_key = generate_writer_key()
        self._domain_keys = generate_domain_keys(os.urandom)

    def write(self) -> ObjectRef:
        """A full backup in place of what was there."""
        self.store.objects.clear()
        context = WriteContext(
            tenant=TENANT,
            domain=DOMAIN,
            source_id="disk-0",
            sequence=1,
            created_at=datetime.now(UTC),
            domain_keys=self._domain_keys,
            tenant_public_key=self._tenant_key.public,
            writer_key=self._writer_key,
            random_bytes=os.urandom,
            block_size=self._block_size,
            compression_level=self._level,
        )
        address = DiskAddress(str(self._image.parent), self._image.name, self._image.stat().st_size)
        wish = ReadWish(disks=[DiskWish(address)], new_point="")
        with ImageDriver().open_sources(wish) as [opened]:
            source = opened.source
            return write_disk_backup(source=source, sink=self.store, base=None, context=context).manifest

    def restore(self, manifest: ObjectRef) -> None:
        trusted = [self._writer_key.public]
        info = open_manifest(manifest_ref=manifest, object_source=self.store, trusted_writers=trusted)
        envelope = self.store.get(info.body.object_ref(ObjectKind.KEY, info.body.sessions[0].envelope))
        keys = unwrap_envelope(envelope, tenant_private_key=self._tenant_key.private, tenant=TENANT, domain=DOMAIN)
        restore_disk(
            manifest_ref=manifest,
            object_source=self.store,
            keys=RestoreKeys(domain=keys.domain, data_keys={keys.session.session_id: keys.session.data_key}),
            trusted_writers=trusted,
            target=NullTarget(info.body.size_bytes),
        )


def sealing_cost(blocks: list[bytes]) -> tuple[Cost, Cost]:
    """Sealing with verification, then opening, of the given blocks in one thread."""
    sealer = block_sealer(tenant=TENANT, domain=DOMAIN, id_key=bytes(32), data_key=bytes(range(32)))
    compressor = Compressor(1)
    salt = bytes(16)

    def seal(block: bytes) -> object:
        content_id = sealer.content_id(block)
        return sealer.seal_verified(block, content_id=content_id, salt=salt, compressor=compressor)

    records = [
        sealer.seal(block, content_id=sealer.content_id(block), salt=salt, compressor=compressor) for block in blocks
    ]
    return cost_of(lambda: _each(seal, blocks)), cost_of(lambda: _each(sealer.open, records))


def _each(work: Callable[..., object], items: list[object]) -> None:
    for item in items:
        work(item)


def cost_of(work: Callable[[], object]) -> Cost:
    wall, cpu = time.monotonic(), time.process_time()
    work()
    return Cost(time.monotonic() - wall, time.process_time() - cpu)


@contextmanager
def scratch_image() -> Iterator[Path]:
    """The image of the comparison; BENCH_IMAGE names one that is there already."""
    told = os.environ.get("BENCH_IMAGE")
    if told:
        yield Path(told)
        return
    folder = Path(tempfile.mkdtemp(prefix="backupsite-bench-"))
    try:
        images.make_image(folder / "disk.img")
        yield folder / "disk.img"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def data_blocks(image: Path, *, block_size: int, every: int = 1) -> list[bytes]:
    """Blocks of the image that are not all zeros, each `every`-th of them."""
    found: list[bytes] = []
    zeros = bytes(block_size)
    with image.open("rb") as file:
        for extent in images.allocated_extents(image):
            for offset in range(extent.offset // block_size * block_size, extent.offset + extent.length, block_size):
                data = os.pread(file.fileno(), block_size, offset)
                if data != zeros:
                    found.append(data)
    return found[::every]


def measure(image: Path, *, rounds: int) -> dict[str, float]:
    allocated = images.allocated_bytes(image)
    blocks = data_blocks(image, block_size=DEFAULT_BLOCK_SIZE, every=4)
    sample_bytes = sum(map(len, blocks))
    vault = Vault(image, block_size=DEFAULT_BLOCK_SIZE)
    costs: dict[str, list[tuple[Cost, int]]] = {"write": [], "restore": [], "seal": [], "open": []}
    for _ in range(rounds):
        seal, opening = sealing_cost(blocks)
        manifests: list[ObjectRef] = []
        costs["seal"].append((seal, sample_bytes))
        costs["open"].append((opening, sample_bytes))
        costs["write"].append((cost_of(lambda: manifests.append(vault.write())), allocated))  # noqa: B023  # called at once
        costs["restore"].append((cost_of(lambda: vault.restore(manifests[0])), allocated))  # noqa: B023  # called at once
    figures: dict[str, float] = {}
    for name, values in costs.items():
        figures[f"{name}_mib_per_second"] = max(size / MIB / cost.wall_seconds for cost, size in values)
        figures[f"{name}_cpu_seconds_per_gib"] = min(cost.cpu_seconds * GIB / size for cost, size in values)
    return figures


def main() -> int:
    with scratch_image() as image:
        figures = measure(image, rounds=int(os.environ.get("BENCH_ROUNDS", "3")))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print("  part       MiB/s   CPU s/GiB")
    for name in ("seal", "open", "write", "restore"):
        print(f"  {name:<8} {figures[f'{name}_mib_per_second']:>7.0f} {figures[f'{name}_cpu_seconds_per_gib']:>11.2f}")
    return 0
