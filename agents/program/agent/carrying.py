"""A job that a person waits for: done by the service where it runs, else by the command itself."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from agents.program.agent import logs
from agents.program.agent.assembling import assemble
from agents.program.agent.daemon import Wake
from agents.program.agent.errors import EXIT_OK, JobFailedError, RefusedError
from agents.program.agent.files import holder, only_one
from agents.program.agent.loop import STOPPED
from agents.program.agent.memory import Memory, load_memory, save_memory
from agents.program.agent.moving import ENDED, MoveEvent
from agents.program.agent.places import Places, Settings
from agents.program.agent.showing import Bar, say, say_json, size
from agents.program.agent.worker import shown

_LOOK_SECONDS = 0.5
# After these the control plane offers the job again, and what was stored is used: its lease ran out while nobody could
# reach it, or the mover was ended.
_TAKEN_UP_AGAIN = frozenset({"session_ended", "mover_ended", "gate_unreachable"})
_AGAIN_SECONDS = 180.0
# The job was just accepted: what is noted of an earlier refusal is gone with the next poll, which comes at once.
_STOPPED_SECONDS = 5.0


class Verdict:
    """Whether an end of the job is its last one, or none will come. Ask as long as it is not under way again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None
        self._stopped_since: float | None = None

    def refuse_stopped(self, memory: Memory) -> None:
        """RefusedError when nothing is offered to this agent any more, so that nothing would ever end."""
        if memory.status not in STOPPED:
            self._stopped_since = None
            return
        if self._stopped_since is None:
            self._stopped_since = self._clock()
        if self._clock() - self._stopped_since >= _STOPPED_SECONDS:
            raise RefusedError(memory.problem or memory.status, code=memory.status)

    def goes_on(self) -> None:
        self._since = None

    def is_final(self, code: str) -> bool:
        if self._since is None:
            self._since = self._clock()
        return code not in _TAKEN_UP_AGAIN or self._clock() - self._since > _AGAIN_SECONDS


def carry_out(
    places: Places, settings: Settings, job: str, kind: str, options: argparse.Namespace, *, wait: bool
) -> int:
    """By the service, or here when it does not run."""
    if not job:
        raise JobFailedError("The control plane gave no job.", code="no_job")
    bar = Bar(quiet=options.json)
    if poke(places, signal.SIGUSR1):
        if not wait:
            if options.json:
                say_json({"job": job, "kind": kind, "done": False})
            else:
                say(f"Asked for: job {job}.")
            return EXIT_OK
        event = _watched(places, job, bar, lambda: holder(places.lock) is not None)
    else:
        event = _here(places, settings, job, bar)
    bar.done()
    if event.code:
        raise JobFailedError(event.message or event.code, code=event.code)
    if options.json:
        moved = {"read_bytes": event.done_bytes, "stored_bytes": event.stored_bytes}
        say_json({"job": job, "kind": kind, "done": True, **moved})
    else:
        say(f"The {kind} is done: {size(event.done_bytes)} moved, {size(event.stored_bytes)} stored.")
        if kind == "backup":
            say("It counts when the control plane has looked at every object; `backupsite-agent list` shows it then.")
    return EXIT_OK


def _watched(places: Places, job: str, bar: Bar, is_alive: Callable[[], bool]) -> MoveEvent:
    verdict = Verdict()
    while True:
        progress = shown(places, job)
        if progress is not None:
            bar.show(progress.event)
            if progress.event.phase != ENDED:
                verdict.goes_on()
            elif verdict.is_final(progress.event.code):
                return progress.event
        verdict.refuse_stopped(load_memory(places))
        if not is_alive():
            raise JobFailedError("The service ended before the job did.", code="service_ended")
        time.sleep(_LOOK_SECONDS)


def _here(places: Places, settings: Settings, job: str, bar: Bar) -> MoveEvent:
    wake, verdict = Wake(), Verdict()
    try:
        with only_one(places.lock), wake.on_signals():
            logs.set_up(places)
            agent = assemble(places, settings, wake.up)
            agent.begin()
            try:
                while not wake.ended:
                    wake.sleep(min(agent.step(), _LOOK_SECONDS))
                    progress = shown(places, job)
                    if progress is not None:
                        bar.show(progress.event)
                    if agent.running is not None:
                        verdict.goes_on()
                        continue
                    verdict.refuse_stopped(agent.memory)
                    done = [one for one in (agent.memory.last_backup, agent.memory.last_restore) if one]
                    for one in done:
                        if one.job == job and verdict.is_final(one.code):
                            return MoveEvent(ENDED, one.read_bytes, 0, one.stored_bytes, one.code, one.message)
            finally:
                agent.end()
                save_memory(places, agent.memory)
    finally:
        wake.close()
    raise KeyboardInterrupt


def poke(places: Places, number: int) -> bool:
    """Whether the service runs; it gets the signal."""
    process = holder(places.lock)
    if process is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(process, number)
        return True
    return False


def say_done(options: argparse.Namespace, text: str) -> None:
    if options.json:
        say_json({"done": True})
    else:
        say(text)
