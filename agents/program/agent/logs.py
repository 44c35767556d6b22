"""The agent's log: lines of time, level, words and what belongs to them; three files of some megabytes at most."""

from __future__ import annotations

import logging
import logging.handlers
import sys
import time
from pathlib import Path

from agents.program.agent.places import Places
from agents.program.naming_files import plain

_FILE_BYTES = 4 * 1024 * 1024
_FILES = 2
_USUAL = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class _Lines(logging.Formatter):
    converter = time.gmtime  # type: ignore[assignment]  # it takes more than the base asks for

    def format(self, record: logging.LogRecord) -> str:
        """Names of files are among the words, also of an error's: no one of them begins a line of its own."""
        more = " ".join(f"{name}={value!r}" for name, value in record.__dict__.items() if name not in _USUAL)
        line, *rest = super().format(record).split("\n")
        shown = "".join(f"\n    {plain(one)}" for one in rest)
        return f"{plain(line)} {more}".rstrip() + shown


def set_up(places: Places | None) -> None:
    """Into the file of the agent; into standard error when there is none (a mover's goes to the same file)."""
    handler: logging.Handler
    if places is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        places.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        # An installation may have made it; and a log that is begun anew gets the mode that the system gives files.
        places.state.chmod(0o700)
        handler = logging.handlers.RotatingFileHandler(places.log, maxBytes=_FILE_BYTES, backupCount=_FILES)
        places.log.chmod(0o600)
    handler.setFormatter(_Lines("%(asctime)sZ %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


def last_lines(path: Path, count: int) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()[-count * 500 :].splitlines()[-count:]
    except FileNotFoundError:
        return []
