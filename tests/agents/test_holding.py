"""A backup under way that waits while the machine has better things to do: held, said, and gone on with by itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from agents import protocol
from agents.agent_messages import JobOffer
from agents.program.agent import conditions
from agents.program.agent.conditions import is_metered, why_paused
from agents.program.agent.files import only_one
from agents.program.agent.holding import BYTES_PER_SECOND, LOOK_SECONDS, Hold
from agents.program.agent.memory import ControlClock
from agents.program.agent.moving import (
    ENDED,
    AgentSession,
    MoveEvent,
    MoveOrder,
    hold_of,
    limit_now,
)
from agents.program.agent.places import Settings
from agents.program.agent.worker import MovingProcess
from agents.program.backing_up import COMMITTING
from agents.program.session import SessionClient
from tests.agents.program_machine import Machine
from tests.agents.stand_in import ControlPlane, eventually
from tests.agents.test_program_loop import POLICY, World

METERED = msgspec.structs.replace(POLICY, pause_on_battery=False, start_jitter_seconds=0)
WHY = "The connection is metered."


class Looks:
    """What is seen, on a clock of ours."""

    def __init__(self) -> None:
        self.why = ""
        self.count = 0
        self.seconds = 0.0
        self.hold = Hold(self.look, clock=lambda: self.seconds, sleep=self.sleep)
        self.slept: list[float] = []
        self.when_asleep: Callable[[], None] = lambda: None

    def look(self) -> str:
        self.count += 1
        return self.why

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds
        self.when_asleep()


def test_it_is_looked_at_every_half_minute_and_not_more_often() -> None:
    looks = Looks()
    looks.why = WHY
    for seconds in (0.0, 15.0, LOOK_SECONDS - 0.1):
        looks.seconds = seconds
        assert looks.hold.why() == ""
    assert looks.count == 0 and looks.hold.bytes_per_second() == 0

    looks.seconds = LOOK_SECONDS
    assert looks.hold.why() == WHY and looks.hold.bytes_per_second() == BYTES_PER_SECOND
    looks.why = ""
    looks.seconds += LOOK_SECONDS - 1
    assert looks.hold.why() == WHY and looks.count == 1
    looks.seconds += 1
    assert looks.hold.why() == "" and looks.count == 2


def test_who_reads_waits_until_nothing_is_held_or_it_is_over() -> None:
    looks = Looks()
    looks.hold.wait(lambda: False)
    assert looks.slept == []
    looks.why, looks.seconds = WHY, LOOK_SECONDS

    def is_better() -> None:
        looks.why = "" if looks.seconds > 100 else WHY

    looks.when_asleep = is_better
    looks.hold.wait(lambda: False)
    assert 100 < looks.seconds <= 100 + LOOK_SECONDS + 1 and max(looks.slept) <= 0.5

    looks.why, looks.when_asleep = WHY, lambda: None
    began = looks.seconds = looks.seconds + LOOK_SECONDS
    looks.hold.wait(lambda: looks.seconds > began + 3)
    assert began + 3 < looks.seconds < began + 4


def test_others_do_not_wait_for_the_one_that_looks() -> None:
    may_end, looked = threading.Event(), threading.Event()

    def look() -> str:
        looked.set()
        may_end.wait(20)
        return WHY

    hold = Hold(look, seconds=0)
    thread = threading.Thread(target=hold.why)
    thread.start()
    assert looked.wait(20)
    assert hold.why() == ""
    may_end.set()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize("error", [OSError("gone"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")])
def test_what_cannot_be_found_out_holds_nothing(error: Exception) -> None:
    def look() -> str:
        raise error

    assert Hold(look, seconds=0).why() == ""


def test_only_a_backup_that_nobody_asked_for_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.program.agent.moving.why_paused", lambda policy: WHY)
    order = MoveOrder("", "", "job-1", "backup", "", "", Settings(), POLICY, may_be_held=True, look_seconds=0.0)
    assert hold_of(order).why() == WHY
    for changes in ({"kind": "restore"}, {"may_be_held": False}, {"policy": None}):
        assert hold_of(msgspec.structs.replace(order, **changes)).why() == ""

    clock = ControlClock(None)
    assert limit_now(order, clock, hold_of(order), 10_000_000) == BYTES_PER_SECOND
    assert limit_now(order, clock, hold_of(order), 1000) == 1000

    world = World(tmp_path)
    world.plane.offers += [JobOffer("job-1", "backup"), JobOffer("job-2", "backup", begins_at_once=True)]
    world.pass_time(1)
    world.movers[0].event = MoveEvent(ENDED)
    world.pass_time(400)
    assert {mover.order.job: mover.order.may_be_held for mover in world.movers} == {"job-1": True, "job-2": False}
    assert {mover.order.look_seconds for mover in world.movers} == {LOOK_SECONDS}


def test_the_gate_is_told_and_so_are_people(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, told = Looks(), []
    plane = ControlPlane().start()
    try:
        plane.gate.back_up()
        order = MoveOrder("", "", "job-1", "backup", plane.url, "t", Settings(), retry_seconds=0.0)
        session = AgentSession(order, told.append, pins=[], control_key=plane.key.public, hold=looks.hold)
        beat = protocol.Progress("copying", 5, 10, 3)
        session.heartbeat(beat)
        looks.why, looks.seconds = WHY, LOOK_SECONDS
        session.heartbeat(beat)
    finally:
        plane.stop()

    assert [one.phase for one in plane.gate.beats] == ["copying", "held"]
    assert told == [MoveEvent("copying", 5, 10, 3), MoveEvent("copying", 5, 10, 3, held=WHY)]
    assert [(one.done_bytes, one.stored_bytes) for one in plane.gate.beats] == [(5, 3), (5, 3)]


def test_a_beat_from_before_the_commit_is_not_told_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate is away, and the heart tries for minutes to tell it what it had read until then."""
    told: list[MoveEvent] = []
    for name in ("heartbeat", "commit"):
        monkeypatch.setattr(SessionClient, name, lambda *_: None)
    order = MoveOrder("", "", "job-1", "backup", "http://127.0.0.1:1", "t", Settings(), retry_seconds=0.0)
    session = AgentSession(order, told.append, pins=[], control_key=bytes(32))

    session.heartbeat(protocol.Progress("copying", 5, 10, 3))
    session.commit(SimpleNamespace(read_bytes=10, stored_bytes=6))  # type: ignore[arg-type]  # what of it is told
    session.heartbeat(protocol.Progress("copying", 9, 10, 5))
    session.heartbeat(protocol.Progress(COMMITTING, 10, 10, 6))

    assert told == [MoveEvent("copying", 5, 10, 3), *[MoveEvent(COMMITTING, 10, 10, 6)] * 2]


