"""Properties of datasets that are received: what a backup must not do on its node, and what a restore brings back.

A backup on a backup node is never mounted, shared or run, and its volumes are no devices, whatever its stream says. A
restore gives the dataset the properties that the one in its place had; of what could mount, share or run things,
nothing comes from the stream. A `zfs` that cannot set properties on receiving (before OpenZFS 0.8) does without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from agents.drivers.zfs_commands import OWNER, UNFINISHED, Host

_NOT_ON_A_BACKUP_NODE: Mapping[str, str] = {
    "canmount": "off",
    "mountpoint": "none",
    "sharenfs": "off",
    "sharesmb": "off",
    "exec": "off",
    "setuid": "off",
    "devices": "off",
    "readonly": "on",
}
_NO_DEVICE: Mapping[str, str] = {"volmode": "none", "snapdev": "hidden", "readonly": "on"}
# What a stream is not to say of a file system, or of a volume, that is restored.
RISKY = ("canmount", "mountpoint", "sharenfs", "sharesmb", "exec", "setuid", "devices")
_BOTH = frozenset(
    {
        *("checksum", "compression", "copies", "dedup", "logbias", "primarycache", "readonly", "redundant_metadata"),
        *("refreservation", "reservation", "secondarycache", "snapdev", "sync", "volmode"),
    }
)
_FILESYSTEM = frozenset(
    {
        *("aclinherit", "aclmode", "acltype", "atime", "dnodesize", "filesystem_limit", "nbmand", "overlay", "quota"),
        *("recordsize", "refquota", "relatime", "snapdir", "snapshot_limit", "special_small_blocks", "vscan", "xattr"),
        *RISKY,
    }
)
_USERS = re.compile(r"[a-z0-9._-]+:[a-z0-9:._-]+")


def on_a_backup_node(host: Host, *, is_volume: bool, disk: str, snapshot: str) -> list[str]:
    """Options of `receive`: harmless, marked as ours from the first byte, and as unfinished until `finish_set`."""
    if not host.abilities.overrides:
        return []
    safe = _NO_DEVICE if is_volume else _NOT_ON_A_BACKUP_NODE
    return _settings({**safe, OWNER: disk, UNFINISHED: snapshot})


def as_they_were(host: Host, old: str, *, is_volume: bool, mark: str) -> list[str]:
    """Options of `receive`: all that was set on `old` itself (none: it is not there), and nothing risky of a stream."""
    if not host.abilities.overrides:
        return []
    kept = {name: value for name, value in (host.own_values(old) if old else {}).items() if is_kept(name, is_volume)}
    excluded = [] if is_volume else [word for name in RISKY if name not in kept for word in ("-x", name)]
    return [*_settings({**kept, OWNER: mark}), *excluded]


def is_kept(name: str, is_volume: bool) -> bool:
    """Whether a restore sets the property as it was on the dataset before: also what people named themselves."""
    if name.startswith("backupsite:"):
        return False
    return name in _BOTH or (not is_volume and name in _FILESYSTEM) or _USERS.fullmatch(name) is not None


def _settings(values: Mapping[str, str]) -> list[str]:
    return [word for name, value in values.items() for word in ("-o", f"{name}={value}")]
