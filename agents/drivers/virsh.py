"""Speaks to libvirt through its own program `virsh`, one child process for each call.

A child can be ended when libvirt hangs, which a call of the C library cannot, and needs no compiler and no binding that
fits the Python at hand. Messages are in English (LC_ALL=C), for they are all that tells one failure from another.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence

from agents.drivers.base import Capability, DriverError

_CALL_SECONDS = 60.0
_LIBVIRT_MIN, _QEMU_MIN = (7, 2), (5, 2)
_TOOLS = {"virsh": "libvirt-clients", "qemu-img": "qemu-utils", "qemu-nbd": "qemu-utils"}


class HypervisorError(DriverError):
    """libvirt refuses something, or cannot be asked."""

    code = "hypervisor_error"
    permanent = False


class Virsh:
    """`uri` as libvirt's own; None takes LIBVIRT_DEFAULT_URI, and else what virsh takes by itself."""

    def __init__(self, uri: str | None = None) -> None:
        self._prefix = ["virsh", *(["-c", uri] if uri else [])]

    def command(self, *arguments: str) -> list[str]:
        """The argument list of a call, for a process that outlives this one."""
        return [*self._prefix, *arguments]

    def run(self, *arguments: str, timeout: float = _CALL_SECONDS) -> str:
        """What the command printed. Raises HypervisorError with virsh's message."""
        try:
            # The program and its command are ours; names of servers are values of options, never options.
            done = subprocess.run(  # noqa: S603  # an argument list without a shell
                self.command(*arguments),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**os.environ, "LC_ALL": "C"},
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise HypervisorError(f"libvirt did not answer {arguments[0]} within {timeout:.0f} s.") from None
        except OSError as error:
            raise HypervisorError(f"virsh cannot be started: {error.strerror}.") from error
        if done.returncode != 0:
            told = done.stderr.decode("utf-8", "replace").strip().replace("error: ", "")
            raise HypervisorError(f"libvirt refuses {arguments[0]}: {told[:500]}")
        return done.stdout.decode("utf-8", "replace")

    def probe(self) -> Capability:
        """Whether libvirt and QEMU are there and new enough to tell changed blocks."""
        for tool, package in _TOOLS.items():
            if shutil.which(tool) is None:
                return Capability(usable=False, reason=f"{tool} is missing; install {package}.")
        try:
            told = self.run("version", timeout=30.0)
        except HypervisorError as error:
            return Capability(usable=False, reason=error.message)
        for name, label, least in (
            ("libvirt", "Using library", _LIBVIRT_MIN),
            ("QEMU", "Running hypervisor", _QEMU_MIN),
        ):
            found = re.search(rf"^{label}: \w+ (\d+)\.(\d+)", told, re.MULTILINE)
            if found is None or tuple(map(int, found.groups())) < least:
                wanted = ".".join(map(str, least))
                return Capability(usable=False, reason=f"{name} {wanted} or newer is needed to read changed blocks.")
        return Capability(usable=True)


def option(name: str, value: str) -> str:
    """An option with its value in one argument: whatever the value begins with, it stays a value."""
    return f"--{name}={value}"


def domain(uuid: str) -> str:
    return option("domain", uuid)


def lines(told: str) -> Sequence[str]:
    return [line.strip() for line in told.splitlines() if line.strip()]
