"""What the installation is set to, for SuperAdmins: never a secret, and where each is changed."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings

from backupsite.config import PREFIX, Config

# What each group holds: the field and what it means. Fields that are secrets are in none, and a test says so.
GROUPS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Addresses",
        (
            ("portal_url", "Where people and the API find this service"),
            ("gate_url", "Where nodes and agents find the session gate"),
            ("s3_endpoint", "The S3 service of the first region"),
            ("allowed_hosts", "Names that requests may be for"),
            ("trusted_proxy_count", "Own proxies before the portal"),
            ("tls_pins", "TLS keys that agents accept of the gate; empty: any valid certificate"),
        ),
    ),
    (
        "Sign-in and tokens",
        (
            ("admin_mfa", "Second factor of administrators"),
            ("admin_mfa_grace_days", "Days in which an administrator sets it up"),
            ("session_hours", "Hours that a session lasts at most"),
            ("admin_idle_minutes", "Minutes that an administrator's session lasts without anybody there"),
            ("token_max_days", "Days that a token of the API lives at most"),
        ),
    ),
    (
        "Mail and webhooks",
        (
            ("email_from", "Sender of mails"),
            ("contact", "Whom people ask who may not do something themselves"),
            ("webhook_networks", "Networks beyond public addresses to which webhooks may go"),
        ),
    ),
    (
        "Jobs",
        (
            ("lease_seconds", "Seconds without a sign of life after which a job is taken over"),
            ("store_retry_seconds", "Seconds for which a mover tries a store that does not answer"),
            ("commit_retry_seconds", "Seconds for which a commit is tried again"),
            ("drill_hour", "Hour (UTC) in which restore drills begin; -1: none"),
            ("scrub_bytes_per_second", "Bytes a second with which vaults are read again"),
            ("repack_dead_percent", "Percent of dead bytes from which a pack is written anew"),
            ("repack_lock_days", "Days that the lock of such a pack may last at most"),
            ("repack_bytes_per_day", "Bytes a day and vault that are written anew; 0: none"),
        ),
    ),
    (
        "This process",
        (
            ("role", "What it is there for"),
            ("port", "Port that it listens on"),
            ("time_zone", "Zone of people who chose none"),
            ("log_level", "What is logged"),
            ("debug", "Shows errors in detail; never on a server that others reach"),
        ),
    ),
)
# Public halves of keys and folders: nobody reads anything from them on a page.
NOT_SHOWN = frozenset({"control_public_key", "release_public_key", "data", "node", "node_data"})


@dataclass(frozen=True, slots=True)
class Setting:
    """`variable` is the environment variable that sets it; `is_default` whether nobody did."""

    variable: str
    meaning: str
    value: str
    is_default: bool


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    settings: tuple[Setting, ...]


def shown_settings(config: Config | None = None) -> list[Group]:
    """As this process has them."""
    config = config or settings.CONFIG
    return [Group(title, tuple(_setting(config, *one) for one in fields)) for title, fields in GROUPS]


def _setting(config: Config, name: str, meaning: str) -> Setting:
    value = getattr(config, name)
    default = Config.model_fields[name].default
    shown = ("yes" if value else "no") if isinstance(value, bool) else str(value)
    return Setting(PREFIX + name.upper(), meaning, shown, value == default)


def database_kind() -> str:
    return "PostgreSQL" if "postgresql" in settings.DATABASES["default"]["ENGINE"] else "SQLite"
