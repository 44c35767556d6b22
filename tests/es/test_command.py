"""The command `es` by itself: grammar, settings, output, waiting, and each way in which a server can be wrong."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupsite.es_command import configuration, waiting
from backupsite.es_command.client import Answer, Client
from backupsite.es_command.completion import PARAMETERS, RESOURCES
from backupsite.es_command.errors import EsError, TransportError
from backupsite.es_command.grammar import METHODS, parse
from backupsite.es_command.main import main
from tests.es.scripted_api import make_certificate, serving

TASK = "01a1ffe6-572b-7d77-a77f-a3ae5c78f4bc"
PENDING = (201, {"task_id": TASK, "status": "PENDING", "result": None})


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("ES_API_URL", "ES_API_KEY", "ES_CA_FILE", "ES_TOKEN_FILE", "ES_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("-dc admin -full", {"dc": "admin", "full": True}),
        ("-full -dc admin", {"full": True, "dc": "admin"}),
        ("-active false -note null -x TRUE", {"active": False, "note": None, "x": True}),
        ("-retention 30 -disk_id 1", {"retention": "30", "disk_id": "1"}),
        ('-bkpnames json::["a","b"]', {"bkpnames": ["a", "b"]}),
        ("-bkpnames a -bkpnames b -bkpnames c", {"bkpnames": ["a", "b", "c"]}),
        ("-bkpnames a,b", {"bkpnames": "a,b"}),
        # What begins with a dash and a letter is the next parameter, what begins otherwise is a value.
        ("-order_by +created -schedule -/5", {"order_by": "+created", "schedule": "-/5"}),
    ],
)
def test_parameters(words: str, found: dict[str, Any]) -> None:
    assert parse(["get", "/vm", *words.split()]).parameters == found


def test_a_value_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("two\nlines")

    assert parse(["set", "/x", "-note", f"file::{tmp_path}/note"]).parameters == {"note": "two\nlines"}


@pytest.mark.parametrize(("action", "method"), sorted(METHODS.items()))
def test_actions_are_methods(action: str, method: str) -> None:
    assert parse([action, "/vm"]).method == method


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("", 11),
        ("fetch /vm", 11),
        ("get /vm admin", 11),
        ("set /vm -x json::{", 11),
        ("set /vm -x file::/nowhere/at/all", 11),
        ("get", 12),
        ("get -full", 12),
        ("get /vm --yaml", 13),
        ("get /vm --tabulate-nonsense", 13),
        ("get /vm --csv --json", 13),
        ("help nonsense", 11),
        # Addresses get into logs: no key goes into one.
        ("get /vm -api_key bks_key.secret", 11),
        ("get /vm -x json::" + "[" * 100_000, 11),
        ("--help", 0),
        ("help", 0),
        ("--version", 0),
        ("help completion", 0),
    ],
)
def test_exit_codes_before_anything_is_asked(words: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == code
    told = capsys.readouterr()
    assert (told.out if code == 0 else told.err).strip()


WORDS = ["get", "help", "login", "/vm", "/", "-a", "-1", "-", "--", "---", "--csv", "--tabulate-", "", " ", "é", "\n"]
WORDS += ["json::[", "json::1", "file::", "file::/", "-d", "null", "-api-key", "--insecure"]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=6))
def test_no_words_break_it(words: list[str]) -> None:
    try:
        call = parse(words)
    except EsError as error:
        assert error.exit_code in {11, 12, 13}
    else:
        assert call.resource


def test_the_request_is_as_scripts_expect_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving((200, {"result": []})) as server:
        monkeypatch.setenv("ES_API_URL", f"{server.url}/")
        assert main(["get", "/vm/define/backup", "-dc", "admin", "-full", "-api-key", "bks_k.s"]) == 0
        assert main(["delete", "/vm/a b/backup", "-bkpnames", "x", "-bkpnames", "y"]) == 0
        assert main(["get", "/vm", "-bkpnames", "x", "-bkpnames", "y", "-note", "null"]) == 0

    first, second, third = server.asked
    assert (first.method, first.path, first.body) == ("GET", "/api/vm/define/backup/?dc=admin&full=true", None)
    assert first.headers["ES-API-KEY"] == "bks_k.s"
    assert (second.method, second.path, second.body) == ("DELETE", "/api/vm/a%20b/backup/", {"bkpnames": ["x", "y"]})
    assert third.path == "/api/vm/?bkpnames=x&bkpnames=y"
    assert "ES-API-KEY" not in second.headers


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((200, {"result": 1}), 0),
        ((401, {"detail": "no"}), 1),
        ((404, {"detail": "no"}), 1),
        ((502, b"<html>Bad Gateway"), 2),
        # A key goes to nobody else: nothing is followed.
        ((302, b""), 0),
        (None, 3),
        ((200, b"\xff\xfe"), 0),
        ((200, b"[" * 100_000), 0),
    ],
)
def test_exit_codes_by_answer(
    answer: Any, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(answer) as server:
        monkeypatch.setenv("ES_API_URL", server.url)
        assert main(["get", "/vm"]) == code

    told = capsys.readouterr()
    assert len(server.asked) == 1
    assert code != 3 or "does not answer" in told.err
    assert ("es login" in told.err) is (answer is not None and answer[0] == 401)


def test_bytes_that_are_no_text_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "/vm/\udce9"]) == 11
    assert "UTF-8" in capsys.readouterr().err


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ES_API_URL", "http://127.0.0.1:1/api")

    assert main(["get", "/vm"]) == 3


def test_a_certificate_is_checked_unless_it_is_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = make_certificate(tmp_path / "server.pem")
    with serving((200, {"result": []}), certificate=certificate) as server:
        monkeypatch.setenv("ES_API_URL", server.url)
        assert main(["get", "/vm", "-api-key", "secret"]) == 3
        assert "not trusted" in capsys.readouterr().err
        assert server.asked == []
        assert main(["get", "/vm", "--insecure"]) == 0
        assert "not checked" in capsys.readouterr().err
        monkeypatch.setenv("ES_CA_FILE", str(certificate))
        assert main(["get", "/vm"]) == 0
        monkeypatch.setenv("ES_CA_FILE", str(tmp_path / "none"))
        assert main(["get", "/vm"]) == 11


def test_a_key_goes_nowhere_in_clear(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ES_API_URL", "http://backup.example.com/api")

    assert main(["get", "/vm", "-api-key", "secret"]) == 11
    assert "https" in capsys.readouterr().err


def test_settings_of_the_file_and_of_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "es").mkdir()
    file = home / "es" / "es.toml"
    file.write_text('url = "https://one.example.com/api/"\napi_key = "of-file"\ntimeout_seconds = 5\n')
    file.chmod(0o600)
    found = configuration.load({"XDG_CONFIG_HOME": str(home), "HOME": str(home)})
    assert (found.url, found.api_key, found.timeout_seconds) == ("https://one.example.com/api", "of-file", 5)
    assert "of-file" not in repr(found)
    assert configuration.load({"XDG_CONFIG_HOME": str(home), "ES_API_KEY": "of-env"}).api_key == "of-env"

    for text, mode in (
        ('api_key = "x"', 0o644),
        ("url = 5", 0o600),
        ('unknown = "x"', 0o600),
        ('url = "ftp://x"', 0o600),
        ('url = "https://user:pass@x/api"', 0o600),
        ('url = "https://x:port/api"', 0o600),
        ('url = "https://[x/api"', 0o600),
        ('csv_delimiter = "ab"', 0o600),
        ("timeout_seconds = 0", 0o600),
        ('api_key = "a\\nb"', 0o600),
        ("= broken", 0o600),
    ):
        file.write_text(text)
        file.chmod(mode)
        assert main(["get", "/vm"]) == 11, text
    monkeypatch.setenv("ES_CONFIG", str(home / "none"))
    assert main(["get", "/vm"]) == 11


def test_a_sign_in_is_kept_for_its_server_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The end of the line is none of the password.
    (home / "password").write_text("secret word\n")
    kept = home / "es" / "session.json"
    with serving((200, {"token": "bks_t", "expires": "x", "detail": "Signed in."})) as server:
        monkeypatch.setenv("ES_API_URL", server.url)
        assert main(["login", "-username", "anna", "-password", f"file::{home}/password"]) == 0
        assert "bks_t" not in capsys.readouterr().out
        assert (stat.S_IMODE(kept.stat().st_mode), json.loads(kept.read_text())["token"]) == (0o600, "bks_t")
        assert main(["get", "/vm"]) == 0
        assert main(["get", "/vm", "-api-key", "k"]) == 0
        with serving((200, {})) as elsewhere:
            monkeypatch.setenv("ES_API_URL", elsewhere.url)
            assert main(["get", "/vm"]) == 0
        monkeypatch.setenv("ES_API_URL", server.url)
        kept.chmod(0o640)
        assert main(["get", "/vm"]) == 11
        kept.chmod(0o600)
        assert main(["logout"]) == 0

    login, get, keyed, logout = server.asked
    assert (login.path, login.body) == ("/api/accounts/login/", {"username": "anna", "password": "secret word"})
    assert "Authorization" not in login.headers
    assert get.headers["Authorization"] == "Token bks_t"
    assert "Authorization" not in keyed.headers
    assert (logout.method, logout.headers["Authorization"]) == ("GET", "Token bks_t")
    assert "Authorization" not in elsewhere.asked[0].headers
    assert not kept.exists()


@pytest.mark.parametrize("answer", [(401, {"detail": "Wrong\x1b[2J."}), (200, {}), (200, b"html"), (502, b"")])
def test_a_sign_in_that_does_not_work_is_4(
    answer: Any, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(answer) as server:
        monkeypatch.setenv("ES_API_URL", server.url)
        assert main(["login", "-username", "anna", "-password", "x"]) == 4

    told = capsys.readouterr().err
    assert told.startswith("Not signed in") and "\x1b" not in told
    assert not (home / "es" / "session.json").exists()


def test_a_task_is_waited_for_and_its_end_is_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = (200, {"task_id": TASK, "status": "PENDING", "phase": "writing", "percent": 5})
    failed = (400, {"task_id": TASK, "status": "FAILURE", "result": {"detail": "no space"}})
    paused: list[float] = []
    # The server is away for a moment, and too busy for another.
    away = [None, (503, b""), (429, {}), (200, b"<html>of a proxy")]
    ended = (200, {"status": "FAILURE"})
    answers = [PENDING, running, *away, running, ended, (502, b""), ended, failed]
    with serving(*answers) as server:
        monkeypatch.setenv("ES_API_URL", server.url)
        assert main(["create", "/vm/a/backup/daily"], pause=paused.append) == 1

    told = capsys.readouterr()
    assert json.loads(told.out)["text"]["result"]["detail"] == "no space"
    assert (json.loads(told.out)["method"], json.loads(told.out)["status"]) == ("POST", 400)
    # No terminal, no progress.
    assert told.err == ""
    assert [asked.path for asked in server.asked[1:]] == [
        *([f"/api/task/{TASK}/"] * 7),
        *([f"/api/task/{TASK}/status/", f"/api/task/{TASK}/"]),
        f"/api/task/{TASK}/status/",
    ]
    assert paused == sorted(paused)


def test_a_task_is_not_waited_for_when_that_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(PENDING) as server:
        monkeypatch.setenv("ES_API_URL", server.url)
        assert main(["create", "/vm/a/backup/daily", "--no-wait"]) == 0

    assert len(server.asked) == 1


def test_who_stops_waiting_is_told_that_the_task_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    with serving(PENDING) as server:
        monkeypatch.setenv("ES_API_URL", server.url)
        assert main(["create", "/vm/a/backup/daily"], pause=interrupted) == 5

    assert f"goes on. See: es get /task/{TASK}/status" in capsys.readouterr().err


def test_a_server_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(waiting, "_MOST_FAILURES", 2)
    with serving((503, b"")) as server:
        client = Client(configuration.Configuration(url=server.url, token_file=tmp_path / "t"), secrets={})
        with pytest.raises(TransportError, match="goes on"):
            waiting.wait_for(client, Answer("POST", "", *PENDING), pause=lambda seconds: None, screen=None)


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    told = {"task_id": TASK, "status": "PENDING", "phase": "writing", "percent": 25}
    told |= {"done_bytes": 256 << 20, "total_bytes": 1 << 30}
    screen = io.StringIO()
    with serving((200, told), (200, {**told, "status": "SUCCESS"}), (200, {"status": "SUCCESS"})) as server:
        client = Client(configuration.Configuration(url=server.url, token_file=tmp_path / "t"), secrets={})
        waiting.wait_for(client, Answer("POST", "", *PENDING), pause=lambda seconds: None, screen=screen)

    assert screen.getvalue().startswith(f"Waiting for task {TASK}\n\r")
    assert "writing, 25 %, 256 of 1024 MiB" in screen.getvalue()
    assert "\x1b" not in waiting.progress({"waits": "\x1b]0;owned\x07"})


@pytest.mark.parametrize(
    ("looks", "shown"),
    [
        # Seconds and MiB of 1024: one look says nothing about a rate.
        ([(0, 100)], "100 of 1024 MiB"),
        ([(0, 100), (0.5, 200)], "200 of 1024 MiB"),
        ([(0, 0), (10, 64)], "64 of 1024 MiB, 6.4 MiB/s, 2:30 left"),
        # By what moved lately, not by what an hour long did.
        ([(0, 0), (3600, 24), (3610, 124), (3630, 324)], "324 of 1024 MiB, 10 MiB/s, 1:10 left"),
        ([(0, 0), (8, 1)], "1 of 1024 MiB, 0.1 MiB/s, 2:16:24 left"),
        ([(0, 100), (10, 100)], "100 of 1024 MiB, nothing moved for 0:10"),
        ([(0, 0), (10, 100), (100, 100)], "100 of 1024 MiB, nothing moved for 1:30"),
        ([(0, 0), (10, 1024)], "1024 of 1024 MiB, 102.4 MiB/s"),
        # What was stored is looked at.
        ([(0, 0), (10, 1024), (100, 1024)], "1024 of 1024 MiB"),
        # It began anew: what was before is not counted.
        ([(0, 500), (10, 0), (20, 50)], "50 of 1024 MiB, 5 MiB/s, 3:15 left"),
    ],
)
def test_rate_and_time_left_are_those_of_what_moved_lately(looks: list[tuple[float, int]], shown: str) -> None:
    pace = waiting.Pace()
    for seconds, done in looks:
        told = {"done_bytes": done << 20, "total_bytes": 1 << 30}
        text = waiting.progress(told, pace.after(told, at=seconds))

    assert text == shown


def test_bytes_without_a_total_have_a_rate_and_no_end(tmp_path: Path) -> None:
    """As `es` looks, by its own clock: the server's need not be right."""
    looks = iter([0.0, 10.0, 20.0])
    told = {"task_id": TASK, "status": "PENDING", "phase": "reading", "total_bytes": 0}
    running = [(200, {**told, "done_bytes": done << 20}) for done in (0, 50)]
    screen = io.StringIO()
    with serving(*running, (200, {"status": "SUCCESS"})) as server:
        client = Client(configuration.Configuration(url=server.url, token_file=tmp_path / "t"), secrets={})
        begun = Answer("POST", "", *PENDING)
        waiting.wait_for(client, begun, pause=lambda seconds: None, screen=screen, clock=lambda: next(looks))

    assert "reading, 50 MiB, 5 MiB/s" in screen.getvalue()
    assert "left" not in screen.getvalue()


