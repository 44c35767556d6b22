"""The service beside commands that do a job themselves, and what `status` says of a job's last step."""

from __future__ import annotations

import signal
import threading

from agents.program.agent.files import holder
from agents.program.backing_up import COMMITTING
from tests.agents.program_machine import Machine
from tests.agents.stand_in import eventually


def test_a_service_that_starts_while_a_command_backs_up_goes_on_after_it(machine: Machine) -> None:
    """A second service is refused; told to end while it waits, one ends as ever."""
    gate, may_go_on = machine.plane.gate, threading.Event()
    machine.enrol()
    machine.fill(5)
    gate.before_put = lambda _: 200 if may_go_on.is_set() else 503
    gate.back_up()
    command = machine.start("run")
    eventually(lambda: gate.puts)

    short = machine.start("daemon")
    eventually(lambda: "waits for a command" in machine.log())
    short.send_signal(signal.SIGTERM)
    assert short.wait(30) == 0
    service = machine.start("daemon")
    eventually(lambda: holder(machine.places.service_lock) == service.pid)
    assert "Another instance" in machine.run("daemon", code=8)
    assert service.poll() is None and holder(machine.places.lock) == command.pid

    may_go_on.set()
    assert command.wait(60) == 0 and len(gate.commits) == 1
    eventually(lambda: holder(machine.places.lock) == service.pid)
    polls = len(machine.plane.polls)
    service.send_signal(signal.SIGUSR1)
    eventually(lambda: len(machine.plane.polls) > polls)


def test_status_says_that_the_control_plane_is_still_to_be_told(machine: Machine) -> None:
    gate, knows, asked = machine.plane.gate, threading.Event(), threading.Event()
    answer = gate.answer

    def away(name: str, body: bytes) -> tuple[int, bytes]:
        """From the first commit on, heartbeats too: nothing that is told afterwards arrives."""
        if name == "commit":
            asked.set()
        is_lost = asked.is_set() and not knows.is_set()
        return (503, b"{}") if is_lost and name in {"commit", "heartbeat"} else answer(name, body)

    gate.answer = away  # type: ignore[method-assign]  # a gate that is away
    machine.enrol()
    machine.fill(5)
    machine.start("daemon")
    eventually(lambda: machine.plane.polls)
    gate.back_up()
    machine.run("run", "--no-wait")
    eventually(asked.is_set)

    # The mover writes its phase down after it has asked.
    eventually(lambda: machine.json("status")["running"][0]["phase"] == COMMITTING)
    assert machine.json("status")["last_backup"] is None

    knows.set()
    eventually(lambda: gate.commits)
    eventually(lambda: machine.json("status")["last_backup"])
    said = machine.run("status")
    assert "all sent; it counts when the control plane has looked at it" in said and COMMITTING not in said
