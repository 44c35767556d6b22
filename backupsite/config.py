"""Settings from the environment, typed and checked once at start.

Every process has a role and gets only what its role needs: the web process, the node workers and beat hold no
storage credential and no master key.
"""

from __future__ import annotations

import base64
import secrets
from enum import StrEnum
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.errors import ConfigurationError

PREFIX = "BACKUPSITE_"


class ProcessRole(StrEnum):
    """What a process is there for; decides which URLs it serves and which secrets it may hold."""

    WEB = "web"
    SIGNER = "signer"
    CONTROL = "control"
    NODE = "node"
    BEAT = "beat"
    CHECKS = "checks"
    REAPER = "reaper"
    MANAGE = "manage"


NEEDS_MASTER_KEY = {ProcessRole.SIGNER, ProcessRole.CONTROL, ProcessRole.CHECKS}
LONG_RUNNING = set(ProcessRole) - {ProcessRole.MANAGE}


class Config(BaseSettings):
    """All settings. Sizes in bytes, times in seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore")

    role: ProcessRole = ProcessRole.MANAGE
    data: Path = Path("var")
    port: int = 8000
    debug: bool = False
    secret_key: SecretStr | None = None
    database_url: SecretStr | None = None
    broker_url: SecretStr = SecretStr("memory://")
    portal_url: str = "http://127.0.0.1:8000"
    gate_url: str = "http://127.0.0.1:8002"
    allowed_hosts: str = "127.0.0.1,localhost,[::1]"
    time_zone: str = "UTC"
    log_level: str = "INFO"

    master_key: SecretStr | None = None
    s3_endpoint: str = "http://127.0.0.1:8001"
    s3_signer_access_key: str = ""
    s3_signer_secret_key: SecretStr = SecretStr("")
    s3_keeper_access_key: str = ""
    s3_keeper_secret_key: SecretStr = SecretStr("")
    s3_provisioner_access_key: str = ""
    s3_provisioner_secret_key: SecretStr = SecretStr("")
    s3_reaper_access_key: str = ""
    s3_reaper_secret_key: SecretStr = SecretStr("")
    s3_copier_access_key: str = ""
    s3_copier_secret_key: SecretStr = SecretStr("")

    node: str = "local"
    node_data: Path | None = None
    lease_seconds: int = 20
    store_retry_seconds: int = 60
    # How fast the scrub reads vaults, all together.
    scrub_bytes_per_second: int = 64 * 1024 * 1024

    @field_validator("portal_url", "gate_url", "s3_endpoint")
    @classmethod
    def _http_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an address such as http://127.0.0.1:8000")
        return value.rstrip("/")

    @field_validator("lease_seconds")
    @classmethod
    def _lease(cls, value: int) -> int:
        if not 3 <= value <= 600:
            raise ValueError("must be between 3 and 600 seconds")
        return value

    @field_validator("scrub_bytes_per_second")
    @classmethod
    def _scrub_rate(cls, value: int) -> int:
        if not 64 * 1024 <= value <= 1 << 40:
            raise ValueError("must be between 65536 and 1099511627776 bytes per second")
        return value

    @field_validator("port")
    @classmethod
    def _port(cls, value: int) -> int:
        if not 1 <= value <= 65535:
            raise ValueError("must be between 1 and 65535")
        return value

    @field_validator("master_key")
    @classmethod
    def _key_length(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(_decoded(value)) != 32:
            raise ValueError("must be 32 bytes in base64")
        return value

    @model_validator(mode="after")
    def _secrets_of_role(self) -> Self:
        if self.role in LONG_RUNNING and self.secret_key is None:
            raise ValueError("secret_key is needed by every long-running process")
        if self.role in NEEDS_MASTER_KEY and self.master_key is None:
            raise ValueError(f"master_key is needed by the role {self.role}")
        if self.role is ProcessRole.REAPER:
            self._check_reaper()
        return self

    def _check_reaper(self) -> None:
        """The one process that can delete can do nothing else, and a mistake in its environment ends it."""
        if not self.s3_reaper_access_key:
            raise ValueError("s3_reaper_access_key is needed by the role reaper")
        others = ("signer", "keeper", "provisioner", "copier")
        held = [name for name in others if getattr(self, f"s3_{name}_access_key")]
        if self.master_key is not None or held:
            raise ValueError("the role reaper may hold no other key: " + ", ".join(held or ["master_key"]))

    @property
    def django_secret_key(self) -> str:
        """The given key; for one-off commands without one, a key that lives as long as the command."""
        return self.secret_key.get_secret_value() if self.secret_key else secrets.token_urlsafe(50)

    @property
    def master_key_bytes(self) -> bytes:
        if self.master_key is None:
            raise ConfigurationError(
                f"{PREFIX}MASTER_KEY is not set for the role {self.role}; this process may not unwrap keys"
            )
        return _decoded(self.master_key)

    @property
    def node_directory(self) -> Path:
        return self.node_data or self.data / "node"


def _decoded(value: SecretStr) -> bytes:
    try:
        return base64.b64decode(value.get_secret_value(), validate=True)
    except ValueError:
        return b""


def load_config() -> Config:
    """Read and check the environment. Raises ConfigurationError naming each wrong variable, never its value."""
    try:
        return Config()
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explain(error))) from None


def _explain(error: ValidationError) -> list[str]:
    found = []
    for problem in error.errors(include_input=False, include_url=False):
        name = PREFIX + "_".join(str(part) for part in problem["loc"]).upper()
        found.append(f"{name.rstrip('_')}: {problem['msg'].removeprefix('Value error, ')}")
    return found
