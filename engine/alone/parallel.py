"""Many small requests at once, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

REQUESTS_AT_ONCE = 8


def ordered_results(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, at_once: int = REQUESTS_AT_ONCE
) -> Iterator[_Result]:
    """function(item) for each item, in their order, with a few calls running ahead of the caller.

    The first exception of a call comes out here. A caller that stops early leaves nothing running for long.
    """
    executor = ThreadPoolExecutor(at_once, thread_name_prefix="request")
    running: deque[Future[_Result]] = deque()
    try:
        for item in items:
            running.append(executor.submit(function, item))
            if len(running) > at_once:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
