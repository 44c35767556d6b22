"""The client of QEMU's guest agent against agents that chatter, are silent, late or gone."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.drivers import guest_agent, guests
from agents.drivers.guest_agent import ANSWER_MAX, AnswerReader, GuestAgentError, ask_agent
from agents.drivers.guests import NotFrozenError, QemuGuest
from agents.drivers.virsh import HypervisorError


@settings(max_examples=150, deadline=None)
@given(
    junk=st.binary(max_size=300).map(lambda data: data.replace(b"\n", b"") + b"\n") | st.just(b""),
    half=st.binary(max_size=50).map(lambda data: data.replace(b"\n", b"")),
    value=st.integers() | st.text(max_size=20) | st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
    cuts=st.lists(st.integers(0, 500), max_size=8),
)
def test_an_answer_is_found_behind_any_junk_however_it_is_cut(
    junk: bytes, half: bytes, value: object, cuts: list[int]
) -> None:
    sent = junk + half + b"\xff" + json.dumps({"return": value}).encode() + b"\n"
    reader, begin = AnswerReader(), 0
    found: list[tuple[bool, Mapping[str, object]]] = []

    for end in [*sorted(cut for cut in cuts if cut < len(sent)), len(sent)]:
        found += reader.feed(sent[begin:end])
        begin = end

    assert found[-1] == (True, {"return": value})
    assert all(isinstance(answer, dict) for _, answer in found)


def test_a_flood_without_end_takes_no_memory() -> None:
    reader = AnswerReader()

    for _ in range(10):
        assert not list(reader.feed(b"x" * ANSWER_MAX))

    assert list(reader.feed(b'\n{"return": 1}\n')) == [(False, {"return": 1})]
    assert not list(reader.feed(b"[" * 60000 + b"\n"))


class Agent:
    """Answers as `behaviour` says; what it was asked is in `asked`."""

    def __init__(self, path: str, behaviour: str) -> None:
        self.path, self.behaviour = path, behaviour
        self.asked: list[str] = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(60)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                with self._listening.accept()[0] as client, client.makefile("rb") as lines, suppress(OSError):
                    for line in lines:
                        self._answer(client, json.loads(line.lstrip(b"\xff")))

    def _answer(self, client: socket.socket, message: dict[str, object]) -> None:
        command = str(message["execute"])
        self.asked.append(command)
        if command == "guest-sync-delimited":
            if self.behaviour == "silent":
                return
            # What was meant for a client that left, half of it; then ours.
            number = message["arguments"]["id"]  # type: ignore[index]  # as it was sent
            late = b'{"return": 7}\n{"ret' if self.behaviour == "late" else b""
            client.sendall(late + b"\xff" + json.dumps({"return": number}).encode() + b"\n")
            return
        if self.behaviour == "hangs" and command == "guest-fsfreeze-freeze":
            return
        answers: dict[str, object] = {"guest-fsfreeze-freeze": 2, "guest-fsfreeze-status": "frozen"}
        told: dict[str, object] = {"return": answers.get(command, 2)}
        if self.behaviour == "refuses":
            told = {"error": {"class": "CommandNotFound", "desc": "the agent is in frozen state"}}
        if self.behaviour == "closes":
            client.shutdown(socket.SHUT_RDWR)
            return
        client.sendall(b'{"event": "x"}\n' + json.dumps(told).encode() + b"\n")


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # No agent here is late because the machine is slow: a test of a silent one sets that time itself.
    monkeypatch.setattr(guest_agent, "_SYNC_SECONDS", 60)
    for name in ("FREEZE_SECONDS", "_STATUS_SECONDS"):
        monkeypatch.setattr(guests, name, 60)
    with tempfile.TemporaryDirectory() as folder:
        yield f"{folder}/agent"


@pytest.mark.case("DP-30")
@pytest.mark.parametrize(
    ("behaviour", "frozen", "may_be_frozen"),
    [
        ("well", 2, None),
        ("late", 2, None),
        ("silent", None, False),
        ("hangs", None, True),
        ("closes", None, True),
        ("refuses", None, False),
        ("gone", None, False),
    ],
)
def test_a_freeze_and_whether_a_thaw_is_due(
    at: str, monkeypatch: pytest.MonkeyPatch, behaviour: str, frozen: int | None, may_be_frozen: bool | None
) -> None:
    if behaviour == "silent":
        monkeypatch.setattr(guest_agent, "_SYNC_SECONDS", 0.3)
    if behaviour == "hangs":
        # Also the most that it may take to answer the sync before, which it does.
        monkeypatch.setattr(guests, "FREEZE_SECONDS", 3)
    agent = Agent(at, behaviour) if behaviour != "gone" else None
    guest = QemuGuest(at)

    if frozen is not None:
        assert (guest.freeze(), guest.is_frozen()) == (frozen, True)
        guest.thaw()
    else:
        with pytest.raises(NotFrozenError) as caught:
            guest.freeze()
        assert caught.value.may_be_frozen == may_be_frozen
    if behaviour in ("silent", "gone"):
        assert not guest.is_frozen()
        with pytest.raises(HypervisorError):
            guest.thaw()

    if agent:
        agent.close()
        assert ("guest-fsfreeze-freeze" in agent.asked) == (behaviour != "silent")


def test_the_guards_command_thaws_without_anything_of_ours(at: str, tmp_path: Path) -> None:
    agent = Agent(at, "well")
    command = QemuGuest(at).thaw_command()

    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0
    agent.close()
    assert agent.asked == ["guest-sync-delimited", "guest-fsfreeze-thaw"]
    failed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert command[0] == sys.executable and failed.returncode == 1 and "cannot be reached" in failed.stderr
    with pytest.raises(GuestAgentError, match="cannot be reached"):
        ask_agent(at, "guest-ping", timeout=1)
