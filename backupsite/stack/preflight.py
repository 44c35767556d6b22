"""What is checked before anything is started or written; every refusal is one line that says what to do."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from backupsite.stack.errors import PreflightError
from backupsite.stack.ports import Port, is_free
from backupsite.stack.settings import DATA_FOLDERS

GIB = 1024**3
LOCK_NAME = "stack.lock"


class DataLock:
    """At most one stack per data folder; the kernel frees the lock however the launcher ends."""

    def __init__(self, data: Path) -> None:
        self._path = data / LOCK_NAME
        self._descriptor: int | None = None

    def take(self) -> None:
        """Raises PreflightError naming the process that holds it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise PreflightError(
                f"another stack (process {holder}) already runs on the data folder {self._path.parent}; "
                "stop it first, or choose another: BACKUPSITE_DATA=./other make up"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    @property
    def taken(self) -> bool:
        return self._descriptor is not None

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def prepare_data(
    *,
    data: Path,
    ports: Iterable[Port],
    needed_bytes: int,
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
) -> DataLock:
    """Check everything, then make the data folder and return its lock, taken. Raises PreflightError."""
    _check_folder(data)
    lock = DataLock(data)
    try:
        if data.exists():
            lock.take()
        _check_ports(ports)
        _check_space(data, needed_bytes=needed_bytes, free_bytes=free_bytes)
        _make_folders(data)
        if not lock.taken:
            lock.take()
    except BaseException:
        lock.release()
        raise
    return lock


def _check_folder(data: Path) -> None:
    hint = "choose another: BACKUPSITE_DATA=./other make up"
    nearest = _nearest_existing(data)
    if not nearest.is_dir():
        raise PreflightError(f"the data folder {data} cannot be made: {nearest} is not a folder; {hint}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PreflightError(
            f"the data folder {data} cannot be written by this user ({nearest} is not writable); {hint}"
        )
    if nearest != data:
        return
    if data.stat().st_uid != os.geteuid():
        raise PreflightError(f"the data folder {data} belongs to another user (uid {data.stat().st_uid}); {hint}")
    # Its folders get mode 0700: that must never happen to a folder such as / or a home that was named by mistake.
    strangers = sorted({entry.name for entry in data.iterdir()} - {LOCK_NAME, *DATA_FOLDERS})
    if strangers and not (data / LOCK_NAME).exists():
        raise PreflightError(f"the folder {data} holds other things ({strangers[0]}), it is no data folder; {hint}")


def _check_ports(ports: Iterable[Port]) -> None:
    for port in ports:
        if not is_free(port.number):
            raise PreflightError(
                f"port {port.number}, needed for {port.purpose}, is already in use; "
                "choose other ports: BACKUPSITE_PORT=9000 make up"
            )


def _check_space(data: Path, *, needed_bytes: int, free_bytes: Callable[[Path], int]) -> None:
    free = free_bytes(_nearest_existing(data))
    if free < needed_bytes:
        raise PreflightError(
            f"not enough free disk space for {data}: {free / GIB:.1f} GiB free, {needed_bytes / GIB:.1f} GiB needed; "
            "make room, or choose another: BACKUPSITE_DATA=/mnt/big/backupsite make up"
        )


def _make_folders(data: Path) -> None:
    try:
        for folder in (data, *(data / name for name in DATA_FOLDERS)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
    except OSError as error:
        raise PreflightError(f"the data folder {data} cannot be made: {error.strerror}") from error


def _nearest_existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
