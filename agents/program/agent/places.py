"""Where the agent keeps what, and the configuration that the server's administrator may write."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agents.program.agent.errors import UsageError

HOME_VARIABLE = "BACKUPSITE_AGENT_HOME"
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
LARGEST_SETTINGS_BYTES = 64 * 1024


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`agent.toml`, each line of it optional. Excludes and hooks count only where the policy allows them.

    `root`: protect this directory instead of the whole server. `bytes_per_second`, 0 for none: never faster than
    this, whatever the policy says. `ca_file`: a file of certificates to trust instead of the system's. Without
    `restores` nothing is ever written to this server, whoever asks for it.
    """

    root: str = "/"
    excludes: list[str] = []
    bytes_per_second: int = 0
    hooks: bool = True
    hook_seconds: int = 300
    memory_mib: int = 256
    ca_file: str = ""
    restores: bool = True
    programs: str = "/opt/backupsite-agent"

    @property
    def is_whole_server(self) -> bool:
        return not os.path.realpath(self.root).strip("/")


@dataclass(frozen=True, slots=True)
class Places:
    """`config` is written by people, `state` by the agent alone."""

    config: Path
    state: Path

    @classmethod
    def of(cls, home: str | None, environment: Mapping[str, str] = os.environ) -> Places:
        """Below one directory when one is named, by `--home` or the environment; else the system's usual places."""
        home = home or environment.get(HOME_VARIABLE)
        if home:
            return cls(Path(home).absolute() / "etc", Path(home).absolute() / "lib")
        return cls(Path("/etc/backupsite-agent"), Path("/var/lib/backupsite-agent"))

    @property
    def settings(self) -> Path:
        return self.config / "agent.toml"

    @property
    def hooks(self) -> Path:
        return self.config / "hooks.d"

    @property
    def identity(self) -> Path:
        return self.state / "identity.json"

    @property
    def request_keys(self) -> Path:
        return self.state / "keys" / "requests"

    @property
    def writer_keys(self) -> Path:
        return self.state / "keys" / "manifests"

    @property
    def memory(self) -> Path:
        return self.state / "state.json"

    @property
    def policy(self) -> Path:
        return self.state / "policy.json"

    @property
    def lock(self) -> Path:
        """Of whoever works: the service, or a command that does a job itself."""
        return self.state / "agent.lock"

    @property
    def service_lock(self) -> Path:
        """Of the service from its start to its end, also while it waits for a command."""
        return self.state / "service.lock"

    @property
    def log(self) -> Path:
        return self.state / "agent.log"

    @property
    def jobs(self) -> Path:
        return self.state / "jobs"


def read_settings(places: Places) -> Settings:
    """Raises UsageError naming the line that is wrong, and for a file that others may write: it would be theirs."""
    try:
        with open(places.settings, "rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(LARGEST_SETTINGS_BYTES + 1)
    except FileNotFoundError:
        return Settings()
    if found.st_mode & _WRITABLE_BY_OTHERS or found.st_uid not in {0, os.geteuid()}:
        raise UsageError(f"{places.settings} must belong to root and be writable by nobody else: chmod 0600 it.")
    if len(data) > LARGEST_SETTINGS_BYTES:
        raise UsageError(f"{places.settings} may have {LARGEST_SETTINGS_BYTES} bytes.")
    try:
        return _checked(msgspec.convert(tomllib.loads(data.decode()), Settings))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError, ValueError) as error:
        raise UsageError(f"{places.settings}: {error}.") from error


def _checked(settings: Settings) -> Settings:
    if not settings.root.startswith("/"):
        raise ValueError("root must be an absolute path")
    if settings.bytes_per_second < 0 or settings.hook_seconds < 1 or settings.memory_mib < 64:
        raise ValueError("bytes_per_second is at least 0, hook_seconds at least 1, memory_mib at least 64")
    if any(not line.strip() or "\n" in line or "\0" in line for line in settings.excludes):
        raise ValueError("each of excludes is one pattern in one line")
    return settings
