"""The agent while it runs: asks the control plane, begins jobs at their time, and is never in the way of the server."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec

from agents import agent_messages as messages
from agents.agent_messages import AgentPolicy, JobOffer, TreeFacts
from agents.program.agent.conditions import why_paused
from agents.program.agent.control import ControlClient
from agents.program.agent.errors import AgentError, NotTrustedError, PolicyRefusedError, RefusedError, UnreachableError
from agents.program.agent.identity import Identity, save_identity
from agents.program.agent.memory import ControlClock, Memory, Waits
from agents.program.agent.moving import MoveOrder
from agents.program.agent.noting import Notes
from agents.program.agent.pacing import (
    AWAY_SECONDS,
    DEFAULT_POLL_SECONDS,
    STOPPED_POLL_SECONDS,
    Chance,
    after_failure_seconds,
    next_poll_seconds,
    start_in_seconds,
    start_jitter_seconds,
    update_again_seconds,
)
from agents.program.agent.places import Places, Settings
from agents.program.agent.policy import is_open, keep_policy, kept_policy, read_policy, why_closed
from agents.program.agent.worker import Worker

logger = logging.getLogger(__name__)

PENDING = "agent_pending"
STOPPED = frozenset({"agent_revoked", "agent_quarantined"})
_WATCH_SECONDS = 1.0
# Numbers of polls that are kept ahead: none is used twice, whenever the agent is killed, and few are written.
_RESERVED = 100
_LONGEST_REASON = 500


@dataclass(slots=True)
class Waiting:
    """A job that was offered and has not begun. Times are of the monotonic clock.

    `share` is drawn once: by how much of the jitter it is put off. `has_returned`: it came with the first answer after
    the control plane was away for long.
    """

    offer: JobOffer
    share: float
    has_returned: bool
    begins_at: float = math.inf
    why: str = ""


@dataclass(frozen=True, slots=True)
class RefusedUpdate:
    """A release that could not be installed here; the same one is tried again from `again_at` on."""

    manifest: bytes
    refusals: int
    again_at: float
    why: AgentError


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """The world outside, which tests replace."""

    host: Callable[[], messages.HostFacts]
    trees: Callable[[], Sequence[TreeFacts]]
    start: Callable[[MoveOrder], Worker]
    clean: Callable[[], None]
    take_update: Callable[[messages.UpdateOffer], None] = lambda _: None
    monotonic: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    chance: Chance = random.random
    paused: Callable[[AgentPolicy], str] = why_paused
    version: str = ""
    release: int = 0


@dataclass(slots=True)
class Agent:
    """One agent. `step` does what is due and says for how many seconds there is nothing to do."""

    places: Places
    settings: Settings
    identity: Identity
    control: ControlClient
    clock: ControlClock
    memory: Memory
    world: Surroundings
    notes: Notes = field(init=False)
    policy: AgentPolicy | None = None
    waiting: dict[str, Waiting] = field(default_factory=dict)
    running: tuple[JobOffer, Worker] | None = None
    update: messages.UpdateOffer | None = None
    wants_restart: bool = False
    _count: int = 0
    _poll_at: float = 0.0
    _poll_seconds: float = DEFAULT_POLL_SECONDS
    _failures: int = 0
    _away_seconds: float = 0.0
    _trees: list[TreeFacts] = field(default_factory=list)
    # Why the control plane does not offer a job yet.
    _held_back: str = ""
    _refused_update: RefusedUpdate | None = None

    def __post_init__(self) -> None:
        self.notes = Notes(self.places, self.clock, self.memory)

    def begin(self) -> None:
        """What an earlier run left is put away: nothing of it is under way any more."""
        self.world.clean()
        self._count = self.memory.count
        with contextlib.suppress(FileNotFoundError):
            for path in self.places.jobs.iterdir():
                path.unlink()
        try:
            self.policy = kept_policy(self.places, self.identity)
        except PolicyRefusedError as error:
            self.notes.trouble(error)
        if self.policy is not None:
            self._take_pins(self.policy)

    def step(self) -> float:
        self._settle()
        if self.world.monotonic() >= self._poll_at:
            self._poll()
        self._begin_jobs()
        if self.update is not None and self.running is None:
            self._take_update()
        return self._idle_seconds()

    def poll_now(self) -> None:
        self._poll_at = 0.0

    def tell_failed_release(self, number: int) -> None:
        why = f"Release {number} did not start or did not reach the control plane; the one before it runs."
        self.notes.trouble(AgentError(why, code="update_failed"))

    def end(self) -> None:
        """The job under way is ended, not finished: it goes on where it was at the next start."""
        if self.running is not None:
            self.running[1].end()
            self._settle()

    # --- asking -------------------------------------------------------------------------------------------------------

    def _next_count(self) -> int:
        """A number that was never told before, whenever the machine loses its power."""
        self._count += 1
        if self._count > self.memory.count:
            self.memory.count = self._count + _RESERVED - 1
            self.notes.save()
        return self._count

    def _poll(self) -> None:
        count = self._next_count()
        try:
            answer = self.control.poll(self._request(count))
        except (UnreachableError, NotTrustedError) as error:
            self._failures += 1
            pause = after_failure_seconds(self._failures, self._poll_seconds, self.world.chance)
            self._put_off(error, pause)
        except RefusedError as error:
            self.memory.status = error.code
            pause = (
                STOPPED_POLL_SECONDS if error.code in STOPPED else max(self._poll_seconds, error.retry_after_seconds)
            )
            if error.code in STOPPED:
                self._stop_all()
            self._put_off(error, pause)
        else:
            self._take(answer)

    def _request(self, count: int) -> messages.PollRequest:
        self._trees = list(self.world.trees())
        digest = tree_digest(self._trees)
        return messages.PollRequest(
            host=self.world.host(),
            version=self.world.version,
            count=count,
            policy_number=self.policy.number if self.policy is not None else 0,
            jobs=[self.running[0].id] if self.running is not None else [],
            problem_code=self.memory.problem_code,
            problem=self.memory.problem,
            trees=self._trees if digest != self.memory.trees_told else None,
            waits={key: self._why_still(waiting) for key, waiting in self.waiting.items()},
            release=self.world.release,
        )

    def _why_still(self, waiting: Waiting) -> str:
        """Empty when it begins with the next step."""
        if waiting.why or self.running is not None:
            return waiting.why or "Another job is under way."
        left = waiting.begins_at - self.world.monotonic()
        begins = self.clock.now() + timedelta(seconds=left)
        return f"Put off by chance, so that not all servers begin at once: to {begins:%H:%M} UTC." if left > 0 else ""

    def _take(self, answer: messages.PollAnswer) -> None:
        now = self.clock.now()
        last = self.memory.last_answer_at
        away_seconds = (now - last).total_seconds() if last is not None else 0.0
        if away_seconds >= AWAY_SECONDS:
            self._away_seconds = away_seconds
        self._failures = 0
        self.memory.last_answer_at = now
        self.memory.anchor = self.clock.anchor
        self.memory.trees_told = tree_digest(self._trees)
        self.memory.status = "enrolled"
        self.notes.told()
        if answer.policy is not None:
            self._take_policy(answer.policy)
        self._held_back = answer.waiting[:_LONGEST_REASON]
        self._offered(answer.jobs)
        self._canceled(answer.canceled)
        self.update = answer.update
        self._poll_seconds = next_poll_seconds(answer.next_poll_seconds)
        self._poll_at = self.world.monotonic() + self._poll_seconds
        self._away_seconds = 0.0
        self.notes.save()

    def _take_policy(self, signed: messages.SignedPolicy) -> None:
        try:
            policy = read_policy(signed, self.identity, least_number=self.policy.number if self.policy else 0)
        except PolicyRefusedError as error:
            self.notes.trouble(error)
            return
        keep_policy(self.places, signed)
        self.policy = policy
        self._take_pins(policy)

    def _take_pins(self, policy: AgentPolicy) -> None:
        """Those of the newest policy count, none as well: the operator who takes them back can change his key."""
        if policy.tls_pins != self.identity.tls_pins:
            self.identity = msgspec.structs.replace(self.identity, tls_pins=policy.tls_pins)
            save_identity(self.places, self.identity)
            self.wants_restart = True

    def _put_off(self, error: AgentError, seconds: float) -> None:
        self.notes.trouble(error)
        self._poll_at = self.world.monotonic() + seconds

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def _offered(self, offers: Sequence[JobOffer]) -> None:
        """What is offered no more was taken back; what waits already keeps its time, unless a person cannot wait."""
        held, has_returned = self.waiting, self._away_seconds >= AWAY_SECONDS
        busy = self.running[0].id if self.running is not None else ""
        self.waiting = {}
        for offer in offers:
            if offer.id == busy:
                continue
            self.waiting[offer.id] = self._as_held(offer, held.get(offer.id)) or Waiting(
                offer, self.world.chance(), has_returned
            )

    def _as_held(self, offer: JobOffer, before: Waiting | None) -> Waiting | None:
        return None if before is None else dataclasses.replace(before, offer=offer)

    def _canceled(self, jobs: Sequence[str]) -> None:
        if self.running is not None and self.running[0].id in jobs:
            self.running[1].cancel()

    def _begin_jobs(self) -> None:
        now = self.world.monotonic()
        for waiting in self.waiting.values():
            waiting.begins_at = self._begins_at(waiting, now)
        for waiting in sorted(self.waiting.values(), key=lambda one: (not one.offer.begins_at_once, one.begins_at)):
            waiting.why = self._why_not(waiting.offer)
            if self.running is None and now >= waiting.begins_at and not waiting.why:
                del self.waiting[waiting.offer.id]
                self._begin(waiting.offer)
        waits = [Waits(job, one.offer.kind, self._why_still(one)) for job, one in self.waiting.items()]
        self.notes.waits(waits + ([Waits("", "", self._held_back)] if self._held_back else []))

    def _begins_at(self, waiting: Waiting, now: float) -> float:
        """By the policy and the window of now: either may have changed since, or the window have passed unused."""
        if waiting.offer.begins_at_once or self.policy is None:
            return min(waiting.begins_at, now)
        begins_at = now + start_in_seconds(
            self.policy.window,
            now=self.clock.now(),
            jitter_seconds=start_jitter_seconds(self.policy, has_returned=waiting.has_returned),
            share=waiting.share,
        )
        return min(waiting.begins_at, begins_at) if is_open(self.policy.window, self.clock.now()) else begins_at

    def _why_not(self, offer: JobOffer) -> str:
        if offer.begins_at_once or self.policy is None:
            return ""
        return why_closed(self.policy.window, self.clock.now()) or self.world.paused(self.policy)

    def _begin(self, offer: JobOffer) -> None:
        try:
            right = self.control.claim(offer.id, count=self._next_count())
        except AgentError as error:
            # The next poll offers it again where it is still to be done.
            if not isinstance(error, RefusedError) or error.code != "not_found":
                self.notes.trouble(error)
            return
        order = MoveOrder(
            config=str(self.places.config),
            state=str(self.places.state),
            job=offer.id,
            kind=right.kind,
            gate_url=right.gate_url,
            session_token=right.session_token,
            settings=self.settings,
            policy=self.policy,
            anchor=self.clock.anchor,
            may_be_held=not offer.begins_at_once,
        )
        logger.info("job begins", extra={"job": offer.id, "kind": right.kind})
        self.running = (offer, self.world.start(order))

    def _settle(self) -> None:
        if self.running is None:
            return
        offer, worker = self.running
        event = worker.result()
        if event is None:
            return
        self.running = None
        self.notes.outcome(offer, event)
        self.world.clean()
        self.poll_now()

    def _stop_all(self) -> None:
        self.waiting.clear()
        if self.running is not None:
            self.running[1].cancel()

    def _take_update(self) -> None:
        offer, self.update = self.update, None
        if offer is None:
            return
        refused = self._refused_update
        if refused is not None and refused.manifest != offer.manifest:
            refused = None
        if refused is not None and self.world.monotonic() < refused.again_at:
            self.notes.trouble(refused.why)
            return
        try:
            self.world.take_update(offer)
        except AgentError as error:
            self.notes.trouble(error)
            refusals = 1 + (refused.refusals if refused is not None else 0)
            again_at = self.world.monotonic() + update_again_seconds(refusals)
            self._refused_update = RefusedUpdate(offer.manifest, refusals, again_at, error)

    # --- small things -------------------------------------------------------------------------------------------------

    def _idle_seconds(self) -> float:
        now = self.world.monotonic()
        due = [self._poll_at, *(one.begins_at for one in self.waiting.values() if one.begins_at > now)]
        if self.running is not None:
            # Its end wakes the agent; this is for a mover that cannot say so.
            due.append(now + _WATCH_SECONDS)
        return max(0.0, min(due) - now)


def tree_digest(trees: Sequence[TreeFacts]) -> str:
    """Of what matters: how much is used changes all the time."""
    told = [msgspec.structs.replace(tree, used_bytes=tree.used_bytes >> 30) for tree in trees]
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()
