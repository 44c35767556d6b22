from __future__ import annotations

from pathlib import Path

import pytest

from backupsite.stack.errors import PreflightError
from backupsite.stack.ports import HIGHEST_PORT, PORT_SPAN, stack_ports
from backupsite.stack.settings import StackSettings


def test_defaults_are_port_8000_and_var_below_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    settings = StackSettings.from_environment({})

    assert (settings.port, settings.data) == (8000, tmp_path / "var")


def test_addresses_follow_the_port() -> None:
    settings = StackSettings.from_environment({"BACKUPSITE_PORT": "9000"})

    assert settings.portal_url == "http://127.0.0.1:9000"
    assert settings.s3_url == "http://127.0.0.1:9001"
    assert settings.gate_url == "http://127.0.0.1:9002"


@pytest.mark.parametrize("text", ["abc", "0", "80", "-1", "65535", "1e4", "8000.5", "٨٠٠٠", " 8000", "9" * 5000])
def test_a_port_that_cannot_be_used_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(PreflightError) as caught:
        StackSettings.from_environment({"BACKUPSITE_PORT": text})

    assert "BACKUPSITE_PORT must be a number from 1024 to" in caught.value.message
    assert "BACKUPSITE_PORT=9000 make up" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", ["abc", "0", "127", "-1", "1048577", "1e4", "256.5", " 256", "9" * 5000])
def test_a_size_of_the_demos_disk_that_cannot_be_used_is_refused(text: str) -> None:
    with pytest.raises(PreflightError, match="BACKUPSITE_DEMO_DISK_MIB must be a number from 128 to"):
        StackSettings.from_environment({"BACKUPSITE_DEMO_DISK_MIB": text})

    assert StackSettings.from_environment({"BACKUPSITE_DEMO_DISK_MIB": "128"}).demo_disk_mib == 128


def test_the_highest_port_leaves_room_for_all() -> None:
    numbers = [port.number for port in stack_ports(HIGHEST_PORT)]

    assert len(numbers) == len(set(numbers)) == PORT_SPAN
    assert max(numbers) == 65535


def test_the_default_database_is_in_the_data_folder_and_a_given_one_is_kept(tmp_path: Path) -> None:
    assert (
        StackSettings(data=Path("/a b"), port=8000).effective_database_url == "sqlite:////a%20b/db/backupsite.sqlite3"
    )
    given = StackSettings(data=tmp_path, port=8000, database_url="postgresql://x/y")
    assert given.effective_database_url == "postgresql://x/y"
