"""`make bench-block-size`: what the size of blocks costs and saves, on the comparison's image with a local store.

One full backup, one after 1 % of the pages changed (with known extents), one restore, for each size; sizes in turn,
several rounds, the best of each figure. `map` is the block map (index segments); record tables lie in the packs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.bench import images
from tests.bench.compare import CHANGED_SHARE, SEED
from tests.bench.inner_loop import scratch_image
from tests.bench.places import LocalPlace
from tests.bench.tools import Ours

KIB, MIB, GIB = 1024, 1024**2, 1024**3
SIZES_KIB = (16, 32, 64, 128, 256, 1024)
RESULTS = Path("var/bench/block-size.json")
_MORE_IS_BETTER = {"restore_mib_per_second"}
_COLUMNS = {
    "full CPU s/GiB": ("full_cpu_seconds_per_gib", 1, 2),
    "stored MiB": ("stored_bytes", MIB, 1),
    "growth MiB": ("growth_bytes", MIB, 2),
    "1 % CPU s": ("changed_cpu_seconds", 1, 2),
    "map KiB": ("map_bytes", KIB, 0),
    "map growth KiB": ("map_growth_bytes", KIB, 0),
    "restore MiB/s": ("restore_mib_per_second", 1, 0),
    "restore CPU s/GiB": ("restore_cpu_seconds_per_gib", 1, 2),
    "peak MiB": ("peak_bytes", MIB, 0),
}


def measure(image: Path, *, rounds: int) -> dict[int, dict[str, float]]:
    """Figures by block size in KiB."""
    allocated = images.allocated_bytes(image)
    patch = images.random_patch(image, share=CHANGED_SHARE, seed=SEED)
    seen: dict[int, list[dict[str, float]]] = defaultdict(list)
    for _ in range(rounds):
        for size in SIZES_KIB:
            with tempfile.TemporaryDirectory(prefix="backupsite-bench-") as folder:
                seen[size].append(_one(image, patch, block_size=size * KIB, scratch=Path(folder), allocated=allocated))
    return {size: {name: _best(name, rows) for name in rows[0]} for size, rows in seen.items()}


def _one(image: Path, patch: images.Patch, *, block_size: int, scratch: Path, allocated: int) -> dict[str, float]:
    place = LocalPlace(scratch / "store")
    tool = Ours(place=place, scratch=scratch, block_size=block_size)
    full = tool.back_up(image, base=None, changed=None)
    stored, full_map = place.stored_bytes(tool.name), _map_bytes(place)
    undo = patch.apply(image)
    try:
        changed = tool.back_up(image, base=0, changed=patch.extents)
    finally:
        undo.apply(image)
    restore = tool.restore(scratch / "restored.img", backup=0)
    if images.sha256_of(scratch / "restored.img") != images.sha256_of(image):
        raise RuntimeError("the restored image differs")
    return {
        "full_cpu_seconds_per_gib": full.cpu_seconds * GIB / allocated,
        "stored_bytes": stored,
        "growth_bytes": place.stored_bytes(tool.name) - stored,
        "changed_cpu_seconds": changed.cpu_seconds,
        "map_bytes": full_map,
        "map_growth_bytes": _map_bytes(place) - full_map,
        "restore_mib_per_second": allocated / MIB / restore.wall_seconds,
        "restore_cpu_seconds_per_gib": restore.cpu_seconds * GIB / allocated,
        "peak_bytes": max(full.peak_bytes, changed.peak_bytes, restore.peak_bytes),
    }


def _map_bytes(place: LocalPlace) -> int:
    return sum(path.stat().st_size for path in place.folder("ours").glob("t/*/d/*/i/*"))


def _best(name: str, rows: list[dict[str, float]]) -> float:
    values = [row[name] for row in rows]
    return max(values) if name in _MORE_IS_BETTER else min(values)


def main() -> int:
    with scratch_image() as told:
        folder = Path(tempfile.mkdtemp(prefix="backupsite-bench-"))
        try:
            # A copy, because pages of it are changed.
            image = folder / "copy.img"
            subprocess.run(["cp", "--sparse=always", str(told), str(image)], check=True)
            figures = measure(image, rounds=int(os.environ.get("BENCH_ROUNDS", "2")))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print("| KiB | " + " | ".join(_COLUMNS) + " |")
    print("| --- |" + " --- |" * len(_COLUMNS))
    for size, row in figures.items():
        cells = [f"{row[name] / unit:.{digits}f}" for name, unit, digits in _COLUMNS.values()]
        print(f"| {size} | " + " | ".join(cells) + " |")
    return 0
