"""What NetworkManager says of the connection, by a stand-in of its program."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from agents.agent_messages import AgentPolicy
from agents.program.agent.conditions import is_metered, why_paused

POLICY = AgentPolicy(
    number=1, issued_at=datetime(2026, 1, 1, tzinfo=UTC), pause_on_metered=True, pause_on_battery=False
)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which programs are looked for: there is none yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def network_manager(programs: Path, text: str) -> None:
    """Answers the question for the devices' METERED alone, as `nmcli -g` does: a line for each."""
    path = programs / "nmcli"
    path.write_text(f'#!/bin/sh\ncase "$*" in *GENERAL.METERED*) ;; *) exit 2 ;; esac\n{text}\n')
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("echo yes", True),
        ("echo 'yes (guessed)'", True),
        ("echo no; echo; echo yes", True),
        ("echo no; echo; echo 'no (guessed)'; echo unknown", False),
        ("", False),
        ("echo 'Error: NetworkManager is not running.' >&2; exit 8", False),
    ],
)
def test_a_metered_connection_puts_a_backup_off(programs: Path, text: str, expected: bool) -> None:
    network_manager(programs, text)

    assert is_metered() is expected
    assert why_paused(POLICY, supplies=programs, load=0) == ("The connection is metered." if expected else "")


def test_what_nobody_knows_or_nobody_asked_for_puts_nothing_off(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_metered()
    network_manager(programs, "echo yes")
    policy = AgentPolicy(number=1, issued_at=POLICY.issued_at, pause_on_metered=False, pause_on_battery=False)
    assert is_metered() and why_paused(policy, supplies=programs, load=0) == ""

    monkeypatch.setattr("agents.program.agent.conditions._PROGRAM_SECONDS", 0.2)
    network_manager(programs, "while :; do :; done")
    assert not is_metered()
