"""Hosts whose `zfs` is the fake one, called in this process: same program and same state as `fake_zfs.py` as a command,
without a start of Python for each call. One test runs it as a command; real ZFS: `test_zfs_fuse`, `make lab-zfs`.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from agents.drivers.zfs_commands import Host
from tests.copies import fake_zfs


class _Taken(io.BytesIO):
    """The standard input of a process that acts at the end of what it is given."""

    def __init__(self, process: QuickProcess) -> None:
        super().__init__()
        self._process = process

    def close(self) -> None:
        if not self.closed:
            data = self.getvalue()
            super().close()
            self._process.act(data)


class QuickProcess:
    """What `Host.start` gives: a sender has its whole stream at once, a receiver acts when its input is closed."""

    def __init__(self, state_path: Path, arguments: tuple[str, ...], *, reads: bool) -> None:
        self._state_path, self._arguments = state_path, arguments
        self.returncode: int | None = None
        self.stderr = io.BytesIO()
        self.stdin = _Taken(self) if reads else None
        self.stdout = None if reads else io.BytesIO(self.act(b""))

    def act(self, data: bytes) -> bytes:
        verb, *rest = self._arguments
        self.returncode, out, words = fake_zfs.call(str(self._state_path), verb, rest, data)
        self.stderr = io.BytesIO(words.encode())
        return out

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        assert self.returncode is not None, "its input was not closed"
        return self.returncode

    def kill(self) -> None:
        self.returncode = -9


def quick(state_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code, out, words = fake_zfs.call(str(state_path), arguments[0], list(arguments[1:]))
    return subprocess.CompletedProcess(arguments, code, out.decode(), words)


class QuickHost(Host):
    """Its state lies beside its program."""

    @property
    def _state(self) -> Path:
        return Path(self.program.replace("zfs-", "") + ".json")

    def _done(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return quick(self._state, *arguments)

    def start(self, *arguments: str, reads: bool = False) -> subprocess.Popen[bytes]:
        return cast("subprocess.Popen[bytes]", QuickProcess(self._state, arguments, reads=reads))


@dataclass
class Machine:
    """A host with the fake program."""

    host: Host
    state_path: Path

    @property
    def state(self) -> dict[str, Any]:
        return json.loads(self.state_path.read_text())

    def change(self, **changes: Any) -> None:
        self.state_path.write_text(json.dumps({**self.state, **changes}))

    def write(self, dataset: str, content: str, **props: str) -> None:
        sets = self.state["sets"]
        one = sets.setdefault(dataset, fake_zfs.new_set())
        one["content"] = content
        one["props"].update(props)
        self.change(sets=sets)

    def names(self, kind: str = "snapshots") -> dict[str, list[str]]:
        return {name: sorted(one[kind]) for name, one in self.state["sets"].items()}

    def content(self, dataset: str) -> str:
        return self.state["sets"][dataset]["content"]

    def props(self, dataset: str) -> dict[str, str]:
        return self.state["sets"][dataset]["props"]


def machine(folder: Path, name: str, *, modern: bool = True, kind: type[Host] = QuickHost) -> Machine:
    state_path, program = folder / f"{name}.json", folder / f"zfs-{name}"
    base = 1000 if name == "a" else 5000
    state = {"modern": modern, "guid": 0, "base": base, "txg": 0, "calls": [], "faults": {}}
    state_path.write_text(json.dumps({**state, "sets": {"tank": fake_zfs.new_set()}}))
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {fake_zfs.__file__} {state_path} "$@"\n')
    program.chmod(0o700)
    return Machine(kind(program=str(program), name=name), state_path)


def stand_in(monkeypatch: pytest.MonkeyPatch, here: Machine, **others: Machine) -> None:
    """Every host that the program makes is one of these: this machine, or the one that is reached under a name."""

    def state_of(host: Host) -> Path:
        return (others[host.name] if host.ssh else here).state_path

    def start(host: Host, *arguments: str, reads: bool = False) -> QuickProcess:
        return QuickProcess(state_of(host), arguments, reads=reads)

    monkeypatch.setattr(Host, "is_there", lambda host: True)
    monkeypatch.setattr(Host, "_done", lambda host, *arguments: quick(state_of(host), *arguments))
    monkeypatch.setattr(Host, "start", start)
