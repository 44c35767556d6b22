"""The installer: what the portal gives out, and the script itself, run by a real shell below one directory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pty
import shutil
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from tests.agents.stand_in import ControlPlane

ROOT = Path(__file__).parents[2]
_TOOLS = ("tar", "gzip", "sha256sum", "mktemp", "mkdir", "rm", "dirname", "id", "cat")
# Stands for the program: it writes down what it was asked, and what it was told on standard input.
PROGRAM = """#!/bin/sh
[ "$1" = --version ] && { echo "backupsite-agent 9.9 release 7"; exit 0; }
[ "$3" = status ] && ! grep -qs bsa1 "$BACKUPSITE_AGENT_PREFIX/said" && exit 3
{ printf '%s\\n' "$*"; [ "$3" = enrol ] && cat; } >> "$BACKUPSITE_AGENT_PREFIX/said"
exit 0
"""


def archive(program: str = PROGRAM) -> bytes:
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w:gz") as tar:
        files = {"bin/backupsite-agent": program.encode()}
        for name in ("run.sh", "backupsite-agent.service", "backupsite-agent.sh"):
            files[name] = (ROOT / "tools/agent" / name).read_bytes()
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
    return found.getvalue()


def released(folder: Path, data: bytes, **more: Any) -> None:
    (folder / "agent").mkdir(exist_ok=True)
    name = "backupsite-agent-9.9-7.tar.gz"
    (folder / "agent" / name).write_bytes(data)
    told = {
        "number": 7,
        "version": "9.9",
        "file": name,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    (folder / "agent" / "release.json").write_text(json.dumps({**told, **more}))


@pytest.fixture
def config(tmp_path: Path, settings: Any) -> Path:
    url = "https://backup.example.com"
    changed = {"data": tmp_path, "portal_url": url, "gate_url": f"{url}/it's"}
    settings.CONFIG = settings.CONFIG.model_copy(update=changed)
    return tmp_path


def test_the_script_and_the_archive_are_for_everybody(config: Path, client: Client) -> None:
    assert client.get("/agent/install.sh").status_code == 503
    data = archive()
    released(config, data)
    answer = client.get("/agent/install.sh")
    script = answer.content.decode()
    assert (
        answer.status_code == 200
        and hashlib.sha256(data).hexdigest() in script
        and "@" not in script.split("PREFIX")[0]
    )
    assert """URL='https://backup.example.com/it'"'"'s'""" in script
    # All of it or nothing: the last line is what runs it.
    assert script.rstrip().endswith('main "$@"')
    name = "backupsite-agent-9.9-7.tar.gz"
    assert b"".join(client.get(f"/agent/downloads/{name}").streaming_content) == data
    assert client.post("/agent/install.sh").status_code == 405
    for other in ("release.json", "..%2Fkey", "backupsite-agent-9.9-6.tar.gz"):
        assert client.get(f"/agent/downloads/{other}").status_code == 404
    released(config, data, file="../secret.tar.gz")
    assert client.get("/agent/install.sh").status_code == 503


@pytest.mark.skipif(os.geteuid() != 0, reason="the installer wants root")
def test_the_script_installs_enrols_and_removes(tmp_path: Path) -> None:
    plane = ControlPlane().start()
    try:
        # A program that does not start is one for a newer C library; without any Python there is no other way.
        run = Script(tmp_path, plane, archive("no program"), tools=True)
        assert "no Python 3.11" in run("bsa1.token", code=1)
        assert not (tmp_path / "opt/backupsite-agent/current").exists()
        data = archive()
        run = Script(tmp_path, plane, data)
        said = run("bsa1.token")
        assert "not started: it was installed below" in said
        programs = tmp_path / "opt/backupsite-agent"
        assert os.readlink(programs / "current") == "releases/7" and os.access(programs / "run.sh", os.X_OK)
        assert (tmp_path / "etc/backupsite-agent").stat().st_mode & 0o777 == 0o700
        asked = (tmp_path / "said").read_text()
        assert f"enrol - --url {plane.url}\nbsa1.token" in asked
        assert "unknown option" in run("--nonsense", code=1)
        (tmp_path / "var/lib/backupsite-agent").mkdir(parents=True)
        run("--uninstall", "--purge")
        assert "unenrol --purge" in (tmp_path / "said").read_text()
        assert not programs.exists() and not (tmp_path / "var/lib/backupsite-agent").exists()
        plane.gate.objects["/vault/agent.tar.gz"] += b"x"
        assert "SHA-256 is another one" in run("bsa1.token", code=1) and not (programs / "releases/7").exists()
    finally:
        plane.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="the installer wants root")
def test_what_the_package_installed_is_the_package_managers(tmp_path: Path) -> None:
    plane = ControlPlane().start()
    try:
        run = Script(tmp_path, plane, archive())
        run.before_others("dpkg-query", "echo install ok installed")
        for words in (("bsa1.token",), ("--uninstall", "--purge")):
            assert "is here as a package" in run(*words, code=1)
        assert not (tmp_path / "opt").exists() and not (tmp_path / "said").exists()
        run.before_others("dpkg-query", "echo deinstall ok config-files")
        run("bsa1.token")
    finally:
        plane.stop()


# Writes down, as it is enrolled, which of all programs' words and variables have the token.
TELLS_WHO_SEES = """#!/bin/sh
cd "$BACKUPSITE_AGENT_PREFIX" || exit 1
case "$3" in
    status) [ -f said ] || exit 3 ;;
    enrol)
        cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\\0' '\\n' | grep -c "bsa1[.]unseen" > words
        env | grep -c "bsa1[.]unseen" > variables
        cat > said
        ;;
