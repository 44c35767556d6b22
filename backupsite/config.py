"""Settings from the environment, typed and checked once at start.

Every process has a role and gets only what its role needs: the web process, the node workers and beat hold no
storage credential and no master key.
"""

from __future__ import annotations

import base64
import secrets
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from agents.protocol import LARGEST_MESSAGE_BYTES
from backupsite.mail import mail_settings
from backupsite.single_sign_on import Provider, parse_providers
from common.errors import ConfigurationError
from common.ssrf import Guard
from tenants.token_secrets import parse_peppers

PREFIX = "BACKUPSITE_"
LONGEST_CONTACT = 200
# As curl and others write a pin.
_PIN = "sha256//"


class ProcessRole(StrEnum):
    """What a process is there for; decides which URLs it serves and which secrets it may hold."""

    WEB = "web"
    SIGNER = "signer"
    CONTROL = "control"
    NODE = "node"
    BEAT = "beat"
    CHECKS = "checks"
    REAPER = "reaper"
    NOTICES = "notices"
    MANAGE = "manage"


NEEDS_MASTER_KEY = {ProcessRole.SIGNER, ProcessRole.CONTROL, ProcessRole.CHECKS}
LONG_RUNNING = set(ProcessRole) - {ProcessRole.MANAGE}
# Of the portal's own secrets: who must have each, and beside one-off commands nobody else may.
_PORTAL_SECRETS = {
    # Makes sessions of the portal.
    "secret_key": {ProcessRole.WEB},
    # Opens the seeds of second factors.
    "mfa_key": {ProcessRole.WEB},
    # Tells a token of the API that was made here from one that somebody wrote into the database.
    "token_peppers": {ProcessRole.WEB},
    # The portal asks the signer with it.
    "portal_signer_key": {ProcessRole.WEB, ProcessRole.SIGNER},
    # What agents are told is signed with it: whoever has it can tell them what he likes.
    "control_key": {ProcessRole.SIGNER},
}


