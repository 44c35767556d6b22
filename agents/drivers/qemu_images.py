"""Disk images by QEMU's own tools: what they hold, their bitmaps and snapshots, and serving one over NBD."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agents.drivers.base import POINT_PREFIX, DiskBusyError, DiskFullError, DiskUnreadableError
from agents.drivers.holding import held_server, standing_for
from agents.drivers.nbd import NbdClient
from agents.drivers.nbd_disk import ALLOCATION

_TOOL_SECONDS = 600.0
_START_SECONDS = 30.0
_EXPORT = "disk"
# As libvirt's, and as large as the blocks of a backup.
_GRANULARITY = "65536"


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """`bitmaps` and `snapshots` of the top layer, bitmaps with flags; `lower_bitmaps` are names in the layers below."""

    size_bytes: int
    bitmaps: Mapping[str, frozenset[str]]
    lower_bitmaps: frozenset[str]
    snapshots: frozenset[str]

    def has_sound_bitmap(self, name: str) -> bool:
        """Recording, stored when the image was closed, and not begun before a layer was laid over it."""
        return self.bitmaps.get(name) == frozenset({"auto"}) and name not in self.lower_bitmaps


def image_facts(path: str, image_format: str) -> ImageFacts:
    """Of an image that may be in use. The format is told, never guessed: a guest can write any header to a raw disk."""
    told = _run("qemu-img", "info", "--output=json", "--backing-chain", "-U", "-f", image_format, "--", path)
    layers = json.loads(told)
    bitmaps = [_bitmaps_of(layer) for layer in layers]
    lower = frozenset(name for found in bitmaps[1:] for name in found)
    snapshots = frozenset(str(snapshot["name"]) for snapshot in layers[0].get("snapshots", []))
    return ImageFacts(int(layers[0]["virtual-size"]), bitmaps[0], lower, snapshots)


def add_bitmap(path: str, name: str) -> None:
    _run("qemu-img", "bitmap", "--add", "-g", _GRANULARITY, "-f", "qcow2", "--", path, name)


def remove_bitmap(path: str, name: str) -> None:
    _run("qemu-img", "bitmap", "--remove", "-f", "qcow2", "--", path, name)


def add_snapshot(path: str, name: str) -> None:
    _run("qemu-img", "snapshot", "-c", name, "--", path)


def remove_snapshot(path: str, name: str) -> None:
    _run("qemu-img", "snapshot", "-d", name, "--", path)


def new_image(path: str, image_format: str, size_bytes: int) -> None:
    """Beside and then linked, for qemu-img would write over what is there; it keeps the mode of what it finds."""
    beside = _beside(path)
    if os.path.lexists(path):
        raise DiskBusyError(f"There is a disk image at {path} already. Choose another name.")
    with suppress(FileNotFoundError):
        os.unlink(beside)
    try:
        os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        _create(beside, image_format, size_bytes)
        os.link(beside, path)
    except FileExistsError as error:
        raise DiskBusyError(f"There is a disk image at {path} already. Choose another name.") from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(beside)


def sweep_new_image(path: str, folder: str | None) -> list[str]:
    """What a killed restore to a new disk left that was never taken up again. Nothing while one is at work."""
    removed = []
    with suppress(DiskBusyError), held_server(standing_for(path), folder) as job:
        removed = clear_folder(job)
        with suppress(FileNotFoundError):
            os.unlink(_beside(path))
            removed.append(_beside(path))
    return removed


def create_overlay(path: str, below: str, below_format: str, size_bytes: int) -> None:
    """An empty image over another one that is in use; nothing of that one is opened."""
    _run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", below, "-F", below_format, "--", path, str(size_bytes))


@contextmanager
def served_image(
    path: str, image_format: str, *, folder: str, name: str, writable: bool = False, bitmap: str | None = None
) -> Iterator[NbdClient]:
    """A connection to a server of this image alone, which ends with the connection. It holds QEMU's own locks: a server
    cannot be started with the image meanwhile. `folder` gets socket and process id, named by `name`.
    """
    at, pid_file = os.path.join(folder, f"{name}.socket"), os.path.join(folder, f"{name}.pid")
    mode = ["--discard=unmap", "--detect-zeroes=unmap"] if writable else ["--read-only"]
    chosen = [f"--bitmap={bitmap}"] if bitmap else []
    ends = ["--fork", f"--pid-file={pid_file}", f"--socket={at}", f"--export-name={_EXPORT}"]
    _run("qemu-nbd", *ends, *mode, *chosen, "-f", image_format, "--", path, timeout=_START_SECONDS)
    try:
        contexts = [ALLOCATION, *([bitmap_context(bitmap)] if bitmap else [])]
        client = NbdClient.connect(at, export=_EXPORT, contexts=contexts, name=path)
    except BaseException:
        stop_server(pid_file)
        raise
    try:
        yield client
    finally:
        client.close()
        stop_server(pid_file)
        with suppress(FileNotFoundError):
            os.unlink(at)


def bitmap_context(name: str) -> str:
    return f"qemu:dirty-bitmap:{name}"


def stop_server(pid_file: str) -> bool:
    """End the server that wrote the file, if it still runs, and wait until it has let go of its image."""
    with suppress(OSError, ValueError):
        pid = int(Path(pid_file).read_text(encoding="ascii"))
        if pid_file.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            descriptor = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                _wait_for(descriptor)
            finally:
                os.close(descriptor)
    existed = os.path.exists(pid_file)
    if existed:
        os.unlink(pid_file)
    return existed


def clear_folder(folder: str) -> list[str]:
    """Stop image servers of an ended job and remove its files."""
    removed = []
    for entry in sorted(Path(folder).iterdir()):
        if entry.suffix == ".pid" and stop_server(str(entry)):
            removed.append(str(entry))
        entry.unlink(missing_ok=True)
    return removed


def _beside(path: str) -> str:
    return f"{path}.{POINT_PREFIX}new"


def _wait_for(descriptor: int) -> None:
    select.select([descriptor], [], [], _START_SECONDS)


def _create(path: str, image_format: str, size_bytes: int) -> None:
    _run("qemu-img", "create", "-q", "-f", image_format, "--", path, str(size_bytes))


def _run(*command: str, timeout: float = _TOOL_SECONDS) -> str:
    """What the tool printed. DiskBusyError when another program has the image."""
    try:
        # Programs and options are ours; a path comes after the last option.
        done = subprocess.run(  # noqa: S603  # an argument list without a shell
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C"},
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DiskUnreadableError(f"{command[0]} did not end within {timeout:.0f} s.") from None
    except OSError as error:
        raise DiskUnreadableError(f"{command[0]} cannot be started: {error.strerror}.") from error
    if done.returncode != 0:
        raise _tool_error(command, done.stderr.decode("utf-8", "replace").strip())
    return done.stdout.decode("utf-8", "replace")


def _tool_error(command: Sequence[str], told: str) -> DiskBusyError | DiskFullError | DiskUnreadableError:
    if "lock" in told and "Failed to get" in told:
        return DiskBusyError("The disk image is in use by a running server or another program.")
    if "No space left" in told:
        return DiskFullError(f"There is no space left for {command[0]}.")
    return DiskUnreadableError(f"{command[0]} failed: {told[-300:]}")


def _bitmaps_of(layer: Mapping[str, object]) -> dict[str, frozenset[str]]:
    specific = layer.get("format-specific")
    data = specific.get("data", {}) if isinstance(specific, dict) else {}
    bitmaps = data.get("bitmaps", []) if isinstance(data, dict) else []
    return {str(bitmap["name"]): frozenset(bitmap["flags"]) for bitmap in bitmaps}
