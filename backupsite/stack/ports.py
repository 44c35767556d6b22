"""The ports of the stack: one is chosen, the others follow it; all on the loopback address."""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"
PORTAL_OFFSET, S3_OFFSET, GATE_OFFSET, INTERNAL_OFFSET = range(4)
INTERNAL_PURPOSES = (
    "master",
    "master gRPC",
    "volume",
    "volume gRPC",
    "filer",
    "filer gRPC",
    "admin",
    "admin gRPC",
    "S3 gRPC",
)
PORT_SPAN = INTERNAL_OFFSET + len(INTERNAL_PURPOSES)
LOWEST_PORT = 1024
HIGHEST_PORT = 65536 - PORT_SPAN

# Below the range the kernel takes outgoing connections' ports from, so that a port found free stays free.
_SEARCH_RANGE = range(10_000, 32_000)
# Two processes that began alike must not choose alike.
_chance = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Port:
    number: int
    purpose: str


def stack_ports(base: int) -> tuple[Port, ...]:
    """Every port the stack listens on when the portal is at `base`."""
    purposes = ["the portal", "the object storage (S3)", "the session gate"]
    purposes += [f"the object storage's {purpose}" for purpose in INTERNAL_PURPOSES]
    return tuple(Port(base + offset, purpose) for offset, purpose in enumerate(purposes))


def is_free(number: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port in TIME_WAIT is free, one that is listened on is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, number))
        except OSError:
            return False
    return True


def free_ports(count: int) -> range:
    """`count` neighbouring ports that are free now; for tests and for servers that run on their own."""
    for _attempt in range(200):
        first = _chance.randrange(_SEARCH_RANGE.start, _SEARCH_RANGE.stop - count)
        found = range(first, first + count)
        if all(is_free(number) for number in found):
            return found
    raise OSError(f"found no {count} neighbouring free ports on {LOOPBACK}")