class Config(BaseSettings):
    """All settings. Sizes in bytes, times in seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore")

    role: ProcessRole = ProcessRole.MANAGE
    data: Path = Path("var")
    port: int = 8000
    debug: bool = False
    secret_key: SecretStr | None = None
    mfa_key: SecretStr | None = None
    portal_signer_key: SecretStr | None = None
    # Ed25519, 32 bytes in base64: the private key of answers to agents, its public half, which the portal puts into
    # tokens, and the public key that releases of the agent program are signed with (empty: no updates).
    control_key: SecretStr | None = None
    control_public_key: str = ""
    release_public_key: str = ""
    # `sha256//` and base64, several with commas: hashes of the TLS keys that agents accept of the gate.
    tls_pins: str = ""
    # `id:key`, several with commas: the first makes tokens, the others are for tokens from before; keys in base64.
    token_peppers: SecretStr | None = None
    # How long a token of the API may live at most.
    token_max_days: int = 365
    database_url: SecretStr | None = None
    broker_url: SecretStr = SecretStr("memory://")
    portal_url: str = "http://127.0.0.1:8000"
    gate_url: str = "http://127.0.0.1:8002"
    allowed_hosts: str = "127.0.0.1,localhost,[::1]"
    # How many proxies of our own stand before the portal: so many entries of X-Forwarded-For count, from the right.
    trusted_proxy_count: int = 0
    # Whether SuperAdmins and DCAdmins must have a second factor, and how long after their first sign-in they may wait.
    admin_mfa: Literal["required", "advised"] = "required"
    admin_mfa_grace_days: int = 7
    # How long a session lasts at most, and without anybody there when it is an administrator's.
    session_hours: int = 12
    admin_idle_minutes: int = 60
    # OpenID Connect providers, as JSON; see `backupsite.single_sign_on`.
    oidc_providers: SecretStr = SecretStr("")
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

    # Who sends mails; without it they are written to files below the data folder.
    email_url: SecretStr | None = None
    email_from: str = "backupsite@localhost"
    # Whom people ask who may not do something themselves: an e-mail address, an https address, or a few words.
    contact: str = ""
    # Opens the secrets of webhooks; only the role notices has it.
    notice_key: SecretStr | None = None
    # Networks beyond public addresses to which webhooks may go, such as 10.1.0.0/16,fd00::/8; there also without TLS.
    webhook_networks: str = ""

    node: str = "local"
    node_data: Path | None = None
    lease_seconds: int = 20
    store_retry_seconds: int = 60
    # After that an asked-for commit is not tried again. A next attempt may go on with what is a day old at most.
    commit_retry_seconds: int = 6 * 3600
    # How fast the scrub reads vaults, all together.
    scrub_bytes_per_second: int = 64 * 1024 * 1024
    # The hour (UTC) in which restore drills begin; -1 for none. They need a storage that is set aside for them.
    drill_hour: int = 2
    # Repack: how dead a pack must be, how long its lock may last at most, and how much is copied a day in each vault.
    repack_dead_percent: int = 50
    repack_lock_days: int = 30
    repack_bytes_per_day: int = 64 * 1024 * 1024 * 1024

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

    @field_validator("trusted_proxy_count")
    @classmethod
    def _proxies(cls, value: int) -> int:
        if not 0 <= value <= 10:
            raise ValueError("must be between 0 and 10")
        return value

    @field_validator("commit_retry_seconds")
    @classmethod
    def _commit_retry(cls, value: int) -> int:
        if not 900 <= value <= 12 * 3600:
            raise ValueError("must be between 900 and 43200 seconds")
        return value

    @field_validator("drill_hour")
    @classmethod
    def _hour_of_drills(cls, value: int) -> int:
        if not -1 <= value <= 23:
            raise ValueError("must be an hour from 0 to 23, or -1 for no drills")
        return value

    @field_validator("scrub_bytes_per_second")
    @classmethod
    def _scrub_rate(cls, value: int) -> int:
        if not 64 * 1024 <= value <= 1 << 40:
            raise ValueError("must be between 65536 and 1099511627776 bytes per second")
        return value

    @field_validator("repack_dead_percent")
    @classmethod
    def _repack_dead(cls, value: int) -> int:
        if not 1 <= value <= 99:
            raise ValueError("must be between 1 and 99 percent")
        return value

    @field_validator("repack_lock_days")
    @classmethod
    def _repack_lock(cls, value: int) -> int:
        if not 0 <= value <= 3650:
            raise ValueError("must be between 0 and 3650 days")
        return value

    @field_validator("repack_bytes_per_day")
    @classmethod
    def _repack_budget(cls, value: int) -> int:
        if not 0 <= value <= 1 << 50:
            raise ValueError("must be between 0 (no repack) and 1125899906842624 bytes a day")
        return value

    @field_validator("port")
    @classmethod
    def _port(cls, value: int) -> int:
        if not 1 <= value <= 65535:
            raise ValueError("must be between 1 and 65535")
        return value

    @field_validator("webhook_networks")
    @classmethod
    def _networks(cls, value: str) -> str:
        try:
            Guard.of(value)
        except ValueError:
            raise ValueError("must be networks such as 10.1.0.0/16,fd00::/8") from None
        return value

    @field_validator("email_url")
    @classmethod
    def _email(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            mail_settings(value.get_secret_value(), folder=Path())
        return value

    @field_validator("email_from")
    @classmethod
    def _sender(cls, value: str) -> str:
        if not value.isprintable() or "@" not in value:
            raise ValueError("must be an address such as backup@example.com")
        return value

    @field_validator("contact")
    @classmethod
    def _contact(cls, value: str) -> str:
        if value and (not value.isprintable() or len(value) > LONGEST_CONTACT):
            raise ValueError(f"must be one line of at most {LONGEST_CONTACT} signs, such as help@example.com")
        return value.strip()

    @field_validator("admin_mfa_grace_days")
    @classmethod
    def _grace(cls, value: int) -> int:
        if not 0 <= value <= 90:
            raise ValueError("must be between 0 and 90 days")
        return value

    @field_validator("session_hours")
    @classmethod
    def _session_life(cls, value: int) -> int:
        if not 1 <= value <= 24:
            raise ValueError("must be between 1 and 24 hours")
        return value

    @field_validator("admin_idle_minutes")
    @classmethod
    def _idle(cls, value: int) -> int:
        if not 5 <= value <= 24 * 60:
            raise ValueError("must be between 5 and 1440 minutes")
        return value

    @field_validator("token_peppers")
    @classmethod
    def _peppers(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_peppers(value.get_secret_value())
        return value

    @field_validator("token_max_days")
    @classmethod
    def _token_life(cls, value: int) -> int:
        if not 1 <= value <= 3650:
            raise ValueError("must be between 1 and 3650 days")
        return value

    @field_validator("oidc_providers")
    @classmethod
    def _providers(cls, value: SecretStr) -> SecretStr:
        parse_providers(value.get_secret_value())
        return value

    @field_validator("control_public_key", "release_public_key")
    @classmethod
    def _public_key(cls, value: str) -> str:
        if value and len(_decoded(SecretStr(value))) != 32:
            raise ValueError("must be 32 bytes in base64")
        return value

    @field_validator("tls_pins")
    @classmethod
    def _tls_pins(cls, value: str) -> str:
        if not all(pin.startswith(_PIN) and len(_decoded(SecretStr(pin[len(_PIN) :]))) == 32 for pin in _split(value)):
            raise ValueError(f"each must be {_PIN} and 32 bytes in base64")
        return value

    @field_validator("master_key", "notice_key", "mfa_key", "control_key")
    @classmethod
    def _key_length(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(_decoded(value)) != 32:
            raise ValueError("must be 32 bytes in base64")
        return value

    @model_validator(mode="after")
    def _secrets_of_role(self) -> Self:
        if self.role in NEEDS_MASTER_KEY and self.master_key is None:
            raise ValueError(f"master_key is needed by the role {self.role}")
        if self.role is ProcessRole.REAPER:
            self._check_reaper()
        if self.role is ProcessRole.NOTICES:
            self._check_notices()
        if self.role is not ProcessRole.MANAGE:
            self._check_portal_secrets()
        return self

    def _check_portal_secrets(self) -> None:
        """What signs sessions is with the portal alone: a node that is taken over makes nobody's session."""
        for name, roles in _PORTAL_SECRETS.items():
            has = getattr(self, name) is not None
            if self.role in roles and not has:
                raise ValueError(f"{name} is needed by the role {self.role}")
            if has and self.role not in roles:
                raise ValueError(f"the role {self.role} may not hold {name}")
        if self.role is not ProcessRole.WEB and self.oidc_providers.get_secret_value():
            raise ValueError(f"the role {self.role} may not hold oidc_providers")

    def _check_notices(self) -> None:
        """The one process that speaks to addresses that tenants give holds nothing that opens a backup."""
        if self.notice_key is None:
            raise ValueError("notice_key is needed by the role notices")
        others = ("signer", "keeper", "provisioner", "copier", "reaper")
        held = [name for name in others if getattr(self, f"s3_{name}_access_key")]
        if self.master_key is not None or held:
            raise ValueError("the role notices may hold no other key: " + ", ".join(held or ["master_key"]))

    def _check_reaper(self) -> None:
        """The one process that can delete can do nothing else, and a mistake in its environment ends it."""
        if not self.s3_reaper_access_key:
            raise ValueError("s3_reaper_access_key is needed by the role reaper")
        others = ("signer", "keeper", "provisioner", "copier")
        held = [name for name in others if getattr(self, f"s3_{name}_access_key")]
        if self.master_key is not None or held:
            raise ValueError("the role reaper may hold no other key: " + ", ".join(held or ["master_key"]))

    @property
    def largest_body_bytes(self) -> int:
        """A mover names all objects of a backup in one message; people and their programs send little."""
        return LARGEST_MESSAGE_BYTES if self.role is ProcessRole.SIGNER else 4 * 1024 * 1024

    @property
    def django_secret_key(self) -> str:
        """The portal's key; every other process has one of its own, which lives as long as it."""
        return self.secret_key.get_secret_value() if self.secret_key else secrets.token_urlsafe(50)

    @property
    def master_key_bytes(self) -> bytes:
        if self.master_key is None:
            raise ConfigurationError(
                f"{PREFIX}MASTER_KEY is not set for the role {self.role}; this process may not unwrap keys"
            )
        return _decoded(self.master_key)

    @property
    def mfa_key_bytes(self) -> bytes:
        if self.mfa_key is None:
            raise ConfigurationError(f"{PREFIX}MFA_KEY is not set for the role {self.role}; it opens no second factors")
        return _decoded(self.mfa_key)

    @property
    def token_pepper_keys(self) -> dict[str, bytes]:
        """By their ids; the first is the one for new tokens."""
        if self.token_peppers is None:
            raise ConfigurationError(f"{PREFIX}TOKEN_PEPPERS is not set for the role {self.role}; it knows no tokens")
        return parse_peppers(self.token_peppers.get_secret_value())

    @property
    def portal_signer_secret(self) -> str:
        if self.portal_signer_key is None:
            raise ConfigurationError(f"{PREFIX}PORTAL_SIGNER_KEY is not set for the role {self.role}")
        return self.portal_signer_key.get_secret_value()

    @property
    def control_key_bytes(self) -> bytes:
        if self.control_key is None:
            raise ConfigurationError(f"{PREFIX}CONTROL_KEY is not set for the role {self.role}; it answers no agents")
        return _decoded(self.control_key)

    @property
    def control_public_key_of_signer(self) -> bytes:
        """Of the private key, whatever the environment says beside it."""
        private = Ed25519PrivateKey.from_private_bytes(self.control_key_bytes)
        return private.public_key().public_bytes_raw()

    @property
    def control_public_key_bytes(self) -> bytes:
        if not self.control_public_key:
            raise ConfigurationError(
                f"{PREFIX}CONTROL_PUBLIC_KEY is not set for the role {self.role}; it makes no tokens for agents"
            )
        return _decoded(SecretStr(self.control_public_key))

    @property
    def release_public_key_bytes(self) -> bytes:
        """Empty where there are no updates."""
        return _decoded(SecretStr(self.release_public_key))

    @property
    def tls_pin_hashes(self) -> list[bytes]:
        """Empty where agents trust whom their system trusts."""
        return [_decoded(SecretStr(pin[len(_PIN) :])) for pin in _split(self.tls_pins)]

    @property
    def oidc(self) -> tuple[Provider, ...]:
        return parse_providers(self.oidc_providers.get_secret_value())

    @property
    def notice_key_bytes(self) -> bytes:
        if self.notice_key is None:
            raise ConfigurationError(f"{PREFIX}NOTICE_KEY is not set for the role {self.role}; it sends no notices")
        return _decoded(self.notice_key)

    @property
    def node_directory(self) -> Path:
        return self.node_data or self.data / "node"


def _split(pins: str) -> list[str]:
    return [pin.strip() for pin in pins.split(",") if pin.strip()]


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
