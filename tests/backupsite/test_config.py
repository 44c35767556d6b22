"""Settings from the environment: each wrong one is named, none of their values is."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents.protocol import LARGEST_MESSAGE_BYTES
from backupsite.brokers import transport_options
from backupsite.config import ProcessRole, load_config
from backupsite.databases import database_from_url
from common.errors import ConfigurationError

KEY = base64.b64encode(b"k" * 32).decode()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BACKUPSITE_DATA", str(tmp_path))
    for name in ("MFA_KEY", "PORTAL_SIGNER_KEY", "TOKEN_PEPPERS", "CONTROL_KEY"):
        monkeypatch.delenv(f"BACKUPSITE_{name}", raising=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BACKUPSITE_ROLE", "everything"),
        ("BACKUPSITE_PORT", "seventy"),
        ("BACKUPSITE_PORT", "70000"),
        ("BACKUPSITE_GATE_URL", "ftp://gate"),
        ("BACKUPSITE_MASTER_KEY", "c2hvcnQ="),
        ("BACKUPSITE_LEASE_SECONDS", "0"),
        ("BACKUPSITE_NOTICE_KEY", "c2hvcnQ="),
        ("BACKUPSITE_EMAIL_URL", "http://user:c2hvcnQ=@host"),
        ("BACKUPSITE_EMAIL_FROM", "nobody"),
        ("BACKUPSITE_CONTACT", "help@example.com\nand more"),
        ("BACKUPSITE_CONTACT", "h" * 201),
        ("BACKUPSITE_WEBHOOK_NETWORKS", "10.0.0.1/8"),
        ("BACKUPSITE_TLS_PINS", f"sha256//{KEY},{KEY}"),
        ("BACKUPSITE_TLS_PINS", "sha256//c2hvcnQ="),
    ],
)
def test_a_wrong_setting_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError) as caught:
        load_config()

    assert name in caught.value.message
    assert "c2hvcnQ" not in caught.value.message


@pytest.mark.parametrize("role", ["signer", "control"])
def test_a_process_that_opens_keys_needs_the_master_key(monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    monkeypatch.setenv("BACKUPSITE_ROLE", role)

    with pytest.raises(ConfigurationError, match="master_key"):
        load_config()


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("BACKUPSITE_S3_REAPER_ACCESS_KEY", "", "s3_reaper_access_key is needed"),
        ("BACKUPSITE_MASTER_KEY", KEY, "no other key: master_key"),
        ("BACKUPSITE_S3_KEEPER_ACCESS_KEY", "k", "no other key: keeper"),
    ],
)
def test_the_process_that_can_delete_holds_nothing_else(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv("BACKUPSITE_ROLE", "reaper")
    monkeypatch.setenv("BACKUPSITE_S3_REAPER_ACCESS_KEY", "r")
    assert load_config().role == "reaper"

    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=complaint):
        load_config()


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("BACKUPSITE_NOTICE_KEY", None, "notice_key is needed"),
        ("BACKUPSITE_MASTER_KEY", KEY, "no other key: master_key"),
        ("BACKUPSITE_S3_REAPER_ACCESS_KEY", "k", "no other key: reaper"),
    ],
)
def test_the_process_that_speaks_to_strangers_holds_nothing_else(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, complaint: str
) -> None:
    for held in [held for held in os.environ if held.startswith("BACKUPSITE_") and held != "BACKUPSITE_DATA"]:
        monkeypatch.delenv(held)
    monkeypatch.setenv("BACKUPSITE_ROLE", "notices")
    monkeypatch.setenv("BACKUPSITE_NOTICE_KEY", KEY)
    assert load_config().notice_key_bytes == b"k" * 32

    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=complaint):
        load_config()


PORTAL = {"SECRET_KEY": "s" * 50, "MFA_KEY": KEY, "PORTAL_SIGNER_KEY": "p" * 50, "TOKEN_PEPPERS": f"1:{KEY}"}


@pytest.mark.parametrize("missing", PORTAL)
def test_the_portal_needs_its_secrets(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setenv("BACKUPSITE_ROLE", "web")
    for name, value in PORTAL.items():
        monkeypatch.setenv(f"BACKUPSITE_{name}", value)
    assert load_config().django_secret_key == "s" * 50
    monkeypatch.delenv(f"BACKUPSITE_{missing}")

    with pytest.raises(ConfigurationError, match=f"{missing.lower()} is needed by the role web"):
        load_config()


def test_the_gate_takes_the_longest_message_of_a_mover(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config()

    assert config.model_copy(update={"role": ProcessRole.SIGNER}).largest_body_bytes == LARGEST_MESSAGE_BYTES
    assert config.model_copy(update={"role": ProcessRole.WEB}).largest_body_bytes < LARGEST_MESSAGE_BYTES


@pytest.mark.parametrize("name", [*PORTAL, "OIDC_PROVIDERS"])
@pytest.mark.parametrize("role", ["node", "beat"])
def test_other_processes_may_not_hold_them(monkeypatch: pytest.MonkeyPatch, role: str, name: str) -> None:
    monkeypatch.setenv("BACKUPSITE_ROLE", role)
    assert load_config().role == role
    provider = '[{"id": "c", "name": "C", "issuer": "https://i.example", "client_id": "b", "client_secret": "geheim"}]'
    monkeypatch.setenv(f"BACKUPSITE_{name}", PORTAL.get(name, provider))

    with pytest.raises(ConfigurationError, match=f"the role {role} may not hold {name.lower()}") as caught:
        load_config()

    assert "geheim" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ADMIN_MFA", "never"),
        ("ADMIN_MFA_GRACE_DAYS", "-1"),
        ("SESSION_HOURS", "48"),
        ("ADMIN_IDLE_MINUTES", "0"),
        ("MFA_KEY", "c2hvcnQ="),
        ("OIDC_PROVIDERS", "[1]"),
        ("TOKEN_PEPPERS", "1:c2hvcnQ="),
        ("TOKEN_MAX_DAYS", "0"),
    ],
)
def test_wrong_settings_of_sign_in_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"BACKUPSITE_{name}", value)

    with pytest.raises(ConfigurationError, match=f"BACKUPSITE_{name}"):
        load_config()


def test_secrets_do_not_show_in_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUPSITE_MASTER_KEY", KEY)
    monkeypatch.setenv("BACKUPSITE_DATABASE_URL", "postgresql://u:geheim@h/d")

    config = load_config()

    assert KEY not in repr(config) and "geheim" not in repr(config) + str(config)
    assert config.master_key_bytes == b"k" * 32


def test_a_process_ends_at_start_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=Path(__file__).resolve().parents[2],
        env={"PATH": "/usr/bin:/bin", "BACKUPSITE_PORT": "none", "BACKUPSITE_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("backupsite: wrong setting: BACKUPSITE_PORT")
    assert "Traceback" not in done.stderr


def test_database_urls(tmp_path: Path) -> None:
    assert database_from_url(None, data=tmp_path)["NAME"] == str(tmp_path / "db" / "backupsite.sqlite3")
    assert database_from_url("sqlite:////var/x%20y.db", data=tmp_path)["NAME"] == "/var/x y.db"
    found = database_from_url("postgresql://u:p%40ss@host:5433/name", data=tmp_path)
    assert (found["NAME"], found["PASSWORD"], found["PORT"]) == ("name", "p@ss", "5433")
    with pytest.raises(ConfigurationError):
        database_from_url("mysql://x", data=tmp_path)


def test_the_last_broker_rung_gets_its_folders(tmp_path: Path) -> None:
    options = transport_options("filesystem://", data=tmp_path)

    assert Path(options["data_folder_in"]).is_dir() and Path(options["control_folder"]).is_dir()
    assert transport_options("redis+socket:///x", data=tmp_path)["visibility_timeout"] == 3600
    assert transport_options("memory://", data=tmp_path) == {}
