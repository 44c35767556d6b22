"""What the agent says of its machine."""

from __future__ import annotations

import hashlib
import platform
import socket
from pathlib import Path

from agents.agent_messages import HostFacts
from agents.program.agent.memory import boot_id

_LONGEST = 200
# Of the machine's own number, which others may know as well: not the number itself.
_MACHINE = b"backupsite agent machine v1\n"
# One file or another has it; a copied virtual machine gets another product number from its hypervisor.
_NUMBERS = ("/etc/machine-id", "/var/lib/dbus/machine-id", "/sys/class/dmi/id/product_uuid")


def host_facts(*, root: Path = Path("/")) -> HostFacts:
    return HostFacts(
        hostname=socket.gethostname()[:_LONGEST],
        machine=machine_hash(root),
        boot=hashlib.sha256(_MACHINE + boot_id().encode()).hexdigest()[:32],
        system=_system(root / "etc/os-release"),
        kernel=platform.release()[:_LONGEST],
        architecture=platform.machine()[:_LONGEST],
    )


def machine_hash(root: Path = Path("/")) -> str:
    """Stays with the machine over reinstallations of the agent; differs from that of any other, copies included as far
    as the copy got a number of its own."""
    digest = hashlib.sha256(_MACHINE)
    for name in _NUMBERS:
        try:
            digest.update((root / name.lstrip("/")).read_bytes().strip())
        except OSError:
            digest.update(b"-")
        digest.update(b"\n")
    return digest.hexdigest()[:32]


def _system(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return platform.system()
    named = dict(line.split("=", 1) for line in lines if "=" in line)
    return named.get("PRETTY_NAME", platform.system()).strip('"')[:_LONGEST]
