from __future__ import annotations

from collections.abc import Iterator

import pytest

from backupsite.stack.probes import log_says
from backupsite.stack.supervisor import Supervisor

from .conftest import MakeChild, alive, eventually

SLEEP = "import time; print('up'); time.sleep(600)"


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def supervisor(told: list[str]) -> Iterator[Supervisor]:
    made = Supervisor(report=told.append)
    yield made
    made.close()
    made.join()


def test_a_crashed_child_is_started_again_and_it_is_told(
    make_child: MakeChild, supervisor: Supervisor, told: list[str]
) -> None:
    child = make_child(SLEEP, ready=log_says("up"))
    child.start()
    first = child.pid
    supervisor.watch(child)

    child.kill()

    assert eventually(lambda: child.running and child.pid != first)
    assert eventually(lambda: "stand-in runs again" in told)
    assert told[0].startswith("stand-in ended unexpectedly (exit code -9)")


def test_a_child_outlives_the_thread_that_revived_it(
    make_child: MakeChild, supervisor: Supervisor, told: list[str]
) -> None:
    child = make_child(SLEEP, ready=log_says("up"))
    child.start()
    supervisor.watch(child)
    child.kill()
    assert eventually(lambda: "stand-in runs again" in told)

    supervisor.close()
    supervisor.join()

    assert not eventually(lambda: not alive(child.pid), seconds=1)


def test_a_stopped_child_stays_down(make_child: MakeChild, supervisor: Supervisor, told: list[str]) -> None:
    child = make_child(SLEEP)
    child.start()
    supervisor.watch(child)

    child.stop()

    assert not eventually(lambda: child.running, seconds=1.5)
    assert told == []


def test_a_child_that_keeps_crashing_is_tried_later_and_later(
    make_child: MakeChild, supervisor: Supervisor, told: list[str]
) -> None:
    child = make_child("raise SystemExit(3)")
    child.spawn()
    supervisor.watch(child)

    assert eventually(lambda: sum("unexpectedly" in line for line in told) >= 3)
    delays = [line.rsplit(" in ", 1)[1] for line in told if "unexpectedly" in line]
    assert delays[:3] == ["0.5 s", "1.0 s", "2.0 s"]


def test_nothing_is_started_after_close(make_child: MakeChild, supervisor: Supervisor) -> None:
    child = make_child(SLEEP)
    child.start()
    supervisor.watch(child)
    supervisor.close()

    child.kill()

    assert not eventually(lambda: child.running, seconds=1.5)
