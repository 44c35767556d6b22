"""Programs of the server's own administrator, run before and after a backup where the policy allows it.

    /etc/backupsite-agent/hooks.d/pre-*    before anything is read; one that fails stops the backup
    /etc/backupsite-agent/hooks.d/post-*   after it, however it ended

Nothing of them comes from the network: no name, no argument, no environment. They belong to root and nobody else may
write them or the folders that they are in; one that does not pass this stops the backup, and is not run.
"""

from __future__ import annotations

import logging
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from agents.drivers.base import DriverError

logger = logging.getLogger(__name__)

_SHOWN = 500
_GRACE_SECONDS = 5
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class HookError(DriverError):
    """A hook failed, ran too long, or is not root's alone."""

    code = "hook_failed"
    permanent = False


@contextmanager
def hooks_around(folder: Path, *, seconds: float, trusted_owner: int = 0) -> Iterator[None]:
    """Run `pre-*` now and `post-*` at the end, each at most `seconds`. Raises HookError for the former.

    All of them see the mounts of the server, and what they mount or unmount is the server's, also when this thread has
    gone into a mount namespace of its own meanwhile: they are started by one that has stayed outside."""
    before, after = (_hooks(folder, kind, trusted_owner) for kind in ("pre-", "post-"))
    with ThreadPoolExecutor(1, "hooks") as outside:
        # It begins now, and not with the first hook there is.
        outside.submit(int).result()
        try:
            for hook in before:
                _run(hook, seconds, outside)
            yield
        finally:
            for hook in after:
                try:
                    _run(hook, seconds, outside)
                except HookError as error:
                    logger.error(error.message)


def _hooks(folder: Path, kind: str, owner: int) -> list[Path]:
    try:
        found = sorted(path for path in folder.iterdir() if path.name.startswith(kind))
    except FileNotFoundError:
        return []
    if found:
        _check(folder, owner)
    for hook in found:
        _check(hook, owner)
        if not hook.is_file() or not os.access(hook, os.X_OK):
            raise HookError(f"The hook {hook} is no program: chmod 0700 it, or take it away.")
    return found


def _check(path: Path, owner: int) -> None:
    """Whoever may write it, or anything on the way to it, is root for us."""
    for one in (path, *path.parents):
        state = one.lstat()
        is_shared = bool(state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)) and not state.st_mode & stat.S_ISVTX
        if state.st_uid not in {0, owner} or is_shared or stat.S_ISLNK(state.st_mode):
            raise HookError(
                f"The hook {path} is not run: {one} must belong to root, be writable by nobody else, and be no link."
            )


def _start(hook: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603  # checked above, without arguments
        [str(hook)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
        cwd="/",
        start_new_session=True,
    )


def _run(hook: Path, seconds: float, outside: ThreadPoolExecutor) -> None:
    try:
        process = outside.submit(_start, hook).result()
    except OSError as error:
        raise HookError(f"The hook {hook.name} cannot be run: {error.strerror}.") from error
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        raise HookError(f"The hook {hook.name} ran longer than {seconds:.0f} seconds and was ended.") from None
    except BaseException:
        _end(process)
        raise
    if process.returncode != 0:
        words = said.decode(errors="replace").strip()[-_SHOWN:]
        raise HookError(
            f"The hook {hook.name} failed with exit code {process.returncode}: {words or 'it said nothing'}"
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_GRACE_SECONDS)
            return
