"""Waiting for worker threads without becoming deaf to a cancel request."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeAlias, TypeVar

from engine.errors import CanceledError

Cancel: TypeAlias = Callable[[], bool]

_Result = TypeVar("_Result")
_POLL_SECONDS = 0.2


def never_cancel() -> bool:
    return False


def check_cancel(cancel: Cancel) -> None:
    if cancel():
        raise CanceledError("canceled on request")


def result_of(future: Future[_Result], cancel: Cancel) -> _Result:
    """The future's result or error; CanceledError soon after `cancel` says so."""
    while not future.done():
        check_cancel(cancel)
        wait([future], timeout=_POLL_SECONDS)
    return future.result()
