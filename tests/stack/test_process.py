from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from backupsite.stack.probes import log_says
from backupsite.stack.process import Child, ChildError, ChildStoppedError

from .conftest import MakeChild, alive, eventually

SLEEP = "import time; print('up'); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(600)"
WITH_CHILD = (
    "import subprocess, time; p = subprocess.Popen(['sleep', '600']); print('grandchild', p.pid, 'up'); time.sleep(600)"
)


def test_a_child_runs_and_stops(make_child: MakeChild) -> None:
    child = make_child(SLEEP, ready=log_says("up"))
    child.start()
    pid = child.pid

    assert child.running and child.wanted
    assert child.stop()
    assert not child.running and not child.wanted
    assert not alive(pid)


def test_stop_is_allowed_before_start_and_twice(make_child: MakeChild) -> None:
    child = make_child(SLEEP)
    child.stop()
    child.start()
    child.stop()

    assert child.stop()


def test_a_child_that_ignores_the_request_is_killed_after_its_grace(make_child: MakeChild) -> None:
    child = make_child(STUBBORN, ready=log_says("up"), grace_seconds=0.3)
    child.start()

    assert not child.stop()
    assert not child.running


def test_a_childs_own_children_end_with_it(make_child: MakeChild) -> None:
    child = make_child(WITH_CHILD, ready=log_says("up"))
    child.start()
    grandchild = int(child.log_text().split()[1])
    assert alive(grandchild)

    child.stop()

    assert eventually(lambda: not alive(grandchild), seconds=30)


def test_what_a_crash_leaves_is_ended_before_the_next_start(make_child: MakeChild) -> None:
    child = make_child(WITH_CHILD, ready=log_says("up"))
    child.start()
    grandchild = int(child.log_text().split()[1])
    os.kill(child.pid, 9)
    assert eventually(lambda: not child.running)
    assert alive(grandchild)

    child.revive()

    assert eventually(lambda: not alive(grandchild), seconds=30)
    assert child.running


def test_restart_gives_a_new_process(make_child: MakeChild) -> None:
    child = make_child(SLEEP, ready=log_says("up"))
    child.start()
    first = child.pid

    child.restart()

    assert child.pid != first
    assert child.running and not alive(first)


def test_kill_leaves_it_wanted(make_child: MakeChild) -> None:
    child = make_child(SLEEP)
    child.start()

    child.kill()

    assert not child.running
    assert child.wanted


def test_a_child_that_ends_at_its_start_is_told_with_its_last_words(make_child: MakeChild) -> None:
    child = make_child("print('first'); raise SystemExit('no more room')", ready=lambda child: False)

    with pytest.raises(ChildError) as caught:
        child.start()

    assert "ended at its start (exit code 1)" in caught.value.message
    assert str(child.log_path) in caught.value.message
    assert caught.value.details == ("first", "no more room")


def test_a_child_that_is_never_ready_is_ended(make_child: MakeChild) -> None:
    child = make_child(SLEEP, ready=lambda child: False, ready_seconds=0.3)

    with pytest.raises(ChildError, match=r"was not ready after 0 s"):
        child.start()

    assert not child.running


def test_a_missing_program_is_told(make_child: MakeChild) -> None:
    child = Child(replace(make_child(SLEEP).spec, argv=("/nowhere/weed",), ready=lambda child: False))

    with pytest.raises(ChildError) as caught:
        child.start()

    assert caught.value.details == ("cannot run /nowhere/weed: No such file or directory",)


def test_a_stop_wins_over_a_start_that_waits(make_child: MakeChild) -> None:
    child = make_child(SLEEP, ready=lambda child: False, ready_seconds=60)
    errors: list[BaseException] = []

    def start() -> None:
        try:
            child.start()
        except ChildError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    assert eventually(lambda: child.running)
    child.stop()
    thread.join(60)

    assert isinstance(errors[0], ChildStoppedError)
    assert not child.running


def test_a_stopped_child_is_not_revived(make_child: MakeChild) -> None:
    child = make_child(SLEEP)
    child.start()
    child.stop()

    with pytest.raises(ChildStoppedError):
        child.revive()

    assert not child.running


def test_nobody_can_start_it_while_it_is_bounced(make_child: MakeChild) -> None:
    child = make_child(SLEEP, ready=log_says("up"))
    child.start()
    running_meanwhile: list[bool] = []
    reviver = threading.Thread(target=child.revive)

    def between() -> None:
        reviver.start()
        time.sleep(0.3)
        running_meanwhile.append(child.running)

    child.bounce(between)
    reviver.join(60)

    assert running_meanwhile == [False]
    assert child.running


def test_a_one_off_command_gives_its_exit_code(make_child: MakeChild) -> None:
    child = make_child("raise SystemExit(7)")
    child.spawn()

    assert child.wait_exit(timeout_seconds=60) == 7
    assert not child.wanted


def test_a_one_off_command_that_hangs_is_ended(make_child: MakeChild) -> None:
    child = make_child(SLEEP)
    child.spawn()

    with pytest.raises(ChildError, match="took longer than"):
        child.wait_exit(timeout_seconds=0.2)

    assert not child.running


def test_the_log_is_private_and_only_this_start_is_quoted(make_child: MakeChild) -> None:
    # The whole line: without a buffer its words come one by one.
    code = "import os, time; print('run', os.getpid()); time.sleep(600)"
    child = make_child(code, ready=log_says(r"run \d+\n"))
    child.start()
    first = child.log_text()
    child.restart()

    assert child.log_path.stat().st_mode & 0o777 == 0o600
    assert child.log_text() != first
    assert first in child.log_path.read_text()


def test_files_of_a_child_are_private(make_child: MakeChild, tmp_path: Path) -> None:
    child = make_child("open('made', 'w').close()")
    child.spawn()
    child.wait_exit(timeout_seconds=60)

    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600


def test_a_child_does_not_inherit_the_launchers_environment(
    make_child: MakeChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUPSITE_MASTER_KEY", "secret")
    child = make_child("import os; print(sorted(os.environ))")
    child.spawn()
    child.wait_exit(timeout_seconds=60)

    assert "BACKUPSITE_MASTER_KEY" not in child.log_text()
