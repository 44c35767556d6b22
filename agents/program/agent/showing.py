"""What commands print: plain lines for people, one JSON document for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TextIO

from agents.program.agent.moving import MoveEvent

_WIDTH = 30
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def moment(when: datetime | None) -> str:
    return "never" if when is None else f"{when:%Y-%m-%d %H:%M:%S} UTC"


def say(text: str, *, to: TextIO | None = None) -> None:
    # Other machines' words are among it: nothing in them may speak to the terminal.
    plain = "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in text)
    (to or sys.stdout).write(plain + "\n")


def say_json(document: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, indent=2, sort_keys=True, default=_text) + "\n")


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


class Bar:
    """A bar on a terminal, a line at each new phase elsewhere, nothing when `quiet`."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._phase = ""

    def show(self, event: MoveEvent) -> None:
        if self._quiet:
            return
        if not self._stream.isatty():
            if event.phase != self._phase:
                say(event.phase, to=self._stream)
        else:
            self._stream.write(f"\r\x1b[K{_line(event)}")
        self._stream.flush()
        self._phase = event.phase

    def done(self) -> None:
        if not self._quiet and self._stream.isatty() and self._phase:
            self._stream.write("\n")


def _line(event: MoveEvent) -> str:
    share = min(event.done_bytes / event.total_bytes, 1.0) if event.total_bytes else 0.0
    filled = round(share * _WIDTH)
    bar = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {share:4.0%}" if event.total_bytes else ""
    held = f", held: {event.held[:80]}" if event.held else ""
    return f"{event.phase[:40]} {bar} {size(event.done_bytes)} read, {size(event.stored_bytes)} stored{held}"
