"""What the agent keeps of itself for its next start, its next poll, and people who ask."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from agents.agent_messages import JobOffer
from agents.program.agent import memory as remembering
from agents.program.agent.errors import AgentError
from agents.program.agent.memory import ControlClock, Memory, Outcome, Waits
from agents.program.agent.moving import MoveEvent
from agents.program.agent.places import Places
from agents.program.running import CANCELED

logger = logging.getLogger(__name__)

_LONGEST_PROBLEM = 1000
BACKUP = "backup"


@dataclass(slots=True)
class Notes:
    """Writes the memory of one agent."""

    places: Places
    clock: ControlClock
    memory: Memory

    def trouble(self, error: AgentError) -> None:
        """The last one, told with the next poll and shown by `status`."""
        logger.warning("trouble", extra={"code": error.code, "reason": error.message})
        self.memory.problem_code = error.code
        self.memory.problem = error.message[:_LONGEST_PROBLEM]
        self.save()

    def told(self) -> None:
        """The control plane heard of it. Trouble of a job stays until the next one of its kind ends well."""
        jobs = (self.memory.last_backup, self.memory.last_restore)
        if not any(job is not None and job.code and job.code == self.memory.problem_code for job in jobs):
            self.memory.problem_code = self.memory.problem = ""

    def waits(self, waiting: list[Waits]) -> None:
        """What has not begun: written only when it changed."""
        if waiting != self.memory.waiting:
            self.memory.waiting = waiting
            self.save()

    def outcome(self, offer: JobOffer, event: MoveEvent) -> None:
        outcome = Outcome(
            offer.id, offer.kind, self.clock.now(), event.code, event.message, event.stored_bytes, event.done_bytes
        )
        if offer.kind == BACKUP:
            self.memory.last_backup = outcome
        else:
            self.memory.last_restore = outcome
        if event.code and event.code != CANCELED:
            self.trouble(AgentError(event.message, code=event.code))
        logger.info("job ended", extra={"job": offer.id, "code": event.code})
        self.save()

    def save(self) -> None:
        try:
            remembering.save_memory(self.places, self.memory)
        except OSError as error:
            # A full disk is no reason to be silent; after the numbers kept ahead are used up, a person has to look.
            logger.error("the state cannot be kept", extra={"reason": str(error)})
            self.memory.problem_code = "state_unwritable"
            self.memory.problem = f"{self.places.memory} cannot be written: {error.strerror}."
