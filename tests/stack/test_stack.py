"""The whole stack with stand-ins for the service's own processes: order, supervision, and that nothing stays."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from backupsite.stack.errors import PreflightError, StackError
from backupsite.stack.ports import PORT_SPAN, free_ports, is_free, stack_ports
from backupsite.stack.process import ChildError
from backupsite.stack.programs import Programs
from backupsite.stack.settings import StackSettings
from backupsite.stack.stack import Stack
from backupsite.stack.terminal import Terminal

from . import stand_in
from .conftest import alive, eventually

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["weed", "broker", "web", "signer", "control", "checks", "node", "beat", "reaper"]


@pytest.fixture
def settings(tmp_path: Path) -> StackSettings:
    return StackSettings(data=tmp_path / "var", port=free_ports(PORT_SPAN)[0])


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Programs, "setup", stand_in._setup)
    monkeypatch.setattr(Programs, "long_running", stand_in._long_running)


@pytest.fixture
def stack(settings: StackSettings, stand_ins: None) -> Iterator[Stack]:
    with Stack(settings, terminal=Terminal(io.StringIO()), needed_bytes=0) as running:
        yield running


def processes_of(data: Path) -> list[int]:
    """Everything that was told this data folder or works in it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            told = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(data).encode() in told and int(entry.name) != os.getpid() and alive(int(entry.name)):
            found.append(int(entry.name))
    return found


def nothing_is_left(data: Path) -> bool:
    """What was killed may need a moment to be gone, of which nobody is told."""
    return eventually(lambda: processes_of(data) == [], seconds=120)


def test_it_starts_supervises_and_stops_all(stack: Stack, settings: StackSettings) -> None:
    pids = {name: stack.child(name).pid for name in NAMES}
    assert all(alive(pid) for pid in pids.values())
    for url in (settings.portal_url, settings.gate_url):
        assert urllib.request.urlopen(f"{url}/livez", timeout=60).status == 200

    for name in NAMES:
        stack.child(name).kill()
    assert eventually(lambda: all(stack.child(name).running for name in NAMES), seconds=120)
    assert not {stack.child(name).pid for name in NAMES} & set(pids.values())

    stack.child("node").stop()
    assert not eventually(lambda: stack.child("node").running, seconds=1.5)

    children = [stack.child(name) for name in NAMES]
    stack.stop()
    assert not any(child.running for child in children)
    assert nothing_is_left(settings.data)
    assert all(is_free(port.number) for port in stack_ports(settings.port))


def test_an_unknown_name_is_told_the_known_ones(stack: Stack) -> None:
    with pytest.raises(StackError, match="there are weed, broker, web"):
        stack.child("cron")


def test_a_second_stack_on_the_same_data_is_refused(stack: Stack, settings: StackSettings) -> None:
    other = replace(settings, port=free_ports(PORT_SPAN)[0])

    with pytest.raises(PreflightError, match=f"process {os.getpid()}"):
        Stack(other, terminal=Terminal(io.StringIO()), needed_bytes=0).start()


def test_a_given_broker_is_used_and_none_is_started(settings: StackSettings, stand_ins: None) -> None:
    given = replace(settings, broker_url="redis://127.0.0.1:6379/0")

    with Stack(given, terminal=Terminal(io.StringIO()), needed_bytes=0) as running:
        assert running.child("web").spec.env["BACKUPSITE_BROKER_URL"] == given.broker_url
        with pytest.raises(StackError, match="no process 'broker'"):
            running.child("broker")


