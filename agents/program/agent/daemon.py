"""The agent as a service: one instance, woken by signals and by its mover, ended without anything half done."""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from agents.program.agent.assembling import assemble
from agents.program.agent.errors import EXIT_OK, EXIT_START_ANEW, BusyError
from agents.program.agent.files import only_one
from agents.program.agent.loop import Agent
from agents.program.agent.places import Places, Settings
from agents.program.agent.update import TRIAL_SECONDS, Installation
from agents.program.agent.version import release_number

logger = logging.getLogger(__name__)

_LONGEST_SLEEP_SECONDS = 60.0
_COMMAND_LOOK_SECONDS = 2.0


class Wake:
    """Sleep that a signal or another thread ends."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.ended = False
        self.asked = False

    def up(self) -> None:
        with suppress(OSError):
            os.write(self._write, b".")

    def sleep(self, seconds: float) -> None:
        select.select([self._read], [], [], min(seconds, _LONGEST_SLEEP_SECONDS))
        with suppress(BlockingIOError):
            os.read(self._read, 4096)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the agent; SIGUSR1 has it ask at once."""
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        before = {number: signal.signal(number, self._taken) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def _taken(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.asked = True
        else:
            self.ended = True
        self.up()


def run_daemon(places: Places, settings: Settings) -> int:
    """Until it is told to end: 0; EXIT_START_ANEW for another release. Raises BusyError, NotEnrolledError."""
    wake = Wake()
    try:
        with only_one(places.service_lock), wake.on_signals(), _work_lock(places, wake) as is_ours:
            if not is_ours:
                return 0
            agent = assemble(places, settings, wake.up)
            agent.begin()
            trial = Trial(Installation(Path(settings.programs)), agent)
            try:
                while not wake.ended:
                    if wake.asked:
                        wake.asked = False
                        agent.poll_now()
                    seconds = agent.step()
                    if trial.is_over() or (agent.wants_restart and agent.running is None):
                        return EXIT_START_ANEW
                    wake.sleep(seconds)
            finally:
                agent.end()
    finally:
        wake.close()
    return EXIT_OK


@contextmanager
def _work_lock(places: Places, wake: Wake) -> Iterator[bool]:
    """Held from when the command that does a job itself has ended; False when the service is told to end before.

    Nobody would start the service again after the command: the system was told that there are two of it.
    """
    with ExitStack() as held:
        while not wake.ended:
            try:
                held.enter_context(only_one(places.lock))
            except BusyError as error:
                logger.info("waits for a command", extra={"reason": error.message})
                wake.sleep(_COMMAND_LOOK_SECONDS)
            else:
                yield True
                return
        yield False


class Trial:
    """Whether this is a new release that has to prove itself, or an old one that made place for a new one."""

    def __init__(self, installation: Installation, agent: Agent, *, seconds: float = TRIAL_SECONDS) -> None:
        self._installation = installation
        self._agent = agent
        self._number = release_number() or installation.current
        self._seconds = seconds
        self._began = time.monotonic()
        self._answered_before = agent.memory.last_answer_at
        trial = installation.trial()
        self._is_on = trial is not None and trial.number == self._number
        if (failed := installation.failed()) > agent.memory.failed_release:
            agent.memory.failed_release = failed
            agent.tell_failed_release(failed)

    def is_over(self) -> bool:
        """Whether another release is to be started now."""
        if self._installation.current not in {0, self._number} and self._agent.running is None:
            return True
        if not self._is_on:
            return False
        if self._agent.memory.last_answer_at != self._answered_before:
            self._installation.confirm()
            self._agent.memory.release = self._number
            self._is_on = False
            logger.info("the new release reported in", extra={"number": self._number})
            return False
        if time.monotonic() - self._began < self._seconds or self._agent.running is not None:
            return False
        logger.error("the new release did not reach the control plane", extra={"number": self._number})
        self._is_on = False
        return self._installation.go_back() > 0
