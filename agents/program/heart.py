"""The heartbeat of a session: tells how far it is, and learns that it was canceled or lost its lease."""

from __future__ import annotations

import logging
import threading
import time

import msgspec

from agents.program.session import GateError, GateUnreachableError, SessionClient
from agents.protocol import Progress

logger = logging.getLogger(__name__)


class Heart:
    """A thread that sends the latest progress; `stopped` turns true when the work must end.

    Only `tell` and the two flags are touched from outside of the thread.
    """

    def __init__(self, *, client: SessionClient, interval_seconds: float) -> None:
        self._client = client
        self._interval_seconds = interval_seconds
        self._progress = Progress(phase="starting")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)
        self.canceled = False
        self.lost = False
        # By the monotonic clock: how long the control plane has been silent.
        self.answered_at = time.monotonic()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns after the last beat. May be called twice."""
        self._ended.set()
        self._thread.join(timeout=self._interval_seconds + 30)

    def tell(self, progress: Progress) -> None:
        """Set what the next beat says."""
        self._progress = progress

    def tell_phase(self, phase: str) -> None:
        """As far as before, in another phase."""
        self._progress = msgspec.structs.replace(self._progress, phase=phase)

    def stopped(self) -> bool:
        """Whether the work must end now: canceled by a person, or no longer ours."""
        return self.canceled or self.lost

    def _beat(self) -> None:
        while not self._ended.wait(self._interval_seconds):
            try:
                self.canceled = self._client.heartbeat(self._progress).cancel or self.canceled
                self.answered_at = time.monotonic()
            except GateUnreachableError:
                # The lease may have run out meanwhile; the next call that gets through says so.
                logger.warning("control plane does not answer the heartbeat")
            except GateError as error:
                logger.warning("session ended by the control plane", extra={"code": error.code})
                self.lost = True
                return