def test_on_a_terminal_it_shows_how_far_it_is_and_ends_by_ctrl_c(home: Path) -> None:
    """A process of its own, which has a terminal for its errors."""
    running = (200, {"task_id": TASK, "status": "PENDING", "phase": "writing", "percent": 5})
    screen, terminal = os.openpty()
    seen = b""
    with serving(PENDING, running) as server:
        environment = {**os.environ, "ES_API_URL": server.url, "TERM": "xterm"}
        command = [sys.executable, "-m", "backupsite.es_command", "create", "/vm/a/backup/daily"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=terminal) as process:
            os.close(terminal)
            while b"writing, 5 %" not in seen:
                seen += os.read(screen, 4096)
            process.send_signal(signal.SIGINT)
            assert (process.communicate(timeout=60)[0], process.returncode) == (b"", 5)
    with suppress(OSError):
        while rest := os.read(screen, 4096):
            seen += rest
    os.close(screen)

    assert f"goes on. See: es get /task/{TASK}/status".encode() in seen
    assert b"Traceback" not in seen


def test_an_empty_list_is_no_line_and_what_a_terminal_cannot_show_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving((200, {"result": []}), (200, {"result": ["日本"]})) as server:
        monkeypatch.setenv("ES_API_URL", server.url)
        assert main(["get", "/vm", "--csv"]) == 0
        assert capsys.readouterr().out == ""
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
        assert main(["get", "/vm", "--csv"]) == 8

    assert "PYTHONIOENCODING=utf-8" in capsys.readouterr().err


def test_every_line_of_the_manual_is_grammar_and_every_resource_is_in_it() -> None:
    manual = (Path(__file__).resolve().parents[2] / "docs" / "es.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", manual, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("es ")]

    for line in lines:
        call = parse(shlex.split(line)[1:])
        assert set(call.parameters) <= set(PARAMETERS), line
    assert len(lines) >= 10
    assert all(f"`{resource}`" in manual for resource in RESOURCES)
    assert all(f"`{name}`" in manual or f"-{name}" in manual for name in PARAMETERS)