# --- what the machine says --------------------------------------------------------------------------------------------


def nmcli(folder: Path, *answers: str, code: int = 0) -> Path:
    """A program of this name; it says what the file `metered` has."""
    folder.mkdir(exist_ok=True)
    (folder / "metered").write_text("\n".join(answers))
    program = folder / "nmcli"
    program.write_text(f'#!/bin/sh\necho "$*" > {folder}/asked\ncat {folder}/metered\nexit {code}\n')
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("answers", "is_so"),
    [
        (["yes"], True),
        (["no", "", "yes (guessed)"], True),
        (["no"], False),
        (["no (guessed)", "unknown"], False),
        ([], False),
    ],
)
def test_what_network_manager_says_of_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[str], is_so: bool
) -> None:
    nmcli(tmp_path / "bin", *answers)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    assert is_metered() is is_so
    assert why_paused(METERED, supplies=tmp_path / "none", load=0.0) == (WHY if is_so else "")
    unasked = msgspec.structs.replace(METERED, pause_on_metered=False)
    assert why_paused(unasked, supplies=tmp_path / "none", load=0.0) == ""
    assert (tmp_path / "bin/asked").read_text() == "-g GENERAL.METERED device show\n"


@pytest.mark.parametrize("spoil", [Path.unlink, lambda program: program.write_text("no program")])
def test_without_network_manager_no_connection_is_metered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], object]
) -> None:
    spoil(nmcli(tmp_path / "bin", "yes"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    assert not is_metered()


def test_a_network_manager_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = nmcli(tmp_path / "bin", "yes")
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(conditions, "_PROGRAM_SECONDS", 0.05)

    assert not is_metered()


# --- a real mover -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="a whole server is read by root alone")
def test_a_backup_under_way_is_held_keeps_its_lease_and_goes_on(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, bin_folder = machine.plane.gate, tmp_path / "bin"
    nmcli(bin_folder, "no")
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    machine.enrol()
    machine.fill(10)
    # Packs of some megabytes: enough of them that the end is not on its way yet when it is held.
    for number in range(16):
        (machine.root / f"big-{number}").write_bytes(os.urandom(8 << 20))
    may_store = threading.Event()
    gate.before_put = lambda _: 200 if may_store.wait(30) else 503
    gate.back_up()
    order = MoveOrder(
        str(machine.places.config),
        str(machine.places.state),
        "job-1",
        "backup",
        machine.plane.url,
        "session",
        Settings(root=str(machine.root)),
        METERED,
        may_be_held=True,
        look_seconds=0.2,
    )
    machine.places.jobs.mkdir(parents=True, exist_ok=True)
    with (machine.folder / "said").open("wb") as log:
        mover = MovingProcess(machine.places, order, lambda: None, log=log.fileno())
    try:
        eventually(lambda: any(beat.done_bytes for beat in gate.beats))
        nmcli(bin_folder, "yes")
        eventually(lambda: gate.beats[-1].phase == "held")
        may_store.set()
        with only_one(machine.places.lock):
            status = machine.json("status")
            assert [(one["phase"], one["held"]) for one in status["running"]] == [("copying", WHY)]
            assert f"running        backup: copying, held: {WHY}" in machine.run("status")

        # It beats and reads nothing: what was done stays as it is.
        beats, done = len(gate.beats), gate.beats[-1].done_bytes
        eventually(lambda: len(gate.beats) >= beats + 4)
        assert {beat.phase for beat in gate.beats[beats:]} == {"held"} and mover.result() is None
        assert gate.beats[-1].done_bytes == done and not gate.commits

        nmcli(bin_folder, "no")
        eventually(lambda: mover.result() is not None, seconds=90)
        event = mover.result()
        assert event is not None and (event.phase, event.code, event.held) == (ENDED, "", ""), event
        assert len(gate.commits) == 1
    finally:
        mover.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="a whole server is read by root alone")
def test_a_backup_that_is_held_reads_nothing_and_can_be_canceled(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = machine.plane.gate
    nmcli(tmp_path / "bin", "yes")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    machine.enrol()
    machine.fill(10)
    gate.back_up()
    order = MoveOrder(
        str(machine.places.config),
        str(machine.places.state),
        "job-1",
        "backup",
        machine.plane.url,
        "session",
        Settings(root=str(machine.root)),
        METERED,
        may_be_held=True,
        look_seconds=0.0,
    )
    machine.places.jobs.mkdir(parents=True, exist_ok=True)
    with (machine.folder / "said").open("wb") as log:
        mover = MovingProcess(machine.places, order, lambda: None, log=log.fileno())
    try:
        eventually(lambda: gate.beats and gate.beats[-1].phase == "held")
        # What is left would be sent within a second: it is not even read.
        beats = len(gate.beats)
        eventually(lambda: len(gate.beats) >= beats + 4)
        assert {(beat.phase, beat.done_bytes) for beat in gate.beats[beats:]} == {("held", 0)} and gate.puts == 0
        gate.cancel = True
        eventually(lambda: mover.result() is not None)
        assert gate.failures[0].code == "canceled" and not gate.commits
    finally:
        mover.end()
