"""Agents that poll, by the agent program's own client: for `tests.bench.agent_polls`, in processes of their own.

Times in seconds. A poll that fails counts as endless: it makes the figure worthless, and is seen.
"""

from __future__ import annotations

import heapq
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.bench.polling_fleet import MACHINE, Key

# How far apart those are that asked together, when they ask again: `POLL_SPREAD` to both sides.
SPREAD_SECONDS = 12.0


@dataclass(frozen=True, slots=True)
class Plane:
    """Where the gate is, and the key that it answers with."""

    url: str
    control_key: bytes


class Caller:
    """One agent. `hold` is called when its request is signed, and again when there is an answer, not yet checked."""

    def __init__(self, plane: Plane, key: Key, *, hold: Callable[[], object] = lambda: None) -> None:
        from agents.agent_messages import HostFacts
        from agents.program.agent.control import ControlClient, way_to
        from agents.program.agent.identity import Identity
        from agents.program.agent.memory import ControlClock
        from agents.program.agent.tls import read_url
        from engine.crypto import WriterKey

        identity = Identity(plane.url, key.agent_id, "metal", "bench", "enrolled", plane.control_key)
        # A minute lies between two polls of an agent: no connection is left of the one before.
        self._connect, self.hold = partial(way_to, read_url(plane.url)), hold
        self._client = ControlClient(identity, WriterKey(key.private, b""), ControlClock(None), way=self._held)
        self._host = HostFacts("metal", MACHINE, "boot", "Debian 12", "6.1", "x86_64")
        self._policy = self._count = 0
        self.waited = float("inf")

    def _held(self, *request: Any) -> Any:
        way = self._connect()
        self.hold()
        begun = time.monotonic()
        try:
            reply = way(*request)
            self.waited = time.monotonic() - begun
        finally:
            self.hold()
        return reply

    def poll(self) -> int:
        """Seconds until the next one; `waited` is how long it took from connecting to the whole answer."""
        import msgspec

        from agents.agent_messages import AgentPolicy, PollRequest

        self.waited = float("inf")
        # As the program does it: the number only grows, here over the runs of this bench, too.
        self._count = max(self._count + 1, int(time.time() * 1000) - 1_700_000_000_000)
        answer = self._client.poll(PollRequest(self._host, "1.0", self._count, policy_number=self._policy))
        if answer.policy is not None:
            self._policy = msgspec.json.decode(answer.policy.policy, type=AgentPolicy).number
        return answer.next_poll_seconds


def ask_together(plane: Plane, keys: Sequence[Key], gate: Any, told: Any, *, rounds: int, how: str) -> None:
    """A thread for each agent; all begin when the gate opens. Tells, each round, what each poll took, and the
    processor's seconds of this process.

    `whole`: from signing to the checked answer. `prepared`: from connecting to the answer; requests are signed before,
    answers checked when all are there. `spread`: as `whole`, each at some moment of what polls are spread over.
    """
    callers = [Caller(plane, key) for key in keys]
    for _ in range(rounds):
        inner = threading.Barrier(len(keys) + 1)
        signed = threading.Barrier(len(keys) + 1) if how == "prepared" else None
        took: list[float] = []
        threads = [threading.Thread(target=_once, args=(caller, inner, signed, how, took)) for caller in callers]
        for thread in threads:
            thread.start()
        if signed is not None:
            inner.wait()
        gate.wait(120)
        gate.wait(120)
        begun = time.process_time()
        (signed or inner).wait()
        if signed is not None:
            signed.wait()
        cpu = time.process_time() - begun
        for thread in threads:
            thread.join()
        told.put((took, cpu if signed is not None else time.process_time() - begun))


def _once(caller: Caller, begin: Any, signed: Any, how: str, took: list[float]) -> None:
    caller.hold = signed.wait if signed is not None else lambda: None
    begin.wait()
    if how == "spread":
        time.sleep(random.random() * SPREAD_SECONDS)
    begun = time.monotonic()
    try:
        caller.poll()
    except Exception as error:  # whatever it is: a poll that failed makes the figure worthless
        print(f"a poll failed after {time.monotonic() - begun:.2f} s: {error}", file=sys.stderr, flush=True)
        took.append(float("inf"))
        return
    took.append(caller.waited if signed is not None else time.monotonic() - begun)


def ask_in_turn(plane: Plane, keys: Sequence[Key], told: Any, *, seconds: int) -> None:
    """A few threads take whichever agent is due next, as the control plane told it. Tells when each has its policy, and
    `seconds` later how long that was, what each poll took, and by how much it began late."""
    start = time.monotonic()
    due = [(start + random.random() * 60, number) for number in range(len(keys))]
    heapq.heapify(due)
    callers = [Caller(plane, key) for key in keys]
    lock, latencies, late, fresh, end = threading.Lock(), [], [], set(range(len(keys))), [float("inf")]

    def work() -> None:
        while True:
            with lock:
                at, number = heapq.heappop(due)
            if max(at, time.monotonic()) > end[0]:
                return
            time.sleep(max(0.0, at - time.monotonic()))
            begun = time.monotonic()
            wait = callers[number].poll()
            now = time.monotonic()
            with lock:
                heapq.heappush(due, (now + wait, number))
                if fresh:
                    fresh.discard(number)
                    if not fresh:
                        end[0] = now + seconds
                        told.put("all have their policy")
                    continue
                latencies.append(now - begun)
                late.append(begun - at)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.put((time.monotonic() - end[0] + seconds, latencies, late))
