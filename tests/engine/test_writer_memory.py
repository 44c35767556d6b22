"""A disk of a terabyte in little memory and time, measured in a process of its own.

The vault keeps the map on disk and forgets packs. Blocks are cheap to compress on purpose: this is about what the
writer keeps, not about how fast it seals. By hand: `python -m tests.engine.test_writer_memory 200000 FOLDER`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from engine.scan import Extent
from engine.store.base import ObjectRef
from engine.writer import BackupBase, write_disk_backup
from tests.engine.support import Vault

ROOT = Path(__file__).resolve().parents[2]

_BLOCK = 64 * 1024
_DISK = 1 << 40


class ScatteredDisk:
    """Single blocks of data spread evenly over the disk; with `round` each of them gets another content."""

    size_bytes = _DISK

    def __init__(self, block_count: int, *, round_number: int) -> None:
        self._block_count = block_count
        self._round = round_number

    def extents(self) -> Iterator[Extent]:
        step = _DISK // _BLOCK // self._block_count
        return (Extent(number * step * _BLOCK, _BLOCK) for number in range(self._block_count))

    def changed_extents(self) -> Iterator[Extent]:
        return self.extents()

    def read(self, offset: int, length: int) -> bytes:
        return b"%16d%16d" % (self._round, offset) + b"x" * (length - 32)

    def check_unchanged(self) -> None:
        pass


class ForgetfulVault:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.puts: Counter[str] = Counter()

    def put(self, *, key: str, data: bytes, sha256: str) -> ObjectRef:
        kind = key.split("/")[4]
        self.puts[kind] += 1
        if kind in "im":
            (self._folder / sha256).write_bytes(data)
        return ObjectRef(key, sha256, len(data), "v")

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        with open(self._folder / ref.sha256, "rb") as file:
            file.seek(offset)
            return file.read(-1 if length is None else length)


def measure(block_count: int, folder: Path) -> dict[str, float]:
    """A full backup of a quarter of the blocks, then one of all of them, every one changed or new."""
    store = ForgetfulVault(folder)
    context = replace(Vault().context(), block_size=_BLOCK, fan_out=1024, pack_size=16 << 20)
    first = write_disk_backup(
        source=ScatteredDisk(block_count // 4, round_number=0),
        sink=store,
        base=None,
        context=replace(context, sequence=1),
    )
    store.puts.clear()
    started = time.process_time()
    second = write_disk_backup(
        source=ScatteredDisk(block_count, round_number=1),
        sink=store,
        base=BackupBase(first.manifest, store),
        context=replace(context, sequence=2),
    )
    return {
        "cpu_seconds": time.process_time() - started,
        "peak_mib": _peak_mib(),
        "packs": store.puts["p"],
        "segments": store.puts["i"],
        "new_blocks": second.stats.new_blocks,
        "scanned_bytes": second.stats.scanned_bytes,
    }


def _peak_mib() -> float:
    """Of this program alone: ru_maxrss would count the large process that it was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def test_scattered_writes_over_a_terabyte_stay_in_bounds(tmp_path: Path) -> None:
    """One changed block in each of the 16,384 leaves."""
    command = [sys.executable, "-m", "tests.engine.test_writer_memory", "16384", str(tmp_path)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["scanned_bytes"] == _DISK
    assert found["new_blocks"] == 16384
    assert found["peak_mib"] < 256
    assert found["cpu_seconds"] < 60
    # All blocks together compress to less than one pack; leaves that wait must not close packs early.
    assert found["packs"] <= 2
    assert found["segments"] <= 4


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), Path(sys.argv[2]))))
