"""`python -m backupsite.stack up | demo | smoke`: the stack in the foreground until it is told to end.

Exit codes: 0 done (for smoke: the restored data is identical), 1 failed, 2 nothing was started, 128 + signal for a
smoke run that was ended.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from types import FrameType

from backupsite.stack.errors import StackError
from backupsite.stack.exec_child import die_with_parent
from backupsite.stack.foreground import own_foreground
from backupsite.stack.preflight import GIB
from backupsite.stack.settings import StackSettings
from backupsite.stack.stack import Stack
from backupsite.stack.terminal import Terminal

_NEEDED_BYTES = {"up": GIB, "demo": 4 * GIB, "smoke": 4 * GIB}
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndedError(BaseException):
    """Somebody asked the launcher to end; not an Exception, so that nothing takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m backupsite.stack", description="The embedded stack, in the foreground."
    )
    parser.add_argument(
        "command", choices=sorted(_NEEDED_BYTES), help="up: empty; demo: with sample data; smoke: check and end"
    )
    parser.add_argument("--with-parent", action="store_true", help="for make: end with it, and keep its Ctrl-C")
    options = parser.parse_args(arguments)
    terminal = Terminal()
    try:
        if not options.with_parent:
            return _run(options.command, terminal)
        die_with_parent(os.getppid())
        with own_foreground():
            return _run(options.command, terminal)
    except StackError as error:
        errors = Terminal(sys.stderr)
        for line in error.details:
            errors.line(f"    {line}")
        errors.line(f"{'not started' if error.exit_code == 2 else 'failed'}: {error.message}")
        return error.exit_code


def _run(command: str, terminal: Terminal) -> int:
    stack = Stack(StackSettings.from_environment(os.environ), terminal=terminal, needed_bytes=_NEEDED_BYTES[command])
    _end_on_signals()
    try:
        with stack:
            return _inside(command, stack, terminal)
    except EndedError as ended:
        return 128 + ended.number if command == "smoke" else 0
    finally:
        # The signal may have struck in the middle of the first stop; no further one can.
        stack.stop()


def _inside(command: str, stack: Stack, terminal: Terminal) -> int:
    if command != "up":
        # Only now: what the main job needs is of no use to a plain start.
        from backupsite.stack.demo import run_main_job

        result = run_main_job(stack, terminal, smoke=command == "smoke")
        for line in result.summary:
            terminal.line(f"  {line}")
        if not result.identical:
            raise StackError(result.reason or "the restored data is not identical")
        if command == "smoke":
            return 0
        for login in result.logins:
            terminal.line(f"  {login.role:<24} {login.username:<32} {login.password}")
    terminal.line(f"\n  the portal is at {stack.settings.portal_url}   logs are in {stack.settings.data / 'log'}")
    terminal.line("  Ctrl-C ends it all\n")
    while True:
        time.sleep(3600)


def _end_on_signals() -> None:
    """The first signal raises EndedError, once; later ones are ignored, for stopping must not be interrupted."""

    def end(number: int, _frame: FrameType | None) -> None:
        for ignored in _ENDING_SIGNALS:
            signal.signal(ignored, signal.SIG_IGN)
        raise EndedError(number)

    for number in _ENDING_SIGNALS:
        signal.signal(number, end)


if __name__ == "__main__":
    sys.exit(main())
