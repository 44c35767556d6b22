"""The commands: what programs read of them, the codes they end with, and the bar that people see."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import uuid
from pathlib import Path

import msgspec
import pytest

from agents import agent_messages as messages
from agents.program.agent import cli, commands, errors
from agents.program.agent.errors import EXIT_CODES, AgentError, JobFailedError
from agents.program.agent.moving import MoveEvent
from agents.program.agent.places import Places
from agents.program.agent.showing import Bar
from tests.agents.program_machine import POLICY, ROOT, Machine, contents
from tests.agents.stand_in import eventually

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a whole server is read by root alone")


# --- documents --------------------------------------------------------------------------------------------------------


def test_logs_give_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", str(tmp_path)]
    assert cli.main([*home, "logs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"lines": []}
    log = Places.of(str(tmp_path)).log
    log.parent.mkdir(parents=True)
    log.write_text("".join(f'2026-11-22T00:00:0{number}Z INFO line {number} "quoted"\n' for number in range(5)))

    assert cli.main([*home, "logs", "--json", "-n", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"lines": [f'2026-11-22T00:00:0{number}Z INFO line {number} "quoted"' for number in (3, 4)]}
    assert cli.main([*home, "logs", "-n", "1"]) == 0
    assert capsys.readouterr().out == f"{told['lines'][-1]}\n"
    # A document has an end.
    assert cli.main([*home, "logs", "--json", "--follow"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "bad_configuration"


def test_every_command_of_people_but_the_service_gives_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    names = re.findall(r"^ {4}([a-z-]+) ", capsys.readouterr().out, re.MULTILINE)
    without = []
    for name in names:
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        without += [] if "--json" in capsys.readouterr().out else [name]

    assert without == ["daemon"] and {"logs", "run", "restore", "doctor"} <= set(names)


@needs_root
def test_a_backup_that_is_only_asked_for_is_named_and_not_called_done(machine: Machine) -> None:
    plane, gate = machine.plane, machine.plane.gate
    machine.enrol()
    machine.fill(5)
    machine.start("daemon")
    eventually(lambda: plane.polls)
    gate.back_up()

    told = machine.json("run", "--no-wait")
    assert (told["kind"], told["done"]) == ("backup", False) and set(told) == {"job", "kind", "done"}
    eventually(lambda: gate.commits)
    eventually(lambda: machine.json("status")["last_backup"])
    assert machine.json("status")["last_backup"]["job"] == told["job"]

    gate.back_up()
    assert re.fullmatch(r"Asked for: job \S+\.\n", machine.run("run", "--no-wait"))
    eventually(lambda: len(gate.commits) == 2)
    gate.back_up()
    whole = machine.json("run")
    assert whole["done"] is True and whole["job"] and whole["kind"] == "backup"


@needs_root
def test_a_backup_of_another_server_is_brought_back_by_its_whole_id(machine: Machine, tmp_path: Path) -> None:
    """Its manifest is signed by the other server's agent: the control plane says whose key counts."""
    plane, gate = machine.plane, machine.plane.gate
    machine.enrol()
    machine.fill(10)
    gate.back_up()
    machine.run("run")
    first_key = plane.writer_key
    (tmp_path / "second").mkdir()
    second = Machine(tmp_path / "second", plane)
    try:
        second.enrol()
        assert plane.writer_key != first_key
        backup = str(uuid.uuid4())
        # By its name it is not found: names are of this server's own backups alone.
        said = second.run("restore", "another-1", "--to", str(second.root / "restored"), code=2)
        assert "another-1" in said and "its whole id" in said
        # Somebody else's, and one that is nowhere: the control plane's own words, the same for both.
        for one in (backup, str(uuid.uuid4())):
            plane.refuse["restores/"] = [(404, "not_found")]
            said = second.run("restore", one, "--to", str(second.root / "restored"), code=5)
            assert said == "backupsite-agent: refused: not_found\n"
        own_key, plane.writer_key = plane.writer_key, first_key
        gate.restore()
        plane.restore = messages.RestoreAsked("r1", "AB-12", "https://portal/x", plane.now(), "confirmed", "restore-1")
        plane.offers.append(messages.JobOffer("restore-1", "restore", begins_at_once=True))
        plane.writer_key = own_key
        plane.wishes.clear()

        assert backup in second.run("restore", backup, "--to", str(second.root / "restored"))
        assert [(one.backup, one.target) for one in plane.wishes] == [(backup, "/restored")]
        assert contents(second.root / "restored") == contents(machine.root) and len(contents(machine.root)) == 10
        assert "backups/" in plane.asked
    finally:
        second.end()


# --- exit codes -------------------------------------------------------------------------------------------------------

LINE = re.compile(r"^ *([0-9]+) {2,}(\S.*)$", re.MULTILINE)


def table_of(text: str) -> dict[int, str]:
    return {int(code): meaning.strip() for code, meaning in LINE.findall(text)}


