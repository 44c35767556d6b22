"""Backs up and restores a tree of tiny files in a process of its own, and prints rates and memory.

python -m tests.engine.tree_load FOLDER COUNT [PATH ...]      (restores only these paths, if there are any)
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from engine.chunking import ChunkSizes
from engine.hashing import sha256_hex
from engine.store.base import Buffer, ObjectRef
from tests.engine.chunk_support import NEVER_FRESH, read_tree, write_tree
from tests.engine.support import Vault


class FolderStore:
    """Objects as files, so that the store takes no memory of the process that is measured."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def put(self, *, key: str, data: Buffer, sha256: str) -> ObjectRef:
        assert sha256_hex(data) == sha256
        (self._folder / sha256).write_bytes(data)
        return ObjectRef(key, sha256, len(data), None)

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        with (self._folder / ref.sha256).open("rb") as file:
            file.seek(offset)
            return file.read(-1 if length is None else length)


def make_files(folder: Path, count: int) -> None:
    for number in range(count):
        if not number % 1000:
            part = folder / f"{number // 1000:05d}"
            part.mkdir(parents=True)
        (part / f"file-{number:07d}.txt").write_bytes(b"%d " % number * 20)


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    source, target = folder / "source", folder / "target"
    make_files(source, count)
    target.mkdir()
    vault = Vault(store=FolderStore(folder / "store"))
    steps = []
    started = time.perf_counter()
    first = write_tree(vault, source, sizes=ChunkSizes(), now_ns=NEVER_FRESH, pack_size=16 << 20)
    steps.append(("full", time.perf_counter() - started))
    started = time.perf_counter()
    second = write_tree(vault, source, base=first, sizes=ChunkSizes(), now_ns=NEVER_FRESH, pack_size=16 << 20)
    steps.append(("unchanged", time.perf_counter() - started))
    assert second.write.new_objects == ()
    started = time.perf_counter()
    restored = read_tree(vault, second, target, select=[os.fsencode(path) for path in sys.argv[3:]])
    steps.append((f"restore of {restored.entry_count} entries", time.perf_counter() - started))
    for name, seconds in steps:
        print(f"{name}: {seconds:.1f} s")
    stored = sum(ref.size_bytes for ref in first.write.new_objects)
    print(f"stored {stored} bytes, {stored / count:.0f} per file")
    print(f"peak {_peak_kib() // 1024} MiB")


def _peak_kib() -> int:
    """Of this program. What getrusage tells survives exec, so it may be the peak of whoever started us."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


if __name__ == "__main__":
    os.umask(0o022)
    main()
