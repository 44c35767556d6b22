"""Keeps the lease of a claimed job while its work goes on in this process, and learns when the work must end.

The thread has a database connection of its own. Only `tell`, `stopped` and the flags are touched from outside of it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Self

from django.db import DatabaseError, connections

from agents.protocol import Progress
from backups.models import Backup, Job
from backups.transitions import Claim, renew_lease

logger = logging.getLogger(__name__)

# Far shorter than a lease; a cancel is noticed with a beat.
BEAT_SECONDS = 1.0


class Heartbeat:
    """`canceled`: a person asked for it. `removed`: the backup left the catalogue. `lost`: another one has the job."""

    def __init__(
        self, *, claim: Claim, clock: Callable[[], datetime], progress: Progress, beat_seconds: float = BEAT_SECONDS
    ) -> None:
        self._claim = claim
        self._clock = clock
        self._progress = progress
        self._beat_seconds = beat_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.canceled = False
        self.removed = False
        self.lost = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def tell(self, progress: Progress) -> None:
        """Set what the next beat says."""
        self._progress = progress

    def stopped(self) -> bool:
        """Whether the work must end now. Needs no database: asked for every block."""
        return self.canceled or self.removed or self.lost

    def beat(self) -> None:
        """Renew the lease, then look whether the work is still wanted."""
        job_id = self._claim.job_id
        if not renew_lease(self._claim, progress=self._progress, now=self._clock()):
            self.lost = True
            return
        self.canceled = Job.objects.filter(pk=job_id, cancel_requested=True).exists()
        self.removed = not Backup.objects.in_catalogue().filter(jobs=job_id).exists()

    def _run(self) -> None:
        try:
            while not self.stopped() and not self._ended.wait(self._beat_seconds):
                self._try_to_beat()
        finally:
            connections.close_all()

    def _try_to_beat(self) -> None:
        """A database that is away for a moment costs a beat; when it comes back too late, the lease is over."""
        try:
            self.beat()
        except DatabaseError:
            logger.warning("a heartbeat was not written", extra={"job": str(self._claim.job_id)}, exc_info=True)
            connections.close_all()
