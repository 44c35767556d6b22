"""A backup under way that waits for better times: on battery, on a metered connection, under load.

Its mover goes on beating, so that the job stays its own; it reads nothing, and what is on its way is sent slowly, so
that no store gives up on it. It looks by itself, and goes on by itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
# What a store takes for somebody who is slow, and not for somebody who is gone.
BYTES_PER_SECOND = 64 * 1024
_NAP_SECONDS = 0.2


class Hold:
    """Whether to hold now, by what `look` says: why, or nothing. Thread-safe; one thread looks, the others go by what
    was seen last."""

    def __init__(
        self,
        look: Callable[[], str],
        *,
        seconds: float = LOOK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._look = look
        self._seconds = seconds
        self._clock = clock
        self._sleep = sleep
        # It was looked at before the backup began.
        self._looked_at = clock()
        self._why = ""
        self._looking = threading.Lock()

    def why(self) -> str:
        """A sentence; empty when nothing is held."""
        if self._clock() - self._looked_at >= self._seconds and self._looking.acquire(blocking=False):
            try:
                self._see(self._look())
            except (OSError, ValueError) as error:
                # What cannot be found out counts as good.
                logger.warning("the machine cannot be looked at", extra={"reason": str(error)})
                self._why = ""
            finally:
                self._looked_at = self._clock()
                self._looking.release()
        return self._why

    def wait(self, is_over: Callable[[], bool]) -> None:
        """Returns when nothing is held any more, or it is over."""
        while self.why() and not is_over():
            self._sleep(_NAP_SECONDS)

    def bytes_per_second(self) -> int:
        """The limit while it is held; 0 for none."""
        return BYTES_PER_SECOND if self.why() else 0

    def _see(self, why: str) -> None:
        if why != self._why:
            logger.info("held" if why else "goes on", extra={"reason": why or self._why})
        self._why = why


def never_held() -> Hold:
    return Hold(str)
