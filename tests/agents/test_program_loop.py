"""The agent's own decisions, step by step on a clock of ours, against a control plane in memory."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents import agent_messages as messages
from agents.answer_signing import fingerprint
from agents.program.agent import cli, commands, enrolling
from agents.program.agent import memory as remembering
from agents.program.agent.carrying import Verdict
from agents.program.agent.conditions import is_on_battery, why_paused
from agents.program.agent.control import ControlClient, Reply
from agents.program.agent.errors import EXIT_FAILED, NotTrustedError, RefusedError, UnreachableError, UpdateError
from agents.program.agent.identity import Identity, request_key, save_identity, writer_key
from agents.program.agent.loop import Agent, Surroundings
from agents.program.agent.memory import ControlClock, Memory, load_memory
from agents.program.agent.moving import ENDED, MoveEvent, MoveOrder
from agents.program.agent.pacing import STOPPED_POLL_SECONDS
from agents.program.agent.places import Places, Settings
from agents.program.agent.policy import kept_policy
from tests.agents.stand_in import ControlPlane

POLICY = messages.AgentPolicy(number=1, issued_at=datetime(2026, 1, 1, tzinfo=UTC))
HOST = messages.HostFacts("web-1", "m" * 32, "b" * 32)
JOB = messages.JobOffer("job-1", "backup")


@dataclass
class Mover:
    order: MoveOrder
    event: MoveEvent | None = None
    canceled: bool = False

    def result(self) -> MoveEvent | None:
        return self.event

    def cancel(self) -> None:
        self.canceled = True

    def end(self) -> None:
        self.event = MoveEvent(ENDED, code="mover_ended")


@dataclass
class World:
    """One agent whose time stands still until it is moved. `wall` is its own, perhaps wrong, clock."""

    folder: Path
    plane: ControlPlane = field(default_factory=lambda: ControlPlane(policy=POLICY, poll_seconds=60))
    chance: Callable[[], float] = lambda: 0.5
    seconds: float = 1000.0
    wall_off: float = 0.0
    boot: str = "boot-1"
    movers: list[Mover] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    cleaned: int = 0
    why_paused: str = ""
    updates: list[messages.UpdateOffer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places = Places.of(str(self.folder))
        self.places.state.mkdir(parents=True, exist_ok=True)
        self.start_of_all = datetime(2026, 11, 21, 12, tzinfo=UTC)
        self.plane.now = lambda: self.start_of_all + timedelta(seconds=self.seconds)  # type: ignore[method-assign]
        self.plane.agent_key = request_key(self.places).public
        self.plane.writer_key = writer_key(self.places).public
        self.identity = Identity(
            url="https://backup.example.com",
            agent_id=self.plane.agent_id,
            server="web-1",
            tenant="acme",
            status="enrolled",
            control_key=self.plane.key.public,
        )
        save_identity(self.places, self.identity)
        self.agent = self.restarted()

    def wall(self) -> float:
        return self.plane.now().timestamp() + self.wall_off

    def restarted(self) -> Agent:
        """As after the program was killed: what it knows is what is on disk."""
        memory = load_memory(self.places)
        clock = ControlClock(memory.anchor, wall=self.wall, since_boot=lambda: self.seconds, boot=self.boot)
        self.agent = Agent(
            places=self.places,
            settings=Settings(),
            identity=self.identity,
            control=ControlClient(self.identity, request_key(self.places), clock, way=self.way),
            clock=clock,
            memory=memory,
            world=Surroundings(
                host=lambda: HOST,
                trees=list,
                start=self._start,
                clean=self._clean,
                take_update=self.updates.append,
                monotonic=lambda: self.seconds,
                chance=self.chance,
                paused=lambda _: self.why_paused,
                version="0.1.0",
            ),
        )
        self.agent.begin()
        return self.agent

    def way(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        if self.plane.down:
            raise ConnectionRefusedError("nobody is there")
        status, content, signature = self.plane.answer(method, path, headers.get("Authorization", ""), body)
        return Reply(status, signature, content)

    def pass_time(self, seconds: float) -> None:
        """With all that the agent does meanwhile."""
        end = self.seconds + seconds
        while True:
            idle = self.agent.step()
            if self.seconds + max(idle, 0.5) > end:
                break
            self.seconds += max(idle, 0.5)
        self.seconds = end

    def _start(self, order: MoveOrder) -> Mover:
        self.movers.append(Mover(order))
        self.begun.append(self.seconds)
        return self.movers[-1]

    def _clean(self) -> None:
        self.cleaned += 1


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_job_is_begun_once_and_its_end_is_told(world: World) -> None:
    world.plane.offers.append(JOB)
    world.agent.step()
    assert world.movers == []  # half of ten minutes of jitter
    world.pass_time(299)
    assert world.movers == []
    world.pass_time(30)
    [mover] = world.movers
    assert (mover.order.kind, mover.order.job, mover.order.policy) == ("backup", "job-1", POLICY)
    assert "session-job-1" not in repr(mover.order)
    world.pass_time(120)
    assert world.plane.polls[-1].jobs == ["job-1"] and len(world.movers) == 1
    mover.event = MoveEvent(ENDED, 10, 10, 5, code="no_space", message="the vault is full")
    world.pass_time(1)
    assert world.cleaned == 2 and world.plane.polls[-1].problem_code == "no_space"
    assert world.agent.memory.last_backup is not None and world.agent.memory.last_backup.message == "the vault is full"


def test_window_pause_and_a_person_who_does_not_wait(world: World) -> None:
    # It is 12:16 UTC, 13:16 in Berlin.
    window = messages.WindowMessage("22:00", "06:00", "Europe/Berlin")
    world.plane.policy = msgspec.structs.replace(POLICY, number=2, window=window, start_jitter_seconds=0)
    world.plane.offers += [JOB, messages.JobOffer("restore-1", "restore", begins_at_once=True)]
    world.pass_time(1)
    assert [mover.order.job for mover in world.movers] == ["restore-1"]
    world.movers[0].event = MoveEvent(ENDED)
    world.plane.poll_seconds = 1800
    world.pass_time(8 * 3600)
    assert len(world.movers) == 1
    assert world.agent.waiting["job-1"].why == "Outside of the window; it opens at 22:00 Europe/Berlin."
    world.why_paused = "The machine runs on battery."
    world.plane.waiting = "As many backups as the vault's region allows are under way."
    world.pass_time(3600)
    assert len(world.movers) == 1 and world.agent.waiting["job-1"].why == world.why_paused
    told = [("job-1", "backup", world.why_paused), ("", "", world.plane.waiting)]
    kept = load_memory(world.agent.places).waiting
    assert [(one.job, one.kind, one.why) for one in kept] == told
    world.why_paused, world.plane.waiting = "", ""
    world.pass_time(3600)
    assert len(world.movers) == 2 and load_memory(world.agent.places).waiting == []


def test_a_cancel_reaches_the_mover_and_a_job_that_was_taken_back_never_begins(world: World) -> None:
    world.plane.offers += [
        messages.JobOffer("job-1", "backup", begins_at_once=True),
        messages.JobOffer("job-2", "backup"),
    ]
    world.pass_time(1)
    assert set(world.agent.waiting) == {"job-2"}
    world.plane.canceled, world.plane.offers = ["job-1"], []
    world.pass_time(61)
    assert world.movers[0].canceled and world.agent.waiting == {}


def test_who_waits_for_a_job_is_not_sent_away_while_it_is_taken_up_again() -> None:
    now = [0.0]
    verdict = Verdict(lambda: now[0])
    assert verdict.is_final("") and verdict.is_final("vault_full")
    for moment, is_final in ((0, False), (179, False), (181, True)):
        now[0] = moment
        assert verdict.is_final("session_ended") is is_final
    verdict.goes_on()
    assert not verdict.is_final("mover_ended")


def test_who_waits_for_a_job_of_a_stopped_agent_is_sent_away_and_not_for_an_old_note() -> None:
    now = [0.0]
    verdict = Verdict(lambda: now[0])
    stopped = Memory(status="agent_quarantined", problem="Its key is on two machines.")
    verdict.refuse_stopped(stopped)
    now[0] = 4.9
    verdict.refuse_stopped(stopped)
    verdict.refuse_stopped(Memory(status="enrolled"))
    now[0] = 9.0
    verdict.refuse_stopped(stopped)
    now[0] = 14.0
    with pytest.raises(RefusedError, match="two machines") as raised:
        verdict.refuse_stopped(stopped)
    assert raised.value.code == "agent_quarantined"


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "make room"), (errno.EROFS, "mount it")])
def test_a_state_folder_that_cannot_be_written_is_no_internal_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, remedy: str
) -> None:
    def fails(options: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(commands, "run_status", fails)
    assert cli.main(["--home", str(tmp_path), "status"]) == EXIT_FAILED
    said = capsys.readouterr().err
    assert remedy in said and str(tmp_path) in said and "internal" not in said


@pytest.mark.case("AG-05")
@pytest.mark.parametrize("years", [-10, 10])
def test_a_clock_that_is_wrong_by_years_decides_nothing(tmp_path: Path, years: int) -> None:
    world = World(tmp_path, wall_off=years * 365.25 * 86400)
    # The first request is refused for its time; the answer, which is signed, has the right one.
    world.agent.step()
    assert len(world.plane.polls) == 1 and world.plane.asked == ["poll/", "poll/"]
    assert abs((world.agent.clock.now() - world.plane.now()).total_seconds()) < 1
    assert abs(world.agent.clock.wrong_by_seconds) > 9 * 365 * 86400
    # After a restart, and after a start of the machine with a clock as wrong as before, it goes on by what it learned.
    for boot in ("boot-1", "boot-2"):
        world.boot = boot
        world.seconds += 100
        world.plane.asked.clear()
        world.restarted().step()
        assert world.plane.asked == ["poll/"]
    # A jump of the clock meanwhile is not even noticed.
    world.wall_off = 0
    assert abs((world.agent.clock.now() - world.plane.now()).total_seconds()) < 1


@pytest.mark.case("AG-10")
@pytest.mark.parametrize(
    "window",
    # It is about 12:26 when the control plane is there again.
    [None, messages.WindowMessage("12:45", "18:00", "UTC")],
    ids=["without a window", "before the window"],
)
def test_two_hundred_agents_come_back_spread_over_minutes_and_begin_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: messages.WindowMessage | None
) -> None:
    monkeypatch.setattr(remembering, "save_memory", lambda *_: None)
    chance = random.Random(10)
    begun = []
    for number in range(200):
        plane = ControlPlane(policy=msgspec.structs.replace(POLICY, window=window), poll_seconds=300)
        world = World(tmp_path / str(number), plane=plane, chance=chance.random)
        world.agent.step()
        plane.down = True
        world.seconds += 86400
        world.agent._failures = 20
        world.pass_time(600)
        plane.down = False
        back_at = world.seconds
        plane.offers.append(JOB)
        world.pass_time(2400)
        assert len(world.movers) == 1 and plane.asked.count("claim/") == 1
        begun.append(world.begun[0] - back_at)
    assert max(begun) - min(begun) >= 600
    # No minute has more than a tenth of them.
    minutes = [sum(1 for at in begun if minute * 60 <= at < minute * 60 + 60) for minute in range(40)]
    assert sum(minutes) == 200 and max(minutes) <= 25


@pytest.mark.case("AG-11")
def test_a_policy_that_is_not_signed_cannot_be_read_or_is_older_changes_nothing(world: World) -> None:
    world.plane.policy = msgspec.structs.replace(POLICY, number=5, poll_seconds=77)
    world.pass_time(1)
    good = world.plane.sign(world.plane.policy)
    other = ControlPlane()
    bad = [
        msgspec.structs.replace(good, signature=bytes(64)),
        msgspec.structs.replace(good, policy=good.policy.replace(b"77", b"78")),
        other.sign(msgspec.structs.replace(POLICY, number=9)),
        world.plane.sign(msgspec.structs.replace(POLICY, number=4)),
        world.plane.sign(msgspec.structs.replace(POLICY, number=6, bandwidth_zone="Nowhere/At_all")),
        world.plane.sign(
            msgspec.structs.replace(POLICY, number=7, window=messages.WindowMessage("25:00", "06:00", "UTC"))
        ),
    ]
    for signed in bad:
        world.plane.signed_policy = signed
        world.pass_time(61)
        assert world.agent.policy is not None and world.agent.policy.number == 5
        assert kept_policy(world.places, world.identity) == world.agent.policy
    world.plane.signed_policy = None
    world.pass_time(61)
    assert {poll.problem_code for poll in world.plane.polls[2:]} == {"policy_refused"}
    # What is on disk is checked like what comes: somebody who writes there makes no policy.
    told = json.loads(world.places.policy.read_text())
    world.places.policy.write_text(json.dumps({**told, "signature": told["signature"][::-1]}))
    assert world.restarted().policy is None
    assert world.agent.memory.problem_code == "policy_refused"


@pytest.mark.case("AG-12")
def test_an_answer_that_was_changed_or_made_by_somebody_else_is_not_read(world: World) -> None:
    world.plane.offers.append(messages.JobOffer("job-1", "backup", begins_at_once=True))
    world.plane.tamper = lambda body: body.replace(b"job-1", b"job-2")
    world.pass_time(1)
    assert world.agent.memory.problem_code == "not_trusted" and world.agent.waiting == {} and world.movers == []
    world.plane.tamper = None
    key, world.plane.key = world.plane.key, ControlPlane().key
    world.pass_time(300)
    assert world.movers == [] and world.agent.memory.problem_code == "not_trusted"
    world.plane.key = key
    world.pass_time(600)
    assert len(world.movers) == 1


def test_no_number_is_used_twice_however_often_it_is_killed(world: World) -> None:
    for _ in range(5):
        world.restarted()
        world.pass_time(200)
    counts = [poll.count for poll in world.plane.polls]
    assert counts == sorted(set(counts)) and len(counts) > 10
    # A disk that is full keeps it neither from asking nor from counting on.
    world.places.state.chmod(0o500)
    world.agent.memory.count = world.agent._count
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remembering, "write_whole", _full)
        world.pass_time(200)
    assert world.plane.polls[-1].problem_code == "state_unwritable"
    assert world.plane.polls[-1].count > counts[-1]


def _full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_revoked_agent_ends_its_work_and_asks_once_an_hour(world: World) -> None:
    world.plane.offers.append(messages.JobOffer("job-1", "backup", begins_at_once=True))
    world.pass_time(1)
    world.plane.refuse["poll/"] = [(403, "agent_revoked")] * 3
    world.pass_time(60)
    assert world.movers[0].canceled and world.agent.memory.status == "agent_revoked"
    asked = len(world.plane.asked)
    world.movers[0].event = MoveEvent(ENDED, code="session_ended")
    world.pass_time(STOPPED_POLL_SECONDS - 100)
    assert len(world.plane.asked) <= asked + 1


def test_an_update_waits_for_the_job(world: World) -> None:
    world.plane.update = messages.UpdateOffer(b"{}", b"")
    world.plane.offers.append(messages.JobOffer("job-1", "backup", begins_at_once=True))
    world.agent.step()
    assert len(world.movers) == 1 and world.updates == []
    world.pass_time(100)
    assert world.updates == []
    world.movers[0].event = MoveEvent(ENDED)
    world.pass_time(2)
    assert world.updates == [world.plane.update]


def test_a_release_that_cannot_be_installed_is_fetched_ever_more_rarely(world: World) -> None:
    """Each try is a whole download; the control plane offers it with each poll, for an hour."""
    tried: list[tuple[bytes, float]] = []

    def refuse(offer: messages.UpdateOffer) -> None:
        tried.append((offer.manifest, world.seconds))
        raise UpdateError("There is no room for release 7.")

    world.agent.world.take_update = refuse
    world.plane.update = messages.UpdateOffer(b"7", b"")
    begun = world.seconds
    world.pass_time(3600)
    # Polls are a minute apart: two, four, eight, sixteen and thirty-two minutes after the one before.
    assert [round((at - begun) / 60) for _, at in tried] == [0, 2, 6, 14, 30]
    assert {poll.problem_code for poll in world.plane.polls[1:]} == {"update_refused"}
    world.plane.update = messages.UpdateOffer(b"8", b"")
    world.pass_time(61)
    assert [manifest for manifest, _ in tried[5:]] == [b"8"]


@pytest.mark.parametrize(
    ("files", "is_paused"),
    [
        ({}, False),
        ({"AC/type": "Mains", "AC/online": "1", "BAT0/type": "Battery", "BAT0/status": "Discharging"}, False),
        ({"AC/type": "Mains", "AC/online": "0", "BAT0/type": "Battery", "BAT0/status": "Discharging"}, True),
        ({"BAT0/type": "Battery", "BAT0/status": "Full"}, False),
    ],
)
def test_battery_and_load(tmp_path: Path, files: dict[str, str], is_paused: bool) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert is_on_battery(tmp_path) is is_paused
    assert bool(why_paused(POLICY, supplies=tmp_path, load=9.0)) is is_paused
    loaded = msgspec.structs.replace(POLICY, pause_above_load=2.0, pause_on_battery=False)
    assert "9.00" in why_paused(loaded, supplies=tmp_path, load=9.0)


def test_enrolment_trusts_the_key_in_the_token_alone(tmp_path: Path) -> None:
    plane, impostor = ControlPlane().start(), ControlPlane().start()
    try:
        places = Places.of(str(tmp_path))
        ask = partial(enrolling.enrol, places, Settings(), version="1")
        with pytest.raises(NotTrustedError):
            ask(token=plane.token, url=impostor.url)
        with pytest.raises(RefusedError, match="token_invalid"):
            ask(token=plane.token.replace("s" * 43, "t" * 43), url=plane.url)
        with pytest.raises(UnreachableError):
            ask(token=plane.token, url="http://127.0.0.1:1")
        # The portal's address where the gate's was meant.
        portal = Reply(404, "", b'{"code":"not_found","detail":"There is nothing here that you can see."}')
        with pytest.raises(RefusedError, match="The portal shows the right one beside the token"):
            enrolling.enrol(places, Settings(), token=plane.token, url=plane.url, version="1", way=lambda *_: portal)
        # Somebody who knows the right key's public half, and passes an answer of another content on.
        plane.tamper = lambda body: body.replace(b"web-1", b"web-2")
        with pytest.raises(NotTrustedError):
            ask(token=plane.token, url=plane.url)
        plane.tamper = None
        assert not places.identity.exists()
        # An answer that got lost: the same keys again.
        identity = ask(token=plane.token, url=plane.url)
        assert identity.server == "web-1" and fingerprint(identity.control_key) in plane.token
        assert plane.agent_key == request_key(places).public
        modes = {path.stat().st_mode & 0o777 for path in places.state.rglob("*") if path.is_file()}
        assert modes == {0o600}
    finally:
        plane.stop()
        impostor.stop()


def test_what_does_not_wait_begins_with_the_answer_that_offers_it_although_time_passes(world: World) -> None:
    def ticks() -> float:
        world.seconds += 0.001
        return world.seconds

    world.agent.world.monotonic = ticks
    world.plane.policy = msgspec.structs.replace(POLICY, number=2, start_jitter_seconds=0)
    for offer in (messages.JobOffer("job-1", "backup", begins_at_once=True), messages.JobOffer("job-2", "backup")):
        world.plane.offers = [offer]
        world.agent.poll_now()
        world.agent.step()
        assert world.movers[-1].order.job == offer.id
        world.movers[-1].event = MoveEvent(ENDED)
        world.agent.step()