def test_one_that_does_not_come_up_ends_all_and_shows_its_log(
    settings: StackSettings, stand_ins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_broken_node(programs: Programs) -> tuple[object, ...]:
        specs = {spec.name: spec for spec in stand_in._long_running(programs)}
        specs["node"] = replace(specs["node"], argv=(sys.executable, "-c", "raise SystemExit('no such queue')"))
        specs["signer"] = replace(specs["signer"], ready=lambda child: False)
        return tuple(specs.values())

    monkeypatch.setattr(Programs, "long_running", with_broken_node)

    with (
        pytest.raises(ChildError, match="node ended at its start") as caught,
        Stack(settings, terminal=Terminal(io.StringIO()), needed_bytes=0),
    ):
        pass

    assert caught.value.details == ("no such queue",)
    assert nothing_is_left(settings.data)


def test_a_database_that_cannot_be_set_up_ends_all(
    settings: StackSettings, stand_ins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(programs: Programs) -> object:
        return replace(
            programs._python("setup", "control"), argv=(sys.executable, "-c", "raise SystemExit('disk full')")
        )

    monkeypatch.setattr(Programs, "setup", broken)

    with (
        pytest.raises(ChildError, match="could not be set up") as caught,
        Stack(settings, terminal=Terminal(io.StringIO()), needed_bytes=0),
    ):
        pass

    assert caught.value.details == ("disk full",)
    assert nothing_is_left(settings.data)


def launch(settings: StackSettings, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"BACKUPSITE_PORT": str(settings.port), "BACKUPSITE_DATA": str(settings.data)}
    argv = [sys.executable, "-m", "tests.stack.stand_in", *arguments]
    return subprocess.Popen(
        argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_ctrl_c_in_a_terminal_ends_make_without_an_error(settings: StackSettings) -> None:
    environment = os.environ | {"BACKUPSITE_PORT": str(settings.port), "BACKUPSITE_DATA": str(settings.data)}
    make = ["make", "-s", "up", "-o", "venv", f"STACK=exec {sys.executable} -m tests.stack.stand_in"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execvpe("make", make, environment)
    shown = b""
    while b"Ctrl-C ends it all" not in shown:
        shown += os.read(terminal, 4096)

    os.write(terminal, b"\x03")
    with suppress(OSError):
        while os.read(terminal, 4096):
            pass

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert nothing_is_left(settings.data)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_make_leaves_nothing(settings: StackSettings, number: signal.Signals) -> None:
    environment = os.environ | {"BACKUPSITE_PORT": str(settings.port), "BACKUPSITE_DATA": str(settings.data)}
    argv = ["make", "-s", "up", "-o", "venv", f"STACK=exec {sys.executable} -m tests.stack.stand_in"]
    make = subprocess.Popen(
        argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_until_up(make)

    make.send_signal(number)
    make.communicate(timeout=120)

    assert nothing_is_left(settings.data)


def wait_until_up(launcher: subprocess.Popen[str]) -> None:
    assert launcher.stdout is not None
    for line in launcher.stdout:
        if "the portal is at" in line:
            return
    raise AssertionError("the launcher ended before it was up")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_cleanly(settings: StackSettings, number: signal.Signals) -> None:
    launcher = launch(settings, "up")
    wait_until_up(launcher)

    launcher.send_signal(number)
    launcher.communicate(timeout=120)

    assert launcher.returncode == 0
    assert nothing_is_left(settings.data)


@pytest.mark.parametrize("seconds", [0.2, 0.7, 1.2, 1.8])
def test_a_signal_while_starting_leaves_nothing(settings: StackSettings, seconds: float) -> None:
    launcher = launch(settings, "smoke", "endless")
    with pytest.raises(subprocess.TimeoutExpired):
        launcher.wait(timeout=seconds)

    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=120)

    assert launcher.returncode in {143, -signal.SIGTERM}
    assert nothing_is_left(settings.data)


def test_a_second_signal_does_not_interrupt_the_stop(settings: StackSettings) -> None:
    launcher = launch(settings, "up")
    wait_until_up(launcher)

    for _again in range(5):
        launcher.send_signal(signal.SIGINT)
        # It may have ended before, when this process stood still: what counts is how it ended.
        with suppress(subprocess.TimeoutExpired):
            launcher.wait(timeout=0.1)
    launcher.communicate(timeout=120)

    assert launcher.returncode == 0
    assert nothing_is_left(settings.data)


def test_a_killed_launcher_leaves_nothing_and_the_next_start_works(settings: StackSettings) -> None:
    launcher = launch(settings, "up")
    wait_until_up(launcher)

    launcher.kill()
    launcher.communicate(timeout=120)
    assert nothing_is_left(settings.data)

    again = launch(settings, "smoke")
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output


def test_smoke_succeeds_only_when_the_job_says_identical(settings: StackSettings) -> None:
    same = launch(settings, "smoke")
    output, _ = same.communicate(timeout=120)
    assert same.returncode == 0
    assert "compared" in output

    different = launch(settings, "smoke", "different")
    output, _ = different.communicate(timeout=120)
    assert different.returncode == 1
    assert output.splitlines()[-1] == "failed: disk differs at block 7"
    assert nothing_is_left(settings.data)
