"""What the commands say on a bad day: what happened and what to do, in one line, with the exit code of the manual."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from agents.agent_messages import AgentPolicy
from agents.program.agent import cli
from agents.program.agent.files import only_one
from agents.program.agent.memory import Anchor, boot_id, load_memory, save_memory
from agents.program.agent.places import Places
from agents.program.agent.policy import keep_policy
from tests.agents.stand_in import ControlPlane
from tests.agents.test_program_trust import Authority

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, and becomes somebody else")
POLICY = AgentPolicy(number=1, issued_at=datetime(2026, 1, 1, tzinfo=UTC), start_jitter_seconds=0)
NOBODY = 65534
YEARS = 9 * 365 * 86400.0


@dataclass
class Day:
    """An enrolled agent, its state on a small file system of its own, and a control plane with TLS."""

    places: Places
    plane: ControlPlane
    authority: Authority

    def shows(self, name: str) -> None:
        """From now on the control plane's certificate is this one."""
        assert self.plane.http is not None
        self.context.load_cert_chain(self.authority.folder / f"{name}.pem")

    def start(self, *, pinned: bool) -> None:
        self.context, pin = self.authority.server("control plane")
        self.plane.tls_pins = [pin] if pinned else []
        self.plane.start(tls=self.context)


Bad = Callable[[Day], AbstractContextManager[None] | None]


def is_away(day: Day) -> None:
    day.plane.stop()


def has_another_key(day: Day) -> None:
    day.authority.server("somebody between")
    day.shows("somebody between")


def is_off_by_years(day: Day) -> None:
    day.authority.server("of another time", days=(800, 900))
    day.shows("of another time")
    memory, now = load_memory(day.places), time.time()
    memory.anchor = Anchor(now - YEARS, time.clock_gettime(time.CLOCK_BOOTTIME), now, boot_id())
    save_memory(day.places, memory)


def is_full(day: Day) -> None:
    filler = day.places.state / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def is_read_only(day: Day) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(day.places.state)], check=True)


def refuses(code: str) -> Bad:
    def bad(day: Day) -> None:
        for path in ("start/", "backups/"):
            day.plane.refuse[path] = [(403, code)] * 9
        memory = load_memory(day.places)
        memory.status, memory.problem_code, memory.problem = code, code, "An administrator decides."
        save_memory(day.places, memory)

    return bad


def policy_refuses(day: Day) -> None:
    keep_policy(day.places, day.plane.sign(msgspec.structs.replace(POLICY, allows_run_now=False)))


def policy_is_damaged(day: Day) -> None:
    day.places.policy.write_text("{")


@contextmanager
def not_root(day: Day) -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def another_runs(day: Day) -> Iterator[None]:
    """A service holds both."""
    with only_one(day.places.service_lock), only_one(day.places.lock):
        yield


def not_enrolled(day: Day) -> None:
    day.places.identity.unlink()


def file_of_settings_is_wrong(day: Day) -> None:
    with day.places.settings.open("a") as file:
        file.write("exclude = []\n")


