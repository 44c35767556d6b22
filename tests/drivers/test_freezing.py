"""A frozen guest is thawed whatever happens. Here `virsh` is a script that does what a test wants of the agent."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.drivers import freezing, guests, thaw_guard
from agents.drivers.freezing import FREEZE_FAILED, NOT_FROZEN, THAW_FAILED, Freeze, frozen_guest, thaw_left
from agents.drivers.guests import LibvirtGuest
from agents.drivers.virsh import Virsh

AGENT = """#!/bin/sh
cd {folder}
echo "$1" >> calls
case "$1" in
domfsfreeze) [ -e hangs ] && exec sleep 20; [ -e refuses ] && {{ cat refuses >&2; exit 1; }}
    touch quiet; cat froze;;
domfsthaw) [ -e stuck ] && exit 1; rm -f quiet; echo "Thawed 1 filesystem(s)";;
qemu-agent-command) [ -e quiet ] && echo '{{"return":"frozen"}}' || echo '{{"return":"thawed"}}';;
esac
"""


class Agent:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "virsh").write_text(AGENT.format(folder=folder))
        (folder / "virsh").chmod(0o755)
        (folder / "froze").write_text("Froze 1 filesystem(s)\n")
        (folder / "job").mkdir()

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().split()

    @property
    def is_quiet(self) -> bool:
        return (self.folder / "quiet").exists()

    def freeze(self, block: Callable[[], None] = lambda: None) -> Freeze:
        """Freeze, do that, thaw."""
        with frozen_guest(LibvirtGuest(Virsh(), "server"), str(self.folder / "job")) as end:
            block()
            return end()

    def waits_until_thawed(self) -> None:
        until = time.monotonic() + 60
        while self.is_quiet:
            assert time.monotonic() < until
            time.sleep(0.02)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    # No answer here is late because the machine is slow: a test that waits for a time to end sets that one itself.
    monkeypatch.setattr(guests, "FREEZE_SECONDS", 60)
    monkeypatch.setattr(guests, "_STATUS_SECONDS", 60)
    monkeypatch.setattr(freezing, "_GUARD_SECONDS", 300)
    return Agent(tmp_path)


def _codes(freeze: Freeze) -> list[str]:
    return [warned.code for warned in freeze.warnings]


def test_it_is_frozen_for_the_moment_and_no_longer(agent: Agent) -> None:
    seen: list[bool] = []

    freeze = agent.freeze(lambda: seen.append(agent.is_quiet))

    assert (freeze.held, _codes(freeze), seen, agent.is_quiet) == (True, [], [True], False)
    assert agent.calls == ["domfsfreeze", "qemu-agent-command", "domfsthaw"]
    assert not thaw_left(lambda: LibvirtGuest(Virsh(), "server"), str(agent.folder / "job"))


def test_an_error_in_the_block_thaws(agent: Agent) -> None:
    def fail() -> None:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError):
        agent.freeze(fail)

    assert not agent.is_quiet


@pytest.mark.parametrize(
    ("behaviour", "thaws"),
    [
        ({"hangs": ""}, True),
        ({"refuses": "error: something else"}, True),
        ({"refuses": "error: QEMU guest agent is not connected"}, False),
        ({"refuses": "error: the agent is in frozen state"}, False),
        ({"froze": "Froze 0 filesystem(s)\n"}, True),
    ],
)
def test_a_failed_freeze_is_a_warning(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, behaviour: dict[str, str], thaws: bool
) -> None:
    for name, text in behaviour.items():
        (agent.folder / name).write_text(text)
    if "hangs" in behaviour:
        monkeypatch.setattr(guests, "FREEZE_SECONDS", 3)

    freeze = agent.freeze()

    assert (freeze.held, _codes(freeze)) == (False, [FREEZE_FAILED])
    assert ("domfsthaw" in agent.calls) == thaws
    assert not thaw_left(lambda: LibvirtGuest(Virsh(), "server"), str(agent.folder / "job"))


def test_a_guest_that_thaws_by_itself_was_not_frozen(agent: Agent) -> None:
    freeze = agent.freeze(lambda: (agent.folder / "quiet").unlink())

    assert (freeze.held, _codes(freeze)) == (False, [NOT_FROZEN])


def test_the_guard_thaws_when_the_point_takes_too_long(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezing, "_GUARD_SECONDS", 0.3)
    # The guard's time begins before the freeze does: a thaw of a guest that is not frozen yet would be its only one.
    (agent.folder / "stuck").touch()

    def take_too_long() -> None:
        (agent.folder / "stuck").unlink()
        agent.waits_until_thawed()

    freeze = agent.freeze(take_too_long)

    assert not freeze.held and NOT_FROZEN in _codes(freeze)


def test_a_thaw_that_fails_is_gone_on_with(agent: Agent) -> None:
    (agent.folder / "stuck").touch()

    freeze = agent.freeze()

    assert freeze.held and _codes(freeze) == [THAW_FAILED]
    (agent.folder / "stuck").unlink()
    agent.waits_until_thawed()
    assert thaw_left(lambda: LibvirtGuest(Virsh(), "server"), str(agent.folder / "job"))


def test_without_a_guard_nothing_is_frozen(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezing.thaw_guard, "__file__", str(agent.folder / "gone.py"))

    freeze = agent.freeze()

    assert _codes(freeze) == [FREEZE_FAILED] and not (agent.folder / "calls").exists()


@pytest.mark.parametrize(
    ("told", "seconds", "command", "ended"),
    [
        ("thawed\n", 200, "touch", 0),
        ("", 200, "touch", thaw_guard.THAWED),
        (None, 0.1, "touch", thaw_guard.THAWED),
        ("thaw", 200, "touch", thaw_guard.THAWED),
        ("", 200, "false", thaw_guard.FAILED),
        ("", 200, "no-such-program", thaw_guard.FAILED),
    ],
)
def test_the_guard(tmp_path: Path, told: str | None, seconds: float, command: str, ended: int) -> None:
    thawed = tmp_path / "thawed"
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", thaw_guard.__file__, str(seconds), "1", command, str(thawed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert guard.stdin and guard.stdout and guard.stdout.readline() == "ready\n"
    if told is None:
        guard.wait(60)
    # One that acts only after its time does not end within this one.
    guard.communicate(told or "", timeout=60)

    assert guard.returncode == ended
    assert thawed.exists() == (ended == thaw_guard.THAWED)
