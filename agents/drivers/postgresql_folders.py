"""The files of a server are unpacked beside an empty folder, and become it when they are whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agents.drivers.base import (
    POINT_PREFIX,
    DiskAddress,
    DiskFullError,
    DiskMissingError,
    DriverError,
    OpenedOutput,
    TargetFacts,
    WriteWish,
)
from agents.drivers.checked_output import CheckedOutput, NotEmptyError
from agents.drivers.children import answer, running
from agents.drivers.folders import tree_root
from agents.drivers.postgresql_client import PostgresError
from engine.waiting import Cancel

_NEW = f"{POINT_PREFIX}new"
_TAR_MARK, _TAR_MARK_AT = b"ustar", 257


@contextmanager
def folder_output(wish: WriteWish, path: str) -> Iterator[OpenedOutput]:
    """Unpacks the files of a server beside the folder, which they become when they are whole. After an error nothing
    is left. DiskMissingError, DiskBusyError, NotEmptyError; a folder with files is never written over.
    """
    root = _root(wish.address, path)
    _refuse_folder(root)
    new = _beside_folder(root)
    _remove(new)
    try:
        new.mkdir(mode=0o700)
    except OSError as error:
        raise DiskMissingError(f"The folder {new} cannot be made: {error.strerror}.") from error
    try:
        with running(
            *("tar", "--extract", "--file=-", f"--directory={new}"), explain=_explain_tar, takes_bytes=True
        ) as child:
            output = CheckedOutput(
                child,
                is_right=lambda first: first[_TAR_MARK_AT:].startswith(_TAR_MARK),
                refusal="The backup has no files of a server. Restore a dump to a database (path database/NAME).",
            )

            def finish(cancel: Cancel) -> None:
                output.finish(cancel)
                _settle(new, root)

            yield OpenedOutput(output, TargetFacts(), finish)
    finally:
        _remove(new)


def sweep_folder(address: DiskAddress, path: str) -> list[str]:
    new = _beside_folder(_root(address, path))
    if not new.is_dir():
        return []
    _remove(new)
    return [new.name]


def _root(address: DiskAddress, path: str) -> Path:
    root = tree_root(DiskAddress(address.storage_path, path, address.size_bytes))
    if root == tree_root(DiskAddress(address.storage_path, ".", 0)):
        raise DiskMissingError("The files of a server go into a folder of the storage, not into all of it.")
    return root


def _refuse_folder(root: Path) -> None:
    try:
        is_empty = not any(root.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise DiskMissingError(f"The folder {root} cannot be opened: {error.strerror}.") from error
    if not is_empty:
        raise NotEmptyError(f"The folder {root} is not empty. Choose another one, or move what is in it away.")


def _settle(new: Path, root: Path) -> None:
    """Durable before it has its name; its owner is that of the files, which the server asks for."""
    try:
        owner = (new / "PG_VERSION").stat()
        os.chown(new, owner.st_uid, owner.st_gid)
        answer("sync", "--file-system", str(new), explain=_explain_tar, timeout_seconds=3600)
        new.rename(root)
    except OSError as error:
        raise PostgresError(f"The files cannot become {root}: {error.strerror}.") from error


def _explain_tar(words: str, status: int) -> DriverError:
    told = "; ".join(words.splitlines()[-2:])[:300] or f"exit status {status}"
    if "no space left" in words.lower():
        return DiskFullError(f"There is no space left for the files: {told}.")
    return PostgresError(f"The files cannot be unpacked: {told}.")


def _beside_folder(root: Path) -> Path:
    return root.parent / f".{_NEW}.{root.name}"


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
