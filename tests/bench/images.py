"""The image that is backed up: an ext4 file system with real files of this machine, and its change at random pages."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from engine.scan import Extent

MIB = 1024 * 1024
PAGE_BYTES = 4096
IMAGE_BYTES = 3 * 1024 * MIB
FILES_BYTES = 850 * MIB
_LARGEST_FILE_BYTES = 64 * MIB
_FILES_FROM = ("/usr/share", "/usr/lib", "/usr/bin")
_TOOL_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"


def make_image(image: Path, *, size_bytes: int = IMAGE_BYTES, files_bytes: int = FILES_BYTES) -> None:
    """A sparse raw image with ext4 on it. Raises RuntimeError when mke2fs is missing or fails."""
    mke2fs = shutil.which("mke2fs", path=_TOOL_PATH)
    if mke2fs is None:
        raise RuntimeError("mke2fs is missing; install it with: apt-get install e2fsprogs")
    staging = image.with_name("staging")
    try:
        _copy_files(staging, files_bytes)
        with image.open("wb") as file:
            file.truncate(size_bytes)
        arguments = [mke2fs, "-q", "-F", "-t", "ext4", "-L", "bench", "-d", str(staging), str(image)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if done.returncode != 0:
        raise RuntimeError(f"mke2fs failed: {done.stderr.strip()[-200:]}")


def _copy_files(staging: Path, files_bytes: int) -> None:
    copied = 0
    for source in _real_files():
        size = source.stat().st_size
        if copied + size > files_bytes:
            continue
        target = staging / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        copied += size


def _real_files() -> list[Path]:
    """A mixture, not one tree: spread by a hash of the path, the same at every call."""
    found: list[Path] = []
    for root in _FILES_FROM:
        for folder, _, names in os.walk(root):
            for path in (Path(folder, name) for name in names):
                is_plain = not path.is_symlink() and path.is_file() and os.access(path, os.R_OK)
                if is_plain and path.stat().st_size <= _LARGEST_FILE_BYTES:
                    found.append(path)
    return sorted(found, key=lambda path: hashlib.sha256(os.fsencode(path)).digest())


def allocated_extents(image: Path) -> list[Extent]:
    """What the file system says is data: ascending, disjoint."""
    extents: list[Extent] = []
    size = image.stat().st_size
    with image.open("rb") as file:
        offset = 0
        while offset < size:
            try:
                start = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            offset = min(os.lseek(file.fileno(), start, os.SEEK_HOLE), size)
            extents.append(Extent(start, offset - start))
    return extents


def allocated_bytes(image: Path) -> int:
    return sum(extent.length for extent in allocated_extents(image))


@dataclass(frozen=True, slots=True)
class Patch:
    """New content of some pages, by ascending page number."""

    pages: dict[int, bytes]

    @property
    def extents(self) -> list[Extent]:
        return [Extent(page * PAGE_BYTES, len(data)) for page, data in self.pages.items()]

    def apply(self, image: Path) -> Patch:
        """Write the pages and return the patch that undoes it."""
        before: dict[int, bytes] = {}
        with image.open("r+b", buffering=0) as file:
            for page, data in self.pages.items():
                before[page] = os.pread(file.fileno(), len(data), page * PAGE_BYTES)
                os.pwrite(file.fileno(), data, page * PAGE_BYTES)
        return Patch(before)


def random_patch(image: Path, *, share: float, seed: int) -> Patch:
    """Rewrites a share of the allocated pages, chosen uniformly.

    The new content is real, so that it compresses as real data does: bytes of the same image from a place half a page
    off, which no page-aligned block equals.
    """
    chooser = random.Random(seed)
    pages = [page for extent in allocated_extents(image) for page in _whole_pages(extent)]
    chosen = sorted(chooser.sample(pages, max(1, round(len(pages) * share))))
    sources = chooser.choices(pages[:-1], k=len(chosen))
    with image.open("rb") as file:
        read = [os.pread(file.fileno(), PAGE_BYTES, page * PAGE_BYTES + PAGE_BYTES // 2) for page in sources]
    return Patch(dict(zip(chosen, read, strict=True)))


def _whole_pages(extent: Extent) -> range:
    return range(-(-extent.offset // PAGE_BYTES), (extent.offset + extent.length) // PAGE_BYTES)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
