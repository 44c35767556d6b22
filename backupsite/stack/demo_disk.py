"""The demo's disks: a raw image with a real file system of real files, changed and checked with the tools of ext4."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from backupsite.stack.errors import StackError

DISK_SIZE_BYTES = 1024 * 1024 * 1024
_FILES_PART = 0.4
_LARGEST_FILE_BYTES = 48 * 1024 * 1024
_FILES_FROM = ("/usr/share", "/usr/lib", "/usr/bin")
_TOOL_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
_JUNK_BYTES = 256 * 1024
_JUNK_STEP_BYTES = 96 * 1024 * 1024


def check_tools() -> None:
    """Raises StackError when a tool of ext4 is missing."""
    for tool in ("mke2fs", "debugfs", "e2fsck"):
        _tool(tool)


def make_source(image: Path, *, size_bytes: int = DISK_SIZE_BYTES) -> int:
    """Write a raw image with ext4 and this machine's own files in it; returns their bytes. Whole or not at all."""
    staging, beside = image.with_name("staging"), image.with_suffix(".making")
    shutil.rmtree(staging, ignore_errors=True)
    beside.unlink(missing_ok=True)
    try:
        copied = _copy_files(staging, most_bytes=int(size_bytes * _FILES_PART))
        with beside.open("wb") as file:
            file.truncate(size_bytes)
        _run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "demo", "-d", str(staging), str(beside))
        beside.rename(image)
        return copied
    except OSError as error:
        raise StackError(f"the demo's disk cannot be written to {image.parent}: {error.strerror}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        beside.unlink(missing_ok=True)


def make_target(image: Path, *, size_bytes: int = DISK_SIZE_BYTES) -> None:
    """A disk of the same size with old content here and there, which a restore must make disappear."""
    beside = image.with_suffix(".making")
    with beside.open("wb") as file:
        file.truncate(size_bytes)
        for offset in range(0, size_bytes - _JUNK_BYTES, _JUNK_STEP_BYTES):
            file.seek(offset)
            file.write(os.urandom(_JUNK_BYTES))
    beside.rename(image)


def change(image: Path, *, scratch: Path, mark: str) -> None:
    """Add a directory with files to the file system, and remove what an earlier change added and some more."""
    added = scratch / "added"
    added.write_bytes(f"written by the demo at {mark}\n".encode() + os.urandom(3 * 1024 * 1024))
    commands = [f"mkdir /changed-{mark}", f"write {added} /changed-{mark}/random.bin"]
    commands += [f"write {Path(__file__)} /changed-{mark}/text-{number}.txt" for number in range(20)]
    commands += [f"rm {path}" for path in _some_files(image)]
    script = scratch / "debugfs.txt"
    script.write_text("\n".join(commands) + "\n")
    try:
        told = _run("debugfs", "-w", "-f", str(script), str(image))
    finally:
        added.unlink(missing_ok=True)
        script.unlink(missing_ok=True)
    if "random.bin" not in _run("debugfs", "-R", f"ls -l /changed-{mark}", str(image)):
        raise StackError(f"the demo's disk could not be changed: {told.strip()[-200:]}")


def check_file_system(image: Path) -> None:
    """Raises StackError unless the file system on the image is clean. Writes nothing."""
    _run("e2fsck", "-fn", str(image))


def sha256_of(image: Path) -> str:
    with image.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def allocated_bytes(image: Path) -> int:
    return image.stat().st_blocks * 512


def _some_files(image: Path, count: int = 5) -> list[str]:
    """Paths of a few plain files of the file system, as debugfs lists them."""
    listing = _run("debugfs", "-R", "ls -p /files", str(image)).splitlines()
    names = [line.split("/")[5] for line in listing if line.count("/") >= 6 and line.split("/")[2].startswith("100")]
    return [f"/files/{name}" for name in sorted(names)[:count]]


def _copy_files(staging: Path, *, most_bytes: int) -> int:
    """Trees of real files up to the wanted size, and a flat folder of small ones to remove later."""
    (staging / "files").mkdir(parents=True)
    copied = number = 0
    for source in _real_files():
        size = source.stat().st_size
        if copied + size > most_bytes:
            break
        target = staging / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        if number < 200 and 0 < size < 64 * 1024:
            shutil.copyfile(source, staging / "files" / f"{number:03d}")
            number += 1
        copied += size
    return copied


def _real_files() -> list[Path]:
    found: list[Path] = []
    for root in _FILES_FROM:
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder, name)
                if not path.is_symlink() and path.is_file() and os.access(path, os.R_OK):
                    found.append(path)
    # A mixture, not one tree: spread by a hash of the path, the same at every call.
    found.sort(key=lambda path: hashlib.sha256(os.fsencode(path)).digest())
    return [path for path in found if path.stat().st_size <= _LARGEST_FILE_BYTES]


def _tool(name: str) -> str:
    path = shutil.which(name, path=_TOOL_PATH)
    if path is None:
        raise StackError(f"{name} is missing; install it with: apt-get install e2fsprogs")
    return path


def _run(name: str, *arguments: str) -> str:
    done = subprocess.run([_tool(name), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise StackError(f"{name} failed with exit code {done.returncode}: {said[-1] if said else 'it said nothing'}")
    return done.stdout + done.stderr
