"""Waiting for a task: by asking, so that no proxy on the way cuts it off. Progress is for a terminal only."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from shutil import get_terminal_size
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
_PENDING = 201


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


def wait_for(client: Client, begun: Answer, *, pause: Pause, screen: TextIO | None) -> Answer:
    """The task's last answer, as if it were the first one's. Raises TransportError when the server stays away."""
    task, failures, looks = begun.text["task_id"], 0, 0
    if screen is not None:
        print(f"Waiting for task {task}", file=screen)
    try:
        while True:
            pause(_STEPS[looks] if looks < len(_STEPS) else _LAST_STEP)
            looks += 1
            now = _look(client, task, screen)
            failures = failures + 1 if now is None else 0
            if failures > _MOST_FAILURES:
                raise TransportError(f"The server does not answer any more. {task_goes_on(task)}")
            if now is not None and now.status != _PENDING:
                return Answer(begun.method, begun.url, now.status, now.text, now.headers)
    finally:
        if screen is not None:
            print(file=screen)


def _look(client: Client, task: str, screen: TextIO | None) -> Answer | None:
    """How the task stands: 201 as long as it goes on. None when the server is away or too busy to say."""
    try:
        now = client.ask("GET", f"/task/{task}")
        if now.status < 400 and not isinstance(now.text, dict):
            # A page of something on the way.
            return None
        if now.status < 400:
            _show(screen, progress(now.text))
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


def progress(told: dict[str, Any]) -> str:
    """`writing, 25 %, 256 of 1024 MiB`."""
    parts = [str(told.get("waits") or told.get("phase") or told.get("state") or "")]
    if told.get("percent") is not None:
        parts.append(f"{told['percent']} %")
    if told.get("total_bytes"):
        done, total = (int(told.get(name) or 0) // 1024**2 for name in ("done_bytes", "total_bytes"))
        parts.append(f"{done} of {total} MiB")
    return ", ".join(part if part.isprintable() else ascii(part) for part in parts if part)
