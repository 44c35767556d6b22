"""Settings from the environment: each wrong one is named, none of their values is."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from backupsite.brokers import transport_options
from backupsite.config import load_config
from backupsite.databases import database_from_url
from common.errors import ConfigurationError

KEY = base64.b64encode(b"k" * 32).decode()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BACKUPSITE_DATA", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BACKUPSITE_ROLE", "everything"),
        ("BACKUPSITE_PORT", "seventy"),
        ("BACKUPSITE_PORT", "70000"),
        ("BACKUPSITE_GATE_URL", "ftp://gate"),
        ("BACKUPSITE_MASTER_KEY", "c2hvcnQ="),
        ("BACKUPSITE_LEASE_SECONDS", "0"),
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
    monkeypatch.setenv("BACKUPSITE_SECRET_KEY", "s" * 50)

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
    monkeypatch.setenv("BACKUPSITE_SECRET_KEY", "s" * 50)
    monkeypatch.setenv("BACKUPSITE_S3_REAPER_ACCESS_KEY", "r")
    assert load_config().role == "reaper"

    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=complaint):
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
