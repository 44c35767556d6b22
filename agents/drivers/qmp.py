"""A client of QEMU's machine protocol (QMP) on a unix socket: one command at a time, events left aside."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from agents.drivers.base import DiskBusyError, DriverError

_ANSWER_SECONDS = 30.0
_LINE_MAX = 16 * 1024 * 1024


class QmpError(DriverError):
    """QEMU refuses a command, or cannot be asked."""

    code = "hypervisor_error"
    permanent = False


class ServerOffError(QmpError):
    """Nobody listens on the socket."""


class Qmp:
    """Connected when made; QEMU serves one client of a socket at a time, so a second one waits and then fails."""

    def __init__(self, path: str) -> None:
        self._number = 0
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(_ANSWER_SECONDS)
            self._socket.connect(path)
            self._socket.settimeout(5.0)
            self._line()
            self._socket.settimeout(_ANSWER_SECONDS)
            self.run("qmp_capabilities")
        except TimeoutError:
            self._socket.close()
            raise DiskBusyError(f"Another program is connected to QEMU at {path}.") from None
        except (FileNotFoundError, ConnectionRefusedError):
            self._socket.close()
            raise ServerOffError(f"No QEMU listens at {path}.") from None
        except OSError as error:
            self._socket.close()
            raise QmpError(f"QEMU at {path} cannot be reached: {error}.") from error
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def run(self, command: str, **arguments: Any) -> Any:
        """What QEMU returns. Underscores in names of arguments become dashes. Raises QmpError."""
        self._number += 1
        told = {name.replace("_", "-"): value for name, value in arguments.items()}
        message = {"execute": command, "arguments": told, "id": self._number}
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
            while (answer := self._line()).get("id") != self._number:
                pass
        except OSError as error:
            raise QmpError(f"QEMU did not answer {command}: {error}.") from error
        if "error" in answer:
            raise QmpError(f"QEMU refuses {command}: {answer['error'].get('desc', '')[:300]}")
        return answer.get("return")

    def try_to(self, command: str, **arguments: Any) -> None:
        with suppress(QmpError):
            self.run(command, **arguments)

    def _line(self) -> Mapping[str, Any]:
        while b"\n" not in self._buffer:
            received = self._socket.recv(65536)
            if not received or len(self._buffer) > _LINE_MAX:
                raise QmpError("QEMU ended the connection, or sent something that is no answer.")
            self._buffer += received
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            answer = json.loads(line)
        except ValueError:
            raise QmpError("QEMU sent something that is no answer.") from None
        if not isinstance(answer, dict):
            raise QmpError("QEMU sent something that is no answer.")
        return answer


def wait_until(done: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + _ANSWER_SECONDS
    while not done():
        if time.monotonic() > until:
            raise QmpError(f"QEMU did not end {what}.")
        time.sleep(0.02)
