"""Waiting for a task: by asking, so that no proxy on the way cuts it off. Progress is for a terminal only."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TextIO

from backupsite.es_command.client import Answer, Client
from backupsite.es_command.errors import TransportError

Pause = Callable[[float], None]
_TASK = re.compile(r"[0-9A-Za-z._-]{1,64}")
_STEPS = (0.5, 1, 1, 1, 2, 3, 5)
_LAST_STEP = 10
# How often in a row the server may be away, about ten minutes.
_MOST_FAILURES = 60
_BUSY = frozenset({429, 500, 502, 503, 504})


def is_pending(answer: Answer) -> bool:
    return (
        answer.status == 201
        and isinstance(answer.text, dict)
        and answer.text.get("status") == "PENDING"
        and _TASK.fullmatch(str(answer.text.get("task_id"))) is not None
    )


def task_goes_on(task: str) -> str:
    """What a person should know who stops waiting."""
    return f"The task goes on. See: es get /task/{task}/status   End it: es set /task/{task}/cancel"


def wait_for(client: Client, begun: Answer, *, pause: Pause, screen: TextIO | None) -> Answer:
    """The task's last answer, as if it were the first one's. Raises TransportError when the server stays away."""
    task, failures, looks = begun.text["task_id"], 0, 0
    try:
        while True:
            pause(_STEPS[looks] if looks < len(_STEPS) else _LAST_STEP)
            looks += 1
            try:
                now = client.ask("GET", f"/task/{task}")
            except TransportError:
                now = None
            failures = failures + 1 if now is None or now.status in _BUSY else 0
            if failures > _MOST_FAILURES:
                raise TransportError(f"The server does not answer any more. {task_goes_on(task)}")
            if now is None or now.status in _BUSY:
                continue
            _show(screen, task, now.text)
            if now.status >= 400 or _has_ended(now.text):
                return _ended(client, task, begun)
    finally:
        if screen is not None:
            print(file=screen)


def _ended(client: Client, task: str, begun: Answer) -> Answer:
    last = client.ask("GET", f"/task/{task}/status")
    return Answer(begun.method, begun.url, last.status, last.text, last.headers)


def _has_ended(told: Any) -> bool:
    return isinstance(told, dict) and told.get("status") != "PENDING"


def _show(screen: TextIO | None, task: str, told: Any) -> None:
    if screen is not None and isinstance(told, dict):
        screen.write(f"\r\x1b[KWaiting for task {task}: {progress(told)}")
        screen.flush()


def progress(told: dict[str, Any]) -> str:
    """`writing, 25 %, 256 of 1024 MiB`."""
    parts = [str(told.get("waits") or told.get("phase") or told.get("state") or "")]
    if told.get("percent") is not None:
        parts.append(f"{told['percent']} %")
    if told.get("total_bytes"):
        done, total = (int(told.get(name) or 0) // 1024**2 for name in ("done_bytes", "total_bytes"))
        parts.append(f"{done} of {total} MiB")
    return ", ".join(part if part.isprintable() else ascii(part) for part in parts if part)
