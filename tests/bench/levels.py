"""`make bench-levels`: sealing and opening with other zstd levels, and with a cheap test for what does not compress."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from engine.backup import DEFAULT_BLOCK_SIZE
from engine.compression import Compression, Compressor
from engine.sealing import block_sealer
from tests.bench.inner_loop import DOMAIN, GIB, TENANT, cost_of, data_blocks, scratch_image

RESULTS = Path("var/bench/levels.json")
LEVELS = (None, -5, -3, -1, 1, 2, 3)
_PROBE_BYTES = 4096


class ProbingCompressor(Compressor):
    """Tries a few KiB from the middle of the block first, and stores the block as it is when these do not shrink."""

    def compress(self, data: bytes | memoryview) -> tuple[Compression, bytes | memoryview]:
        middle = len(data) // 2
        if super().compress(data[middle : middle + _PROBE_BYTES])[0] is Compression.NONE:
            return Compression.NONE, data
        return super().compress(data)


def measure(blocks: list[bytes], *, rounds: int) -> dict[str, dict[str, float]]:
    """CPU seconds per GiB of sealing (with its verification) and of opening, and stored bytes per plain byte."""
    compressors: dict[str, Compressor] = {f"zstd {level}" if level else "none": Compressor(level) for level in LEVELS}
    compressors["zstd 1, probed"] = ProbingCompressor(1)
    size = sum(map(len, blocks))
    figures: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name, compressor in compressors.items():
            seal_seconds, open_seconds, stored = _one(blocks, compressor)
            row = figures.setdefault(name, {"seal": 1e9, "open": 1e9, "ratio": stored / size})
            row["seal"] = min(row["seal"], seal_seconds * GIB / size)
            row["open"] = min(row["open"], open_seconds * GIB / size)
    return figures


def _one(blocks: list[bytes], compressor: Compressor) -> tuple[float, float, int]:
    sealer = block_sealer(tenant=TENANT, domain=DOMAIN, id_key=bytes(32), data_key=bytes(range(32)))
    salt = bytes(16)
    records = [
        sealer.seal(block, content_id=sealer.content_id(block), salt=salt, compressor=compressor) for block in blocks
    ]

    def seal_all() -> None:
        for block in blocks:
            content_id = sealer.content_id(block)
            sealer.seal_verified(block, content_id=content_id, salt=salt, compressor=compressor)

    def open_all() -> None:
        for record in records:
            sealer.open(record)

    return _cpu(seal_all), _cpu(open_all), sum(len(record.payload) for record in records)


def _cpu(work: Callable[[], object]) -> float:
    return cost_of(work).cpu_seconds


def main() -> int:
    with scratch_image() as image:
        blocks = data_blocks(image, block_size=DEFAULT_BLOCK_SIZE, every=8)
    figures = measure(blocks, rounds=int(os.environ.get("BENCH_ROUNDS", "3")))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print("| compression | seal and verify, CPU s/GiB | open, CPU s/GiB | stored per plain byte |")
    print("| --- | --- | --- | --- |")
    for name, row in figures.items():
        print(f"| {name} | {row['seal']:.2f} | {row['open']:.2f} | {row['ratio']:.3f} |")
    return 0