esac
exit 0
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="the installer wants root")
@pytest.mark.parametrize("by", ["variable", "terminal", "line"])
def test_the_token_is_in_no_list_of_processes_unless_the_line_has_it(tmp_path: Path, by: str) -> None:
    plane = ControlPlane().start()
    try:
        run = Script(tmp_path, plane, archive(TELLS_WHO_SEES))
        if by == "variable":
            run(BACKUPSITE_TOKEN="bsa1.unseen")
        elif by == "line":
            run("bsa1.unseen", BACKUPSITE_TOKEN="bsa1.other")
        else:
            assert "Token of the portal" in run.at_a_terminal("--ask", types="bsa1.unseen\n")
        assert (tmp_path / "said").read_text() == "bsa1.unseen\n"
        seen = [int((tmp_path / name).read_text()) > 0 for name in ("words", "variables")]
        # Of the shell that the line starts.
        assert seen == [by == "line", False]
    finally:
        plane.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="the installer wants root")
def test_what_is_typed_is_not_shown_and_nothing_typed_or_no_terminal_installs_nothing(tmp_path: Path) -> None:
    plane = ControlPlane().start()
    try:
        run = Script(tmp_path, plane, archive(TELLS_WHO_SEES))
        assert "no token was typed" in run.at_a_terminal("--ask", types="\n", code=1)
        assert "no terminal to ask at" in run("--ask", code=1)
        assert not (tmp_path / "opt").exists()
        assert "bsa1.unseen" not in run.at_a_terminal("--ask", types="bsa1.unseen\n")
    finally:
        plane.stop()


