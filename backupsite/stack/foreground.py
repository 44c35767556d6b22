"""Takes the terminal's Ctrl-C away from make, so that `make demo` ends with the launcher's own exit code.

A shell does the same for its jobs: the launcher becomes a process group of its own, in the terminal's foreground.
Without this make is interrupted too and reports an error, though everything was stopped cleanly.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def own_foreground() -> Iterator[None]:
    """Does nothing when this process is not in the foreground of a terminal together with others."""
    if not _shares_foreground():
        yield
        return
    terminal, before = sys.stdin.fileno(), os.getpgrp()
    # Whoever is not in the foreground is stopped for changing it; and nobody could wake a stopped launcher up.
    for number in (signal.SIGTTOU, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    os.setpgid(0, 0)
    os.tcsetpgrp(terminal, os.getpgrp())
    try:
        yield
    finally:
        with suppress(OSError):
            os.tcsetpgrp(terminal, before)


def _shares_foreground() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp() != os.getpid()
    except (OSError, ValueError, AttributeError):
        return False
