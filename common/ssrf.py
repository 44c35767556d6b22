"""Where the service may be sent by an address that somebody typed: never into its own network.

An address is judged twice. `parse_target` looks at the text: scheme, host and port in one plain form each, so that no
two parsers can disagree about them. `vetted_addresses` looks at what the name leads to at the moment of the call; the
caller connects to one of these addresses and to nothing else, so a name that changes its mind changes nothing.

What is not a public unicast address is refused, unless the operator lists its network. Pure but for the resolver, which
is passed in.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from common.errors import InvalidInputError

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
# A name and a port -> the addresses as text. Raises OSError when the name leads nowhere.
Resolver: TypeAlias = Callable[[str, int], Sequence[str]]

LONGEST_URL = 500
LONGEST_HOST = 253
# Below lie services that were never meant to be spoken to in HTTP: mail, shells, databases of old.
LOWEST_FREE_PORT = 1024
WELL_KNOWN_PORTS = {"http": 80, "https": 443}

# Everything that the registries of IANA give a special purpose, and addresses that clouds answer themselves.
_FORBIDDEN_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers; a cloud's metadata at 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's wire server, in public space
        "169.254.0.0/16",  # link-local, with the metadata at 169.254.169.254
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# Public unicast of IPv6 is one block; within it lie forms that carry an IPv4 address, and others of a special purpose.
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_FORBIDDEN_V6 = tuple(
    ipaddress.IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)

_HOST_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
# What `inet_aton` would take for a number: decimal, octal and hexadecimal, whole or in parts.
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_PLAIN = re.compile(r"[\x21-\x7e]+\Z")


class ForbiddenTargetError(InvalidInputError):
    """The service does not speak to this address."""

    code = "forbidden_target"


@dataclass(frozen=True, slots=True)
class Guard:
    """What the operator allows beyond public addresses: networks of his own, there also without TLS."""

    allowed: tuple[Network, ...] = ()

    @classmethod
    def of(cls, text: str) -> Guard:
        """From networks such as `10.1.0.0/16, fd00::/8`. Raises ValueError naming the wrong one."""
        return cls(tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()))

    def allows(self, address: Address) -> bool:
        return any(address in network for network in self.allowed)


@dataclass(frozen=True, slots=True)
class Target:
    """A web address in one plain form. `path` includes the query and begins with a slash."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """As the header `Host` says it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == WELL_KNOWN_PORTS[self.scheme] else f"{host}:{self.port}"


def parse_target(url: str, *, guard: Guard) -> Target:
    """The parts of the address. Raises ForbiddenTargetError; whether its name may be spoken to is not known yet."""
    if len(url) > LONGEST_URL or not _PLAIN.match(url) or "\\" in url:
        raise _refused(f"Use an address of at most {LONGEST_URL} plain characters, without spaces or backslashes.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _refused("This is not a web address.") from None
    scheme = parts.scheme.lower()
    if scheme not in WELL_KNOWN_PORTS:
        raise _refused("The address must begin with https://.")
    if scheme == "http" and not guard.allowed:
        raise _refused("The address must begin with https://: what is sent is for its receiver only.")
    if "@" in parts.netloc or "#" in url:
        raise _refused("The address may have no user name, password or fragment.")
    host = _checked_host((parts.hostname or "").rstrip("."), guard=guard)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(scheme=scheme, host=host, port=_checked_port(port, scheme), path=path)


def _checked_port(port: int | None, scheme: str) -> int:
    if port is None:
        return WELL_KNOWN_PORTS[scheme]
    if port not in WELL_KNOWN_PORTS.values() and port < LOWEST_FREE_PORT:
        raise _refused(f"Use port 443, 80, or one from {LOWEST_FREE_PORT} on.")
    return port


def _checked_host(host: str, *, guard: Guard) -> str:
    """A literal address that may be spoken to, or a name that cannot be taken for a number."""
    if not host or len(host) > LONGEST_HOST:
        raise _refused("The address has no host, or one that is too long.")
    if ":" in host or _NUMBER.match(host.rsplit(".", 1)[-1]):
        return str(_checked_address(host, guard=guard))
    if not all(_HOST_LABEL.match(label) for label in host.split(".")):
        raise _refused("The host has characters that no host name has.")
    return host


def vetted_addresses(target: Target, *, guard: Guard, resolve: Resolver) -> tuple[Address, ...]:
    """The addresses of the target, all of which may be spoken to. Raises ForbiddenTargetError, OSError.

    One that may not be is enough to refuse: a name with a public and a private address is made for no honest purpose.
    """
    found = tuple(_checked_address(text, guard=guard) for text in resolve(target.host, target.port))
    if not found:
        raise OSError("the name leads to no address")
    if target.scheme == "http" and not all(guard.allows(address) for address in found):
        raise _refused("The address must begin with https://.")
    return found


def _checked_address(text: str, *, guard: Guard) -> Address:
    """Which address it leads to is not told: it would answer questions about the network here."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise _refused("The host is a number that is no plain address.") from None
    if getattr(address, "scope_id", None) or not (is_public(address) or guard.allows(address)):
        raise _refused("The host is, or leads to, an address that the service does not speak to.")
    return address


def is_public(address: Address) -> bool:
    """Whether it is a public unicast address."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _FORBIDDEN_V4)
    return address in _PUBLIC_V6 and not any(address in network for network in _FORBIDDEN_V6)


def _refused(message: str) -> ForbiddenTargetError:
    return ForbiddenTargetError(message, field="url")
