"""The one kind of failure the launcher shows to a person."""

from __future__ import annotations


class StackError(Exception):
    """Something a person can act upon: the message is one line; `details` (log lines) are shown before it."""

    exit_code = 1

    def __init__(self, message: str, *, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class PreflightError(StackError):
    """Found before anything was started or written."""

    exit_code = 2
