"""Names that a user of the server chose, to look like something else where they are shown."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import msgspec
import pytest

from agents.drivers.base import DriverError, Warned
from agents.drivers.host_snapshots import live_place
from agents.program.agent import logs
from agents.program.agent.places import Places
from agents.program.naming_files import shown_path
from agents.program.running import failure_of, warned


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain name", "plain name"),
        ("Grüße".encode(), "Grüße"),
        (b"a\nERROR all is lost", "a\\nERROR all is lost"),
        (b"a\x1b[2J\x07\x7f", "a\\x1b[2J\\x07\\x7f"),
        ("fdp\u202egpj.exe".encode(), "fdp\\u202egpj.exe"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("\u2028\x85".encode(), "\\u2028\\x85"),
        (b"", "the root"),
    ],
)
def test_a_name_is_shown_as_a_program_would_write_it(name: bytes, shown: str) -> None:
    assert shown_path(name) == shown


def test_what_is_told_to_the_gate_can_be_encoded_and_has_no_signs_that_act() -> None:
    """A mount point that is no UTF-8 ended every backup of its server."""
    point = b"/srv/\xff\x1b[2J\n".decode("utf-8", "surrogateescape")
    [warning] = live_place(point, "no snapshot").warnings
    failure = failure_of(DriverError(f"{point} cannot be opened"))
    assert failure is not None
    for message in (*warned([warning, Warned("other", point)]), failure):
        assert b"/srv/\\\\xff\\\\x1b[2J\\\\n" in msgspec.json.encode(message)


def test_no_name_begins_a_line_of_the_log(tmp_path: Path) -> None:
    places, root = Places(tmp_path / "etc", tmp_path / "state"), logging.getLogger()
    places.state.mkdir(mode=0o755)
    before = root.handlers[:], root.level
    try:
        logs.set_up(places)
        forged = "x\n2026-01-01T00:00:00Z INFO all is well"
        try:
            raise OSError(2, "gone", forged)
        except OSError:
            logging.getLogger("test").error("%s: %s", "failed", forged, exc_info=True, extra={"mount": forged})
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:], root.level = before
    lines = places.log.read_text().splitlines()
    assert "INFO all is well" in lines[0] and len(lines) > 2
    assert all(line.startswith("    ") for line in lines[1:])
    assert places.state.stat().st_mode & 0o777 == 0o700


def test_the_program_leaves_no_core_file(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    from agents.program.agent import cli

    before = resource.getrlimit(resource.RLIMIT_CORE)
    monkeypatch.setattr(sys, "stdout", sys.stderr)
    try:
        cli.main(["--home", "/nonexistent", "status"])
        assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