# Stands for systemd with this one service: whether it runs, and whether it will after the next start of the system.
SYSTEMCTL = """
cd "$BACKUPSITE_AGENT_PREFIX" || exit 1
case "$*" in
    "is-enabled"*) [ -f enabled ] ;;
    "is-active"*) [ -f active ] ;;
    "enable --now"*) touch enabled active ;;
    "disable --now"*) rm -f enabled active ;;
    disable*) rm -f enabled ;;
    start*) touch active ;;
    stop*) rm -f active; echo stopped >> said ;;
esac
"""
# As PROGRAM, and knows whether it is enrolled; nobody can enrol it twice.
ENROLLED_ONCE = """#!/bin/sh
cd "$BACKUPSITE_AGENT_PREFIX" || exit 1
case "$3" in
    status) [ -f enrolled ] || exit 3 ;;
    enrol) [ ! -f enrolled ] && echo enrolled >> said && touch enrolled ;;
esac
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="the installer wants root")
def test_a_second_installation_leaves_the_agent_running_however_it_ends(tmp_path: Path) -> None:
    plane = ControlPlane().start()
    try:
        run = Script(tmp_path, plane, archive(ENROLLED_ONCE))
        run.before_others("systemctl", SYSTEMCTL)
        for folder in ("run/systemd/system", "etc/systemd/system"):
            (tmp_path / folder).mkdir(parents=True)

        def is_on() -> bool:
            program = tmp_path / "opt/backupsite-agent/current/bin/backupsite-agent"
            return program.exists() and all((tmp_path / name).exists() for name in ("enabled", "active"))

        run("bsa1.token")
        assert is_on()
        assert "the token was not used" in run("bsa1.token") and is_on()
        for name in ("cp", "mv", "ln"):
            run.before_others(name, "echo no space left >&2; exit 1")
            assert "runs again" in run("bsa1.token", code=1) and is_on(), name
            (tmp_path / "first" / name).unlink()
        # Cut between the two names of the release.
        run.before_others("mv", f'case "$1" in *.new) exit 1 ;; esac; exec {shutil.which("mv")} "$@"')
        run("bsa1.token", code=1)
        assert is_on() and (tmp_path / "said").read_text().split() == ["enrolled", *["stopped"] * 5]
    finally:
        plane.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="the installer wants root")
def test_without_systemd_only_the_agent_itself_is_ended(tmp_path: Path) -> None:
    run, state = Script(tmp_path, ControlPlane(), b""), tmp_path / "var/lib/backupsite-agent"
    starter = tmp_path / "opt/backupsite-agent/run.sh"
    for folder in (state, starter.parent):
        folder.mkdir(parents=True)
    for text, is_ours in (("read line", True), ("", False)):
        starter.parent.mkdir(exist_ok=True)
        starter.write_text(text)
        command = ["sh", str(starter)] if is_ours else ["cat"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            (state / "run.pid").write_text(f"{process.pid}\n")
            run("--uninstall")
            assert (process.poll() is not None) is is_ours


class Script:
    """`tools`: with nothing but the tools that it says it needs."""

    def __init__(self, prefix: Path, plane: ControlPlane, data: bytes, *, tools: bool = False) -> None:
        plane.gate.objects["/vault/agent.tar.gz"] = data
        self._path = os.environ["PATH"]
        if tools:
            self._path = str(prefix / "tools")
            (prefix / "tools").mkdir()
            for name in (*_TOOLS, "curl" if shutil.which("curl") else "wget"):
                (prefix / "tools" / name).symlink_to(shutil.which(name) or name)
        text = (ROOT / "templates/agents/install.sh").read_text()
        digest = hashlib.sha256(data).hexdigest()
        told = {
            "@URL@": plane.url,
            "@DOWNLOAD@": f"{plane.url}/vault/agent.tar.gz",
            "@SHA256@": digest,
            "@NUMBER@": "7",
        }
        for place, value in told.items():
            text = text.replace(place, value)
        self._text = text
        self._prefix = prefix

    def before_others(self, name: str, text: str) -> None:
        """A program that is found before the system's own."""
        folder = self._prefix / "first"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)

    def __call__(self, *words: str, code: int = 0, **variables: str) -> str:
        done = subprocess.run(
            [shutil.which("sh") or "sh", "-s", "--", *words],
            input=self._text,
            capture_output=True,
            text=True,
            env=self._environment() | variables,
            timeout=60,
            start_new_session=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def at_a_terminal(self, *words: str, types: str, code: int = 0) -> str:
        """What the terminal shows. It is typed once the script asks, which comes by standard input all the same."""
        script = self._prefix / "install.sh"
        script.write_text(self._text)
        ours, its = pty.openpty()
        piped = ["setsid", "--ctty", "--wait", "sh", "-c", 'exec sh -s -- "$@" < "$0"', str(script), *words]
        with subprocess.Popen(piped, stdin=its, stdout=its, stderr=its, env=self._environment()) as process:
            os.close(its)
            shown, has_typed = b"", False
            # The terminal is gone, by an error, when the last program that has it has ended.
            with suppress(OSError):
                while read := os.read(ours, 4096):
                    shown += read
                    if not has_typed and b"portal: " in shown:
                        has_typed = True
                        os.write(ours, types.encode())
            os.close(ours)
        assert process.returncode == code, shown
        return shown.decode()

    def _environment(self) -> dict[str, str]:
        return {"PATH": f"{self._prefix / 'first'}:{self._path}", "BACKUPSITE_AGENT_PREFIX": str(self._prefix)}


def test_the_starter_goes_back_from_a_release_that_does_not_start(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tools/agent/run.sh", tmp_path / "run.sh")
    for number, text in ((7, "#!/bin/sh\necho seven; exit 0\n"), (8, "#!/bin/sh\nexit 1\n")):
        program = tmp_path / f"releases/{number}/bin/backupsite-agent"
        program.parent.mkdir(parents=True)
        program.write_text(text)
        program.chmod(0o755)
    (tmp_path / "current").symlink_to("releases/8")
    (tmp_path / "trial").write_text("8 7 0\n")
    # What a run left that was killed while it went back.
    (tmp_path / ".current.guard").symlink_to("releases/6")
    said = [
        subprocess.run(
            ["sh", tmp_path / "run.sh", "once"], capture_output=True, text=True, timeout=30, check=False
        ).stdout
        for _ in range(4)
    ]
    assert said == ["", "", "", "seven\n"]
    assert os.readlink(tmp_path / "current") == "releases/7" and (tmp_path / "failed").read_text() == "8\n"
    assert not (tmp_path / "trial").exists()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_the_scripts_are_clean() -> None:
    scripts = [
        ROOT / "templates/agents/install.sh",
        ROOT / "tools/agent/run.sh",
        ROOT / "tools/agent/backupsite-agent.sh",
    ]
    done = subprocess.run(["shellcheck", "-s", "sh", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_understands_the_unit_and_finds_it_no_more_exposed_than_it_must_be(tmp_path: Path) -> None:
    """What keeps it from less: it reads and writes every file, makes mounts, and talks to the network."""
    text = (ROOT / "tools/agent/backupsite-agent.service").read_text()
    unit = tmp_path / "backupsite-agent.service"
    unit.write_text(text.replace("/opt/backupsite-agent/run.sh once", "/bin/true"))
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
    judge = ["systemd-analyze", "security", "--offline=true", "--threshold=56", "--no-pager", unit]
    assert subprocess.run(judge, capture_output=True).returncode == 0
