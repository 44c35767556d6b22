"""A client of QEMU's guest agent on a unix socket. Standard library only, imports nothing of the project.

Also a program, for a guard that has to thaw when nothing else of us is left:

    python guest_agent.py SOCKET thaw

One connection for each command, because QEMU serves one client of a socket at a time and others wait. What an earlier
client left unread comes first; the answer to `guest-sync-delimited`, after a byte 0xff, says where ours begins.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

SENTINEL = b"\xff"
ANSWER_MAX = 65536
_SYNC_SECONDS = 5.0
_THAW_SECONDS = 20.0
COMMANDS = {"freeze": "guest-fsfreeze-freeze", "thaw": "guest-fsfreeze-thaw", "status": "guest-fsfreeze-status"}


class GuestAgentError(Exception):
    """`was_asked` says that the agent may have got the command: what it asks for may yet be done."""

    def __init__(self, message: str, *, was_asked: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.was_asked = was_asked


class AnswerReader:
    """Finds answers in whatever comes. What is no answer is passed over; memory is bounded."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[tuple[bool, Mapping[str, Any]]]:
        """(whether a 0xff came right before it, answer) for each line that ended with this data."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > ANSWER_MAX:
            self._buffer = b""
        for line in lines:
            _, mark, text = line.rpartition(SENTINEL)
            try:
                answer = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(answer, dict):
                yield bool(mark), answer


def ask_agent(path: str, command: str, *, timeout: float) -> Any:
    """What the agent returns to the command, within so many seconds. Raises GuestAgentError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(_SYNC_SECONDS)
            connection.connect(path)
            answers = _answers(connection)
            _sync(connection, answers, until=time.monotonic() + min(_SYNC_SECONDS, timeout))
        except OSError as error:
            raise GuestAgentError(f"The guest's agent cannot be reached: {error}.") from error
        try:
            connection.sendall(json.dumps({"execute": command}).encode() + b"\n")
            until = time.monotonic() + timeout
            _, answer = answers(until, lambda marked, found: "return" in found or "error" in found)
        except (OSError, GuestAgentError) as error:
            raise GuestAgentError(f"The guest's agent did not answer {command}: {error}.", was_asked=True) from error
    if "error" in answer:
        told = answer["error"]
        text = str(told.get("desc", "")) if isinstance(told, dict) else ""
        raise GuestAgentError(f"The guest's agent refuses {command}: {text[:300]}", was_asked=True)
    return answer["return"]


_Answers = Callable[[float, Callable[[bool, Mapping[str, Any]], bool]], tuple[bool, Mapping[str, Any]]]


def _sync(connection: socket.socket, answers: _Answers, *, until: float) -> None:
    number = random.randrange(1, 1 << 31)  # noqa: S311  # tells answers apart, keeps no secret
    asked = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
    # A 0xff makes the agent forget half a command of an earlier client.
    connection.sendall(SENTINEL + json.dumps(asked).encode() + b"\n")
    answers(until, lambda marked, found: marked and found.get("return") == number)


def _answers(connection: socket.socket) -> _Answers:
    """Gives a function that receives until an answer is the wished one; raises GuestAgentError at the time given."""
    reader = AnswerReader()
    waiting: list[tuple[bool, Mapping[str, Any]]] = []

    def receive(until: float, is_wished: Callable[[bool, Mapping[str, Any]], bool]) -> tuple[bool, Mapping[str, Any]]:
        while True:
            while waiting:
                if is_wished(*(found := waiting.pop(0))):
                    return found
            left = until - time.monotonic()
            if left <= 0:
                raise GuestAgentError("it is silent")
            connection.settimeout(left)
            data = connection.recv(4096)
            if not data:
                raise GuestAgentError("it closed the connection")
            waiting.extend(reader.feed(data))

    return receive


def main(arguments: list[str]) -> int:
    path, verb = arguments
    try:
        ask_agent(path, COMMANDS[verb], timeout=_THAW_SECONDS)
    except GuestAgentError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
