"""File systems of a guest made quiet for one moment through its agent, and thawed whatever happens.

Three things thaw: the end of the block, a guard process after ten seconds or when this process dies, and the sweep of
leftovers that finds the marker.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from agents.drivers import thaw_guard
from agents.drivers.base import DriverError, Warned
from agents.drivers.guests import Guest, NotFrozenError
from agents.drivers.virsh import HypervisorError

FREEZE_FAILED, THAW_FAILED, NOT_FROZEN = "freeze_failed", "thaw_failed", "freeze_lost"
MARKER = "frozen"
_GUARD_SECONDS = 10.0
_GUARD_TRIES = 30
_THAW_TRIES = 3


class Freeze:
    """What became of a freeze. Complete when the block of `frozen_guest` has ended."""

    def __init__(self) -> None:
        self.held = False
        self.warnings: list[Warned] = []

    def failed(self, code: str, message: str) -> None:
        self.held = False
        self.warnings.append(Warned(code, message))


@contextmanager
def frozen_guest(guest: Guest, folder: str) -> Iterator[Callable[[], Freeze]]:
    """A block to make the point in. Call what it gives when the point is made: it thaws and says how it went.

    Never raises by itself: a backup without a freeze is one as after a power cut, with a warning.
    """
    freeze = Freeze()
    marker = os.path.join(folder, MARKER)
    guard = _start_guard(guest)
    if guard is None:
        freeze.failed(FREEZE_FAILED, "Nothing was frozen: the guard that thaws in any case could not be started.")
        yield lambda: freeze
        return
    with open(marker, "w", encoding="ascii"):
        pass
    must_thaw, ended = _freeze(guest, freeze), False

    def end() -> Freeze:
        nonlocal ended
        if not ended:
            ended = True
            _end(guest, freeze, guard, marker, must_thaw=must_thaw)
        return freeze

    try:
        yield end
    finally:
        end()


def thaw_left(guest_of: Callable[[], Guest], folder: str) -> bool:
    """Thaw what an earlier process left frozen. True when there was a marker."""
    marker = os.path.join(folder, MARKER)
    if not os.path.exists(marker):
        return False
    with suppress(DriverError):
        guest_of().thaw()
    os.unlink(marker)
    return True


def _freeze(guest: Guest, freeze: Freeze) -> bool:
    """True when a thaw is due, which is so also when it is not known whether anything was frozen."""
    try:
        freeze.held = guest.freeze() > 0
    except NotFrozenError as error:
        freeze.failed(FREEZE_FAILED, f"The guest's file systems were not frozen. {error.message}")
        return error.may_be_frozen
    if not freeze.held:
        freeze.failed(FREEZE_FAILED, "The guest's agent found no file system to freeze.")
    return True


def _end(guest: Guest, freeze: Freeze, guard: subprocess.Popen[str], marker: str, *, must_thaw: bool) -> None:
    # Asked right after the point: Windows, for one, ends a freeze by itself.
    if freeze.held and not guest.is_frozen():
        freeze.failed(NOT_FROZEN, "The guest thawed its file systems before the point was made.")
    thawed = not must_thaw or _thaw(guest)
    fired = _dismiss(guard, thawed=thawed)
    if fired and freeze.held:
        freeze.failed(NOT_FROZEN, f"The point was not made within {_GUARD_SECONDS:.0f} s, so the guest was thawed.")
    if thawed:
        os.unlink(marker)
    else:
        freeze.warnings.append(
            Warned(THAW_FAILED, "The guest's file systems could not be thawed at once; the guard goes on trying.")
        )


def _thaw(guest: Guest) -> bool:
    for _ in range(_THAW_TRIES):
        with suppress(HypervisorError):
            guest.thaw()
            return True
    return False


def _start_guard(guest: Guest) -> subprocess.Popen[str] | None:
    told = [str(_GUARD_SECONDS), str(_GUARD_TRIES), *guest.thaw_command()]
    arguments = [sys.executable, "-I", "-S", thaw_guard.__file__, *told]
    try:
        guard = subprocess.Popen(  # noqa: S603  # an argument list without a shell
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
    except OSError:
        return None
    if guard.stdout is not None and guard.stdout.readline() == "ready\n":
        return guard
    _dismiss(guard, thawed=True)
    return None


def _dismiss(guard: subprocess.Popen[str], *, thawed: bool) -> bool:
    """End the guard, or leave it to go on when the thaw failed. True when it had thawed already."""
    with suppress(OSError):
        if guard.stdin is not None:
            if thawed:
                guard.stdin.write("thawed\n")
                guard.stdin.flush()
            guard.stdin.close()
    if guard.stdout is not None:
        guard.stdout.close()
    if not thawed:
        return False
    return guard.wait() != 0
