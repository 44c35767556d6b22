from __future__ import annotations

import io

import pytest

from backupsite.stack.terminal import Terminal


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_step_is_one_line_with_result_time_and_note() -> None:
    stream = io.StringIO()

    with Terminal(stream).step("object storage") as step:
        step.note = "http://127.0.0.1:8001"

    assert stream.getvalue().split() == ["ok", "object", "storage", "0.0", "s", "http://127.0.0.1:8001"]
    assert stream.getvalue().count("\n") == 1


def test_a_failed_step_says_so_and_lets_the_failure_pass() -> None:
    stream = io.StringIO()

    with pytest.raises(ValueError, match="no"), Terminal(stream).step("broker"):
        raise ValueError("no")

    assert stream.getvalue().split()[:2] == ["failed", "broker"]


def test_a_step_that_was_interrupted_did_not_fail() -> None:
    stream = io.StringIO()

    with pytest.raises(KeyboardInterrupt), Terminal(stream).step("broker"):
        raise KeyboardInterrupt

    assert stream.getvalue().split()[:2] == ["ended", "broker"]


def test_progress_overwrites_itself_on_a_terminal_only() -> None:
    screen, pipe = Screen(), io.StringIO()

    for stream in (screen, pipe):
        with Terminal(stream).step("copy") as step:
            for number in range(50):
                step.progress(f"{number} of 50")

    assert "49 of 50" in screen.getvalue()
    assert screen.getvalue().count("\n") == 1
    assert pipe.getvalue().count("\n") == 1


def test_a_terminal_that_went_away_stops_nothing() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    stream.close()

    terminal.line("still running")
