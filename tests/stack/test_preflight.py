from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from backupsite.stack.errors import PreflightError
from backupsite.stack.ports import Port, free_ports
from backupsite.stack.preflight import GIB, DataLock, prepare_data
from backupsite.stack.settings import DATA_FOLDERS


def refusal(data: Path, **options: object) -> str:
    values = {"ports": (), "needed_bytes": 0} | options
    with pytest.raises(PreflightError) as caught:
        prepare_data(data=data, **values)
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2
    return caught.value.message


def test_the_data_folder_is_made_private(tmp_path: Path) -> None:
    prepare_data(data=tmp_path / "deep" / "var", ports=(), needed_bytes=0).release()

    folders = [tmp_path / "deep" / "var", *(tmp_path / "deep" / "var" / name for name in DATA_FOLDERS)]
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}


def test_a_taken_port_is_named_with_its_purpose_and_nothing_is_made(tmp_path: Path) -> None:
    number = free_ports(1)[0]
    with socket.create_server(("127.0.0.1", number)):
        message = refusal(tmp_path / "var", ports=(Port(number, "the session gate"),))

    assert f"port {number}, needed for the session gate, is already in use" in message
    assert "BACKUPSITE_PORT=9000 make up" in message
    assert not (tmp_path / "var").exists()


def test_a_port_taken_on_all_addresses_is_seen(tmp_path: Path) -> None:
    number = free_ports(1)[0]
    with socket.create_server(("", number)):
        assert "already in use" in refusal(tmp_path / "var", ports=(Port(number, "the portal"),))


def test_too_little_space_is_told_with_figures_and_nothing_is_made(tmp_path: Path) -> None:
    message = refusal(tmp_path / "var", needed_bytes=4 * GIB, free_bytes=lambda folder: GIB // 2)

    assert "0.5 GiB free, 4.0 GiB needed" in message
    assert not (tmp_path / "var").exists()


def test_a_second_stack_on_the_same_data_is_told_who_holds_it(tmp_path: Path) -> None:
    first = prepare_data(data=tmp_path / "var", ports=(), needed_bytes=0)

    assert f"(process {os.getpid()}) already runs on the data folder" in refusal(tmp_path / "var")

    first.release()
    prepare_data(data=tmp_path / "var", ports=(), needed_bytes=0).release()


def test_the_second_stack_is_told_of_the_first_before_its_ports(tmp_path: Path) -> None:
    first = prepare_data(data=tmp_path / "var", ports=(), needed_bytes=0)
    number = free_ports(1)[0]
    with socket.create_server(("127.0.0.1", number)):
        assert "already runs" in refusal(tmp_path / "var", ports=(Port(number, "the portal"),))
    first.release()


def test_a_refusal_after_the_lock_was_taken_frees_it(tmp_path: Path) -> None:
    prepare_data(data=tmp_path / "var", ports=(), needed_bytes=0).release()

    refusal(tmp_path / "var", needed_bytes=1, free_bytes=lambda folder: 0)

    DataLock(tmp_path / "var").take()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    os.chown(tmp_path / "var", 65534, 65534)

    assert "belongs to another user (uid 65534)" in refusal(tmp_path / "var")


def test_an_unwritable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write everywhere, so the answer of the system is given here.
    monkeypatch.setattr(os, "access", lambda folder, mode: False)

    assert "cannot be written by this user" in refusal(tmp_path / "var")


def test_a_place_where_no_folder_can_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert "is not a folder" in refusal(tmp_path / "file" / "var")
    assert "cannot be made" in refusal(Path("/proc/backupsite"))


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("")
    tmp_path.chmod(0o755)

    assert "holds other things (holiday.jpg)" in refusal(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert [entry.name for entry in tmp_path.iterdir()] == ["holiday.jpg"]
