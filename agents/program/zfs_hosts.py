"""Which other nodes this node reaches for their ZFS datasets, and how: a file of the node, written by its operator.

<node directory>/zfs-hosts.toml:
[n1]                                 the node's name
address = "10.0.0.1"
user = "backupsite"
key = "/etc/backupsite/zfs_n1"       the private key that n1's forced command is for
known_hosts = "/etc/backupsite/zfs_known_hosts"
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from agents.drivers.base import DriverError
from agents.drivers.zfs_commands import Host

FILE = "zfs-hosts.toml"
_WANTED = ("address", "user", "key", "known_hosts")


class UnknownHostError(DriverError):
    """The node's operator has not said how the other node is reached."""

    code = "unknown_host"


def host_of(node_directory: Path, node: str) -> Host:
    """This machine for an empty name. Raises UnknownHostError."""
    if not node:
        return Host()
    path = node_directory / FILE
    try:
        told = tomllib.loads(path.read_text()).get(node, {})
    except FileNotFoundError:
        told = {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UnknownHostError(f"{path} cannot be read: {error}.") from error
    if missing := [name for name in _WANTED if not isinstance(told.get(name), str)]:
        raise UnknownHostError(f"{path} does not say how {node} is reached: {', '.join(missing)} of [{node}] missing.")
    return Host.over_ssh(
        user=told["user"],
        address=told["address"],
        key_path=told["key"],
        known_hosts_path=told["known_hosts"],
        port=int(told.get("port", 22)),
    )
