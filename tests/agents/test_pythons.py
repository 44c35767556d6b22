"""Which Python makes the environment of a release's wheels: one that they are for, by the program and the installer."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agents.program.agent import update
from agents.program.agent.errors import UpdateError
from tests.agents.program_machine import ROOT

# What is in PATH, its minor version or nothing when it has no venv; wheels for which there are; what is taken.
CASES: dict[str, tuple[dict[str, int | None], list[int], str]] = {
    "the newest that there are wheels for": ({"python3.11": 11, "python3.13": 13}, [11, 12, 13], "python3.13"),
    "none is for the newest": ({"python3.14": 14, "python3.11": 11}, [11, 12, 13], "python3.11"),
    "only one that is too new": ({"python3.14": 14, "python3": 14}, [11, 12, 13], ""),
    "only one that is too old": ({"python3": 9, "python3.9": 9}, [11, 12, 13], ""),
    "by its general name": ({"python3": 12}, [11, 12, 13], "python3"),
    "without venv": ({"python3.13": None, "python3.12": 12}, [11, 12, 13], "python3.12"),
    "a later release": ({"python3.14": 14, "python3.11": 11}, [12, 13, 14], "python3.14"),
    "nothing": ({}, [11, 12, 13], ""),
}
WHEELS = ("backupsite_agent-0.1.0-py3-none-any.whl", "cryptography-50.0.2-cp311-abi3-manylinux_2_28_x86_64.whl")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


def fill(wheels: Path, minors: list[int]) -> None:
    for minor in minors:
        (wheels / f"msgspec-0.22.0-cp3{minor}-cp3{minor}-manylinux_2_28_x86_64.whl").touch()
    for name in WHEELS:
        (wheels / name).touch()


def put(folder: Path, pythons: dict[str, int | None]) -> str:
    folder.mkdir()
    for name, minor in pythons.items():
        program = folder / name
        said = "exit 1" if minor is None else f'case "$*" in *cp%d%d*) echo cp3{minor} ;; *) echo {minor} ;; esac'
        program.write_text(f"#!/bin/sh\n{said}\n")
        program.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize("case", CASES)
def test_an_update_takes_a_python_that_the_wheels_are_for(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    pythons, minors, expected = CASES[case]
    fill(wheels, minors)
    monkeypatch.setenv("PATH", put(tmp_path / "bin", pythons))
    # As a frozen program, which is no Python for anybody else.
    monkeypatch.setattr(sys, "frozen", True, raising=False)

    if expected:
        assert update._python(wheels) == str(tmp_path / "bin" / expected)
        return
    with pytest.raises(UpdateError, match=re.escape("needs Python 3.11, 3.12, 3.13 with venv")):
        update._python(wheels)


def test_the_python_that_runs_it_comes_first_where_the_wheels_are_for_it(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = sys._base_executable  # type: ignore[attr-defined]  # not in the stubs; what an environment was made of
    others = [minor for minor in (11, 12, 13) if minor != sys.version_info[1]]
    monkeypatch.setenv("PATH", put(tmp_path / "bin", {f"python3.{minor}": minor for minor in others}))
    fill(wheels, [sys.version_info[1], *others])
    assert update._python(wheels) == own

    for wheel in wheels.glob(f"*-cp3{sys.version_info[1]}-*"):
        wheel.unlink()
    assert update._python(wheels) == str(tmp_path / "bin" / f"python3.{max(others)}")


@pytest.mark.parametrize("case", CASES)
def test_the_installer_takes_the_same(tmp_path: Path, wheels: Path, case: str) -> None:
    pythons, minors, expected = CASES[case]
    fill(wheels, minors)
    script = (ROOT / "templates/agents/install.sh").read_text()
    functions = [re.search(rf"^{name}\(\) {{.*?(?:^}}| }})$", script, re.M | re.S)[0] for name in ("has", "python_of")]  # type: ignore[index]  # both are there
    words = ["/bin/sh", "-euc", "\n".join([*functions, 'python_of "$1"']), "sh", str(wheels)]

    done = subprocess.run(
        words, env={"PATH": put(tmp_path / "bin", pythons)}, capture_output=True, text=True, check=False
    )

    assert (done.stdout.strip(), done.returncode) == (expected, 0 if expected else 1), done.stderr


def test_what_is_said_is_what_the_wheels_are_made_for() -> None:
    spec = importlib.util.spec_from_file_location("agent_build", ROOT / "tools/agent/build.py")
    assert spec is not None and spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = build
    spec.loader.exec_module(build)
    first, last = build.PYTHONS[0], build.PYTHONS[-1]

    assert build._pythons() == ">=3.11,<3.14" and (first, last) == ("3.11", "3.13")
    script = (ROOT / "templates/agents/install.sh").read_text().replace("\\\n", "")
    assert f"no Python {first} to {last} with venv" in script
    assert all(f"python{version}" in script for version in build.PYTHONS)
    assert f"needs Python {first} to {last} with venv" in (ROOT / "docs/agent.md").read_text()


def test_wheels_of_any_python_say_nothing(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(wheels, [])
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setenv("PATH", put(tmp_path / "bin", {"python3.11": 11}))

    with pytest.raises(UpdateError):
        update._python(wheels)
