"""Waiting for a task: by asking, so that no proxy on the way cuts it off. Progress is for a terminal only."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from shutil import get_terminal_size
from typing import Any, TextIO

from backupsite.es_command.client import Answer, Client
from backupsite.es_command.errors import TransportError

Pause = Callable[[float], None]
Clock = Callable[[], float]
_TASK = re.compile(r"[0-9A-Za-z._-]{1,64}")
_STEPS = (0.5, 1, 1, 1, 2, 3, 5)
_LAST_STEP = 10
# How often in a row the server may be away, about ten minutes.
_MOST_FAILURES = 60
_BUSY = frozenset({429, 500, 502, 503, 504})
_PENDING = 201
_MIB = 1024**2
# A rate is that of the last so many seconds; looks that are closer together than the second number say nothing of it.
_LATELY, _APART = 30, 4


def is_pending(answer: Answer) -> bool:
    return (
        answer.status == _PENDING
        and isinstance(answer.text, dict)
        and answer.text.get("status") == "PENDING"
        and _TASK.fullmatch(str(answer.text.get("task_id"))) is not None
    )


def task_goes_on(task: str) -> str:
    """What a person should know who stops waiting."""
    return f"The task goes on. See: es get /task/{task}/status   End it: es set /task/{task}/cancel"


@dataclass(slots=True)
class Pace:
    """How fast it goes, by what this program saw itself: looks as (seconds of its own clock, bytes)."""

    _looks: list[tuple[float, int]] = field(default_factory=list)
    # Since when nothing moved.
    _moved_at: float = 0.0

    def after(self, told: dict[str, Any], *, at: float) -> str:
        """`6.4 MiB/s, 2:30 left`; empty as long as nothing can be said."""
        done, total = _bytes(told, "done_bytes"), _bytes(told, "total_bytes")
        if not self._looks or done != self._looks[-1][1]:
            self._moved_at = at
        if self._looks and done < self._looks[-1][1]:
            # It began anew.
            self._looks = []
        late = [look for look in self._looks if look[0] >= at - _LATELY]
        # What has taken longer than that between two looks counts from the last one.
        self._looks = [*(late or self._looks[-1:]), (at, done)]
        seconds = at - self._looks[0][0]
        if seconds < _APART:
            return ""
        if done == self._looks[0][1]:
            # When all of it has moved, what was stored is looked at.
            is_still = done and not 0 < total <= done
            return f"nothing moved for {_clock_time(at - self._moved_at)}" if is_still else ""
        rate = (done - self._looks[0][1]) / seconds
        left = f", {_clock_time((total - done) / rate)} left" if total > done else ""
        return f"{rate / _MIB:.1f}".removesuffix(".0") + f" MiB/s{left}"


def _clock_time(seconds: float) -> str:
    """`2:30`, `2:16:24`."""
    text = str(timedelta(seconds=round(seconds)))
    return text.removeprefix("0:").removeprefix("0") if text.startswith("0:") else text


def wait_for(
    client: Client, begun: Answer, *, pause: Pause, screen: TextIO | None, clock: Clock = time.monotonic
) -> Answer:
    """The task's last answer, as if it were the first one's. Raises TransportError when the server stays away."""
    task, failures, looks = begun.text["task_id"], 0, 0
    pace = Pace()
    if screen is not None:
        print(f"Waiting for task {task}", file=screen)
    try:
        while True:
            pause(_STEPS[looks] if looks < len(_STEPS) else _LAST_STEP)
            looks += 1
            now = _look(client, task, lambda told: _show(screen, progress(told, pace.after(told, at=clock()))))
            failures = failures + 1 if now is None else 0
            if failures > _MOST_FAILURES:
                raise TransportError(f"The server does not answer any more. {task_goes_on(task)}")
            if now is not None and now.status != _PENDING:
                return Answer(begun.method, begun.url, now.status, now.text, now.headers)
    finally:
        if screen is not None:
            print(file=screen)


def _look(client: Client, task: str, show: Callable[[dict[str, Any]], None]) -> Answer | None:
    """How the task stands: 201 as long as it goes on. None when the server is away or too busy to say."""
    try:
        now = client.ask("GET", f"/task/{task}")
        if now.status < 400 and not isinstance(now.text, dict):
            # A page of something on the way.
            return None
        if now.status < 400:
            show(now.text)
            goes_on = now.text.get("status") == "PENDING"
            now = replace(now, status=_PENDING) if goes_on else client.ask("GET", f"/task/{task}/status")
    except TransportError:
        return None
    return None if now.status in _BUSY else now


def _show(screen: TextIO | None, text: str) -> None:
    if screen is not None:
        # Beyond the edge it would go on in the next line, and that one is not written over.
        screen.write(f"\r\x1b[K{text[: get_terminal_size().columns - 1]}")
        screen.flush()


def progress(told: dict[str, Any], pace: str = "") -> str:
    """`writing, 25 %, 256 of 1024 MiB, 6.4 MiB/s, 2:00 left`."""
    parts = [str(told.get("waits") or told.get("phase") or told.get("state") or "")]
    if told.get("percent") is not None:
        parts.append(f"{told['percent']} %")
    done, total = (_bytes(told, name) // _MIB for name in ("done_bytes", "total_bytes"))
    if total or done:
        parts.append(f"{done} of {total} MiB" if total else f"{done} MiB")
    parts.append(pace)
    return ", ".join(part if part.isprintable() else ascii(part) for part in parts if part)


def _bytes(told: dict[str, Any], name: str) -> int:
    """0 where the answer has no number."""
    value = told.get(name)
    return value if isinstance(value, int) else 0
