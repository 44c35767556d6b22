"""Places of a server that this program goes on to use while it backs the server up: mounts on which they lie are held.

Whatever else is mounted is let go of, so it has to be in here what is opened by name after that: modules, libraries,
programs and their devices, names of users, addresses of servers, certificates.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

# With all that is mounted inside of them: in a container /etc/resolv.conf is a mount of its own.
WHOLE = frozenset({"/bin", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr"})
_SYSTEM = ("/opt", "/run", "/run/lock", "/run/lvm", "/run/systemd", "/run/udev", "/var", "/var/lib")
_LINKS = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/localtime", "/etc/ssl/certs", "/var/run")
_MAPS = Path("/proc/self/maps")


def places_in_use() -> frozenset[str]:
    """Absolute paths, links followed: of the system, and of this process."""
    paths = {*_SYSTEM, *_LINKS, *sys.path, sys.executable, sys.prefix, sys.base_prefix, tempfile.tempdir or ""}
    paths |= {*os.environ.get("PATH", "").split(":"), *_libraries(), "/proc/self/cwd"}
    return frozenset(os.path.realpath(path) for path in paths if path.startswith("/"))


def _libraries() -> set[str]:
    """Files that this process has in its memory: what it loads later lies beside them."""
    try:
        lines = os.fsdecode(_MAPS.read_bytes()).split("\n")
    except OSError:
        return set()
    return {line[line.index("/") :] for line in lines if "/" in line}
