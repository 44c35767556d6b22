"""`es` as a person has it: installed from the package that is built, and completed by the shells that he uses."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backupsite.es_command.completion import script
from tests.es.scripted_api import serving

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ZSH = Path("/usr/bin/zsh")
# Nobody may take a run without it for a good one where the project itself is checked.
needs_zsh = pytest.mark.skipif(not ZSH.exists() and "CI" not in os.environ, reason="zsh is not installed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel alone; what it needs is that of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    return folder


def run(installed: Path, name: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The installed script, from a folder in which there is no checkout."""
    known = {"PYTHONPATH": str(installed), "HOME": str(installed), "PATH": os.environ["PATH"]}
    return subprocess.run(
        [str(installed / "bin" / name), *words],
        env={**known, **environment},
        cwd=installed,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_package_brings_the_commands_that_it_names(installed: Path) -> None:
    assert {path.name for path in (installed / "bin").iterdir()} >= set(PROJECT["scripts"])
    for name in PROJECT["scripts"]:
        told = run(installed, name, "--help")
        assert (told.returncode, told.stderr) == (0, ""), name
        assert told.stdout.startswith((f"usage: {name}", f"{name} - ")), told.stdout[:80]


def test_the_installed_es_tells_its_release_and_how_it_is_used(installed: Path) -> None:
    told = [run(installed, "es", *words) for words in (["--version"], ["help"], ["help", "completion"], ["get"])]

    assert [one.returncode for one in told] == [0, 0, 0, 12]
    assert told[0].stdout == f"es {PROJECT['version']}\n"
    assert "Usage: es <action> </resource>" in told[1].stdout
    assert told[2].stdout == script() + "\n"


def test_the_installed_es_asks_and_waits(installed: Path) -> None:
    """With all that it needs of other packages, among it the one that makes tables."""
    task = "01a1ffe6-572b-7d77-a77f-a3ae5c78f4bc"
    begun = (201, {"task_id": task, "status": "PENDING", "result": None})
    ended = (200, {"task_id": task, "status": "SUCCESS", "result": {"bkpname": "daily-1"}})
    with serving((200, {"result": [{"hostname": "web01", "disk_id": 1}]}), begun, ended) as server:
        listed = run(installed, "es", "get", "/vm", "-full", "--tabulate", ES_API_URL=server.url, ES_API_KEY="bks_k.s")
        made = run(installed, "es", "create", "/vm/web01/backup/daily", "--csv", ES_API_URL=server.url)

    assert listed.stdout.splitlines()[-1].split() == ["web01", "1"]
    assert (made.returncode, made.stdout) == (0, "bkpname;daily-1\n")
    assert [asked.method for asked in server.asked] == ["GET", "POST", "GET", "GET"]


def test_the_package_is_for_the_commands_and_the_documentation_says_so(wheel: Path) -> None:
    """No page of the portal is in it: the service runs from a checkout."""
    names = zipfile.ZipFile(wheel).namelist()

    assert not [name for name in names if name.startswith(("templates/", "tests/", "var/")) or name == "manage.py"]
    for page in ("README.md", "docs/es.md", "docs/operations.md"):
        assert "the service itself runs from a checkout" in re.sub(r"\s+", " ", (ROOT / page).read_text()), page


class Shell:
    """An interactive zsh on a terminal of its own."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self.seen = ""

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def wait_for(self, pattern: str) -> re.Match[str]:
        """From what was not looked at yet; all up to its end counts as looked at."""
        while (found := re.search(pattern, self.seen)) is None:
            assert select.select([self._terminal], [], [], 60)[0], f"{pattern!r} does not come: {self.seen!r}"
            self.seen += os.read(self._terminal, 4096).decode(errors="replace")
        self.seen = self.seen[found.end() :]
        return found

    def prompted(self) -> None:
        """From here on keys come to the shell's editor, and no more to the terminal's."""
        self.wait_for(r"zle[#%](?!#)")

    def completed(self, line: str) -> str:
        """The line after one Tab, as `es` would get it."""
        self.type(f"{line}\t\n")
        words = self.wait_for(r"words=<(.*?)>\r")[1]
        self.prompted()
        return words


@contextmanager
def zsh(home: Path) -> Iterator[Shell]:
    (home / "completion").write_text(script())
    environment: dict[str, Any] = {"HOME": str(home), "ZDOTDIR": str(home), "PATH": os.environ["PATH"]}
    process, terminal = pty.fork()
    if process == 0:
        # The child: nothing but the shell.
        os.execve(ZSH, ["zsh", "-f", "-i"], {**environment, "TERM": "dumb", "LC_ALL": "C.UTF-8"})
    try:
        shell = Shell(terminal)
        shell.type(f'cd {home}; es() {{ print -r -- "words=<$*>" }}; source completion; PS1=zle%#\n')
        shell.prompted()
        yield shell
        shell.type("exit\n")
    finally:
        os.close(terminal)
        os.waitpid(process, 0)


@needs_zsh
def test_zsh_completes(tmp_path: Path) -> None:
    with zsh(tmp_path) as shell:
        assert shell.completed("es cr") == "create"
        assert shell.completed("es get /no") == "get /node"
        # What several begin with, and then what there is.
        assert shell.completed("es set /vm/a/backup/b -targ") == "set /vm/a/backup/b -target_"
        assert shell.completed("es get /vm/web01/d") == "get /vm/web01/define/backup"
        assert shell.completed("es set /task/1/c") == "set /task/1/cancel"
        assert shell.completed("es get /vm --tabulate-me") == "get /vm --tabulate-mediawiki"
        # What was typed is never run by it: completed, and then taken back. Tab itself would expand it first.
        shell.type("bindkey '^B' complete-word\n")
        shell.prompted()
        for typed in ("/vm/$(touch run)/b", "$(touch run)/b", "/vm -desc $(touch run)/"):
            shell.type(f"es get {typed}\x02\x15print done-$((1 + 1))\n")
            shell.wait_for("done-2\r")
            shell.prompted()
    assert not (tmp_path / "run").exists()