def test_help_docs_and_program_say_the_same_of_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out

    assert table_of(shown.split("exit codes:")[1]) == dict(EXIT_CODES)
    assert table_of(cli.__doc__ or "") == dict(EXIT_CODES)
    docs = (ROOT / "docs/agent.md").read_text().split("| exit code | meaning |")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| ([0-9]+) \| (.+) \|$", docs, re.MULTILINE))
    assert {int(code): text.replace("`", "") for code, text in rows.items()} == dict(EXIT_CODES)
    own = {value for name, value in vars(errors).items() if name.startswith("EXIT_") and isinstance(value, int)}
    assert own == set(EXIT_CODES)
    raised = {
        kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AgentError)
    }
    assert raised <= own


@needs_root
def test_7_a_backup_that_failed(machine: Machine) -> None:
    machine.configure(hooks=True)
    machine.plane.policy = msgspec.structs.replace(POLICY, allows_hooks=True)
    machine.enrol()
    machine.places.hooks.mkdir(mode=0o700)
    hook = machine.places.hooks / "pre-1"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o700)
    machine.plane.gate.back_up()

    said = machine.json("run", code=7)
    assert said["error"]["code"] == machine.plane.gate.failures[0].code == "hook_failed"
    assert JobFailedError.exit_code == 7


def test_70_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(options: object) -> int:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(commands, "run_status", fails)
    words = ["--home", str(tmp_path), "status"]
    assert cli.main(words) == 70
    assert "internal error (ZeroDivisionError: by nothing); --debug shows where" in capsys.readouterr().err
    assert cli.main([*words, "--json"]) == 70
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "internal_error"
    with pytest.raises(ZeroDivisionError):
        cli.main(["--debug", *words])


@needs_root
def test_75_the_service_is_to_be_started_again(machine: Machine) -> None:
    """Also for the keys that certificates may have: they are read at the start."""
    machine.enrol()
    machine.plane.policy = msgspec.structs.replace(POLICY, number=2, tls_pins=[bytes(32)])

    daemon = machine.start("daemon")
    assert daemon.wait(30) == 75


@needs_root
@pytest.mark.parametrize("is_running", [False, True], ids=["by itself", "by the service"])
def test_130_somebody_interrupts_what_he_waits_for(machine: Machine, is_running: bool) -> None:
    gate = machine.plane.gate
    machine.enrol()
    machine.fill(10)
    gate.before_put = lambda _: 503
    gate.back_up()
    if is_running:
        machine.start("daemon")
        eventually(lambda: machine.plane.polls)
    run = machine.start("run")
    eventually(lambda: gate.puts)

    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=30)
    assert (run.returncode, said.decode().splitlines()[-1]) == (130, "backupsite-agent: interrupted")
    assert not gate.commits
    if is_running:
        # Only who waited is gone; the service works on.
        gate.before_put = lambda _: 200
        eventually(lambda: gate.commits)


# --- the bar ----------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


EVENTS = [
    MoveEvent("starting"),
    MoveEvent("copying", 0, 4 << 20, 0),
    MoveEvent("copying", 1 << 20, 4 << 20, 1 << 19),
    MoveEvent("copying", 2 << 20, 4 << 20, 1 << 19, held="The machine runs on battery."),
    MoveEvent("copying", 5 << 20, 4 << 20, 3 << 20),
]


def test_a_terminal_sees_one_line_that_grows() -> None:
    stream = Terminal()
    bar = Bar(stream)
    for event in EVENTS:
        bar.show(event)
    bar.done()

    first, *lines = stream.getvalue().split("\r\x1b[K")
    assert first == "" and lines == [
        "starting  0 B read, 0 B stored",
        f"copying [{'.' * 30}]   0% 0 B read, 0 B stored",
        f"copying [{'#' * 8}{'.' * 22}]  25% 1.0 MiB read, 512.0 KiB stored",
        f"copying [{'#' * 15}{'.' * 15}]  50% 2.0 MiB read, 512.0 KiB stored, held: The machine runs on battery.",
        f"copying [{'#' * 30}] 100% 5.0 MiB read, 3.0 MiB stored\n",
    ]


def test_elsewhere_there_is_a_line_for_each_phase_and_no_sign_of_a_terminal() -> None:
    stream = io.StringIO()
    bar = Bar(stream)
    for event in [*EVENTS, MoveEvent("sealing\x1b[2J\r", 4 << 20, 4 << 20)]:
        bar.show(event)
    bar.done()

    assert stream.getvalue() == "starting\ncopying\nsealing [2J \n"


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_who_wants_a_document_sees_no_bar(stream: io.StringIO) -> None:
    bar = Bar(stream, quiet=True)
    for event in EVENTS:
        bar.show(event)
    bar.done()

    assert stream.getvalue() == ""


def test_a_bar_that_showed_nothing_ends_no_line() -> None:
    stream = Terminal()
    Bar(stream).done()

    assert stream.getvalue() == ""