# What is bad; with which exit code each command ends, and what one line of what it says has. `run` also by its code.
SAME = r"Run it as root"
CASES: dict[str, tuple[Bad, dict[str, tuple[int, str]], str]] = {
    "control plane away": (
        is_away,
        {
            "run": (4, r"does not answer: .*refused.* `backupsite-agent doctor`"),
            "status": (0, r"last contact +never"),
            "doctor": (1, r"does not answer.*refused"),
        },
        "control_unreachable",
    ),
    "pinned key changed": (
        has_another_key,
        {
            "run": (6, r"not the one pinned .* enrol again"),
            "status": (0, ""),
            "doctor": (1, r"BAD +tls: .*not the one pinned"),
        },
        "wrong_tls_key",
    ),
    "clock years off": (
        is_off_by_years,
        {
            "run": (6, r"not valid at this machine's time .*Set its clock"),
            "status": (0, r"clock +2838\d+ seconds ahead; set it"),
            "doctor": (1, r"BAD +clock: 2838\d+ seconds ahead"),
        },
        "not_trusted",
    ),
    "disk full": (
        is_full,
        {
            "run": (1, r"No space left .* kept in .*/lib: make room"),
            "status": (0, ""),
            "doctor": (1, r"BAD +space: 0 MiB free"),
            "rotate-key": (1, r"make room"),
        },
        "state_unwritable",
    ),
    "file system read-only": (
        is_read_only,
        {
            "run": (1, r"Read-only file system.* kept in .*/lib: mount it"),
            "status": (0, ""),
            "doctor": (1, r"BAD +state: its file system is read-only"),
            "daemon": (1, r"mount it so that it can be written"),
        },
        "state_unwritable",
    ),
    "quarantined": (
        refuses("agent_quarantined"),
        {
            "run": (5, "refused: agent_quarantined"),
            "status": (0, r"trouble +An administrator decides\. \(agent_quarantined\)"),
            "doctor": (1, r"BAD +control plane: .*agent_quarantined"),
        },
        "agent_quarantined",
    ),
    "revoked": (
        refuses("agent_revoked"),
        {
            "run": (5, "refused: agent_revoked"),
            "status": (0, r"status +agent_revoked"),
            "doctor": (1, r"BAD +control plane: .*agent_revoked"),
        },
        "agent_revoked",
    ),
    "policy refuses": (
        policy_refuses,
        {"run": (5, r"allows no backup beside its schedule\. Ask"), "status": (0, r"policy +1"), "doctor": (1, "")},
        "run_not_allowed",
    ),
    "policy is damaged": (
        policy_is_damaged,
        {"status": (0, r"trouble +.*policy.json is damaged"), "doctor": (1, r"BAD +policy: .*policy.json is damaged")},
        "",
    ),
    "not root": (
        not_root,
        {"run": (1, SAME), "status": (1, SAME), "doctor": (1, SAME), "unenrol": (1, SAME)},
        "not_permitted",
    ),
    "two instances": (
        another_runs,
        {
            "daemon": (8, rf"process {os.getpid()}.*End it first"),
            "unenrol": (8, "systemctl stop"),
            "status": (0, r"service +running"),
        },
        "",
    ),
    "not enrolled": (
        not_enrolled,
        {"run": (3, "enrol TOKEN --url"), "status": (3, "enrol TOKEN"), "doctor": (1, "enrol TOKEN")},
        "not_enrolled",
    ),
    "a line of agent.toml is wrong": (
        file_of_settings_is_wrong,
        {"run": (2, r"agent.toml: .*`exclude`"), "status": (2, "agent.toml"), "doctor": (1, "agent.toml")},
        "bad_configuration",
    ),
}


@pytest.fixture
def day(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Day]:
    places = Places.of(str(tmp_path / "home"))
    (tmp_path / "server").mkdir()
    (tmp_path / "tls").mkdir()
    places.config.mkdir(parents=True, mode=0o700)
    places.state.mkdir(mode=0o700)
    authority = Authority(tmp_path / "tls")
    told = {"root": str(tmp_path / "server"), "ca_file": str(authority.file)}
    places.settings.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in told.items()))
    places.settings.chmod(0o600)
    day = Day(places, ControlPlane(policy=POLICY), authority)
    day.start(pinned=request.node.callspec.id != "clock years off")
    root, small = logging.getLogger(), str(places.state)
    before = root.handlers[:], root.level
    with ExitStack() as after:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", small], check=False)
        if mounted.returncode == 0:
            after.callback(subprocess.run, ["umount", "-l", small], check=True)
        elif request.node.callspec.id in {"disk full", "file system read-only"}:
            pytest.skip("nothing can be mounted here")
        after.callback(day.plane.stop)
        assert cli.main(["--home", str(tmp_path / "home"), "enrol", day.plane.token, "--url", day.plane.url]) == 0
        yield day
        root.handlers[:], root.level = before


@pytest.mark.case("AG-01", "AG-05", "AG-09", "AG-11", "AG-12")
@pytest.mark.parametrize("case", CASES)
def test_what_is_said_on_a_bad_day(day: Day, capsys: pytest.CaptureFixture[str], case: str) -> None:
    bad, commands, code = CASES[case]
    home = str(day.places.state.parent)

    with bad(day) or nullcontext():
        capsys.readouterr()
        for command, (expected, words) in commands.items():
            found = cli.main(["--home", home, command])
            said = "".join(capsys.readouterr())
            assert (found, "internal" in said) == (expected, False), (command, said)
            assert any(re.search(words, line) for line in said.splitlines()), (command, said)
            if found and command != "doctor":
                assert len(said.splitlines()) == 1, said
        if code:
            assert cli.main(["--home", home, "run", "--json"]) == commands["run"][0]
            assert json.loads(capsys.readouterr().out)["error"]["code"] == code

    assert "start/" not in day.plane.asked or case in {"quarantined", "revoked"}
