"""Ways to the agent inside of a guest: through libvirt, and to QEMU's own socket where no libvirt is."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any, Protocol

from agents.drivers import guest_agent
from agents.drivers.guest_agent import COMMANDS, GuestAgentError, ask_agent
from agents.drivers.qmp import Qmp, QmpError
from agents.drivers.virsh import HypervisorError, Virsh, domain

FREEZE_SECONDS = 8.0
_STATUS_SECONDS = 5.0
_PORT = "org.qemu.guest_agent.0"
# Answers after which it is certain that nothing was frozen, or that somebody else did it and thaws it.
_NOT_BY_US = re.compile(r"agent is not connected|agent is not configured|frozen state|not running", re.IGNORECASE)


class NotFrozenError(HypervisorError):
    """The agent did not freeze. `may_be_frozen`: it may yet do so, and has to thaw."""

    def __init__(self, message: str, *, may_be_frozen: bool) -> None:
        super().__init__(message)
        self.may_be_frozen = may_be_frozen


class Guest(Protocol):
    """The agent of one guest."""

    def freeze(self) -> int:
        """Number of file systems that were frozen. Raises NotFrozenError."""

    def is_frozen(self) -> bool:
        """False also when it is not known."""

    def thaw(self) -> None:
        """Raises HypervisorError."""

    def thaw_command(self) -> list[str]:
        """The same for a process that outlives this one."""


class LibvirtGuest:
    def __init__(self, virsh: Virsh, uuid: str) -> None:
        self._virsh, self._uuid = virsh, uuid

    def freeze(self) -> int:
        try:
            told = self._virsh.run("domfsfreeze", domain(self._uuid), timeout=FREEZE_SECONDS)
        except HypervisorError as error:
            may_be_frozen = not _NOT_BY_US.search(error.message)
            raise NotFrozenError(error.message, may_be_frozen=may_be_frozen) from error
        frozen = re.search(r"(\d+)", told)
        return int(frozen.group(1)) if frozen else 0

    def is_frozen(self) -> bool:
        asked = json.dumps({"execute": COMMANDS["status"]})
        try:
            told = self._virsh.run("qemu-agent-command", domain(self._uuid), asked, timeout=_STATUS_SECONDS)
            return bool(json.loads(told).get("return") == "frozen")
        except (HypervisorError, ValueError):
            return False

    def thaw(self) -> None:
        self._virsh.run("domfsthaw", domain(self._uuid), timeout=FREEZE_SECONDS)

    def thaw_command(self) -> list[str]:
        return self._virsh.command("domfsthaw", domain(self._uuid))


class QemuGuest:
    """`path` is the agent's socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    def freeze(self) -> int:
        try:
            told = ask_agent(self._path, COMMANDS["freeze"], timeout=FREEZE_SECONDS)
        except GuestAgentError as error:
            may_be_frozen = error.was_asked and not _NOT_BY_US.search(error.message)
            raise NotFrozenError(error.message, may_be_frozen=may_be_frozen) from error
        return told if isinstance(told, int) else 0

    def is_frozen(self) -> bool:
        try:
            return bool(ask_agent(self._path, COMMANDS["status"], timeout=_STATUS_SECONDS) == "frozen")
        except GuestAgentError:
            return False

    def thaw(self) -> None:
        try:
            ask_agent(self._path, COMMANDS["thaw"], timeout=FREEZE_SECONDS)
        except GuestAgentError as error:
            raise HypervisorError(error.message) from error

    def thaw_command(self) -> list[str]:
        return [sys.executable, "-I", "-S", guest_agent.__file__, self._path, "thaw"]


def guest_of_qemu(qmp: Qmp) -> QemuGuest:
    """The agent behind the server's port of that name, by QEMU's own lists. NotFrozenError when none can answer."""
    if (status := qmp.run("query-status")["status"]) != "running":
        raise NotFrozenError(f"The server is {status}.", may_be_frozen=False)
    labels = {qmp.run("qom-get", path=port, property="chardev") for port in _ports(qmp)}
    for device in qmp.run("query-chardev"):
        found = re.match(r"(?:disconnected:)?unix:([^,]+)", str(device.get("filename", "")))
        if device.get("label") in labels and found is not None:
            if not device.get("frontend-open"):
                raise NotFrozenError("No agent runs in the guest (qemu-guest-agent).", may_be_frozen=False)
            return QemuGuest(found.group(1))
    raise NotFrozenError(f"The server has no port {_PORT} with a unix socket.", may_be_frozen=False)


def _ports(qmp: Qmp) -> Iterator[str]:
    for folder in ("/machine/peripheral", "/machine/peripheral-anon"):
        for child in qmp.run("qom-list", path=folder):
            path = f"{folder}/{child['name']}"
            if child.get("type") == "child<virtserialport>" and _name_of(qmp, path) == _PORT:
                yield path


def _name_of(qmp: Qmp, path: str) -> Any:
    try:
        return qmp.run("qom-get", path=path, property="name")
    except QmpError:
        return None
