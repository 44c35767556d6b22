"""One session while it runs: its gate, its heart, and how every way to fail becomes a stable code."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from agents import protocol
from agents.drivers.base import DriverError, Warned
from agents.program.heart import Heart
from agents.program.naming_files import plain
from agents.program.session import GateError, GateRefusedError, SessionClient, SessionEndedError
from engine.crypto import WriterKey
from engine.errors import CanceledError, EngineError
from engine.waiting import Cancel

logger = logging.getLogger(__name__)

UNEXPECTED = "unexpected_error"
CANCELED = "canceled"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Means:
    """What a mover works with, whatever the session."""

    writer_key: WriterKey
    retry_seconds: float
    random_bytes: Callable[[int], bytes] = field(repr=False)
    # Where the node keeps what only it knows, such as how it reaches other nodes.
    node_directory: Path = Path()
    # The limit of this moment in bytes per second, 0 for none, given that of the work; None: the work's own.
    bandwidth: Callable[[int], int] | None = None
    # Called by the thread that reads, time and again; returns when it may go on, or when what it is given turns true.
    pause: Callable[[Cancel], None] | None = None


class Run:
    """A session from its first beat to its end. What fails is told to the gate at once; other sessions go on."""

    def __init__(self, client: SessionClient, *, interval_seconds: float) -> None:
        self.client = client
        self.heart = Heart(client=client, interval_seconds=interval_seconds)
        self.untold: GateError | None = None
        self.ended = False
        self.heart.start()

    def attempt(self, act: Callable[[], T]) -> T | None:
        """What `act` gives; None when it failed, and the session is over then."""
        if self.ended:
            return None
        try:
            return act()
        except Exception as error:
            self.fail(error)
            return None

    def fail(self, error: Exception) -> None:
        """End the session with what the error says. Does nothing when it has ended."""
        if self.ended:
            return
        failure = failure_of(error)
        if isinstance(error, SessionEndedError):
            self.heart.lost = True
        self.end()
        if failure is None or self.heart.lost:
            return
        try:
            self.client.fail(failure)
        except GateError as untold:
            self.untold = untold

    def end(self) -> None:
        self.ended = True
        self.heart.stop()


def failure_of(error: Exception) -> protocol.Failure | None:
    """Every way to fail has its stable code. None: the gate itself ended the session."""
    if isinstance(error, CanceledError):
        return protocol.Failure(code=CANCELED, message="Canceled.", permanent=True)
    if isinstance(error, SessionEndedError):
        logger.warning("session ended by the control plane", extra={"code": error.code})
        return None
    if isinstance(error, DriverError | EngineError):
        return protocol.Failure(
            code=error.code,
            message=plain(error.message),
            permanent=getattr(error, "permanent", False),
            warnings=warned(getattr(error, "warnings", ())),
            is_whole_but_damage=getattr(error, "is_whole_but_damage", False),
        )
    if isinstance(error, GateError):
        return protocol.Failure(code=error.code, message=error.message, permanent=isinstance(error, GateRefusedError))
    logger.error("session failed unexpectedly", exc_info=error)
    message = f"Unexpected {type(error).__name__}; the node's log has the details."
    return protocol.Failure(code=UNEXPECTED, message=message)


def warned(warnings: Sequence[Warned]) -> list[protocol.WarnedMessage]:
    return [protocol.WarnedMessage(code=one.code, message=plain(one.message)) for one in warnings]


class UsageMeter:
    """Wall time, CPU and peak memory of this process since the meter was made (peak memory: of its whole life)."""

    def __init__(self) -> None:
        self._wall = time.monotonic()
        self._cpu = time.process_time()

    def read(self) -> protocol.MoverUsage:
        return protocol.MoverUsage(
            wall_seconds=time.monotonic() - self._wall,
            cpu_seconds=time.process_time() - self._cpu,
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )
