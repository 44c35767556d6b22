"""Waiting for what may hang (worker threads, a disk, a vault) without becoming deaf to a cancel request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeAlias, TypeVar

from engine.errors import CanceledError

Cancel: TypeAlias = Callable[[], bool]

_Result = TypeVar("_Result")
POLL_SECONDS = 0.2
_ITEMS_AT_ONCE = 1024


def never_cancel() -> bool:
    return False


def check_cancel(cancel: Cancel) -> None:
    if cancel():
        raise CanceledError("canceled on request")


def result_of(future: Future[_Result], cancel: Cancel) -> _Result:
    """The future's result or error; CanceledError soon after `cancel` says so."""
    while not future.done():
        check_cancel(cancel)
        try:
            return future.result(timeout=POLL_SECONDS)
        except TimeoutError:
            # Ours, unless the future is done by now: then it is the result's own, raised again below.
            continue
    return future.result()


class Background:
    """Threads for blocking calls; their owner stays able to notice a cancel.

    Use as a context manager: leaving it does not wait for a call that hangs, so a cancel is quick. Such a call ends
    by itself later, and its result is dropped.
    """

    def __init__(self, *, name: str, cancel: Cancel, threads: int = 1) -> None:
        self._cancel = cancel
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def start(self, function: Callable[[], _Result]) -> Future[_Result]:
        return self._executor.submit(function)

    def result(self, future: Future[_Result]) -> _Result:
        return result_of(future, self._cancel)

    def call(self, function: Callable[[], _Result]) -> _Result:
        return self.result(self.start(function))

    def items(self, iterable: Iterable[_Result]) -> Iterator[_Result]:
        """The same items; taken from the iterable in the background, some at a time."""
        iterator = iter(iterable)
        while part := self.call(lambda: list(islice(iterator, _ITEMS_AT_ONCE))):
            yield from part
