"""Every way to the data beside the S3 port is shut: reference figures in the server's default set-up are all 'open'."""

from __future__ import annotations

import datetime
import http.client
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from backupsite.stack.ports import INTERNAL_PURPOSES
from backupsite.stack.secret_files import new_credential
from backupsite.stack.weed import EmbeddedWeed, find_weed

from .conftest import s3_client

pytestmark = pytest.mark.stack

BUCKET = "hardening"
BODY = b"locked and kept"


@pytest.fixture(scope="module")
def locked(weed: EmbeddedWeed) -> Any:
    """A locked object; reading it with the storage's own key shows whether it is still there."""
    client = s3_client(weed.url, weed.credentials["root"])
    client.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    put = client.put_object(
        Bucket=BUCKET, Key="a", Body=BODY, ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until
    )
    return lambda: client.get_object(Bucket=BUCKET, Key="a", VersionId=put["VersionId"])["Body"].read()


def internal(weed: EmbeddedWeed, purpose: str) -> int:
    return weed.internal_ports[INTERNAL_PURPOSES.index(purpose)]


def ask(port: int, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("purpose", "method", "path"),
    [
        ("filer", "GET", f"/buckets/{BUCKET}/"),
        ("filer", "GET", f"/buckets/{BUCKET}/a"),
        ("filer", "DELETE", f"/buckets/{BUCKET}?recursive=true"),
        ("filer", "POST", f"/buckets/{BUCKET}/b"),
        ("master", "GET", f"/col/delete?collection={BUCKET}"),
        ("master", "POST", f"/col/delete?collection={BUCKET}"),
        ("master", "GET", "/dir/assign"),
        ("master", "GET", "/dir/lookup?volumeId=1"),
        ("master", "GET", "/vol/vacuum"),
        ("volume", "GET", "/1,01637037d6"),
        ("volume", "DELETE", "/1,01637037d6"),
        ("volume", "POST", "/1,01637037d6"),
        ("volume", "GET", "/ui/index.html"),
    ],
)
def test_a_side_door_answers_nothing_useful(
    weed: EmbeddedWeed, locked: Any, purpose: str, method: str, path: str
) -> None:
    status, body = ask(internal(weed, purpose), method, path)

    assert status in {401, 403, 404, 405}
    assert BODY not in body
    assert locked() == BODY


def test_every_volume_of_the_bucket_refuses_to_read_and_delete(weed: EmbeddedWeed, locked: Any) -> None:
    volumes = [path.stem.rpartition("_")[2] for path in (weed.directory / "data").glob("*.dat")]
    assert volumes

    for volume in volumes:
        for needle in range(1, 6):
            for method in ("GET", "DELETE"):
                assert ask(internal(weed, "volume"), method, f"/{volume},{needle:02x}00000000")[0] == 401
    assert locked() == BODY


@pytest.mark.parametrize("purpose", ["master gRPC", "volume gRPC", "filer gRPC", "admin gRPC", "S3 gRPC"])
def test_grpc_speaks_to_nobody_without_a_certificate(weed: EmbeddedWeed, purpose: str) -> None:
    with socket.create_connection(("127.0.0.1", internal(weed, purpose)), timeout=60) as connection:
        assert plain_http2_answer(connection) == b""


def test_the_unix_sockets_are_private_and_want_a_certificate_too(weed: EmbeddedWeed) -> None:
    sockets = [
        Path(line.split()[-1]) for line in Path("/proc/net/unix").read_text().splitlines() if "/seaweedfs-" in line
    ]
    ours = [path for path in sockets if any(f"-{port}.sock" in path.name for port in weed.internal_ports)]
    assert len(ours) >= 4

    for path in ours:
        assert path.stat().st_mode & 0o077 == 0
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(path))
            assert plain_http2_answer(connection) == b""


def plain_http2_answer(connection: socket.socket) -> bytes:
    """A server without TLS would answer with its own settings frame."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
    try:
        return connection.recv(100)
    except ConnectionResetError:
        return b""


def test_the_servers_own_shell_needs_the_certificate(weed: EmbeddedWeed, locked: Any, tmp_path: Path) -> None:
    master = f"-master=127.0.0.1:{internal(weed, 'master')}.{internal(weed, 'master gRPC')}"
    commands = f"lock\nfs.ls /buckets\nfs.rm -rf /buckets/{BUCKET}\ncollection.delete -collection={BUCKET} -apply\n"
    environment = {"PATH": os.defpath, "HOME": str(tmp_path)}

    shell = subprocess.Popen(
        [str(find_weed()), "shell", master], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    try:
        output, _ = shell.communicate(commands.encode(), timeout=6)
    except subprocess.TimeoutExpired:
        shell.kill()
        output, _ = shell.communicate()

    assert BUCKET.encode() not in output
    assert locked() == BODY


def test_it_listens_on_the_loopback_address_only(weed: EmbeddedWeed) -> None:
    inodes = {os.readlink(link) for link in Path(f"/proc/{weed.child.pid}/fd").iterdir() if link.is_symlink()}
    listening = []
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = row.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in inodes:
                listening.append(columns[1])

    assert {address.partition(":")[0] for address in listening} == {"0100007F"}
    assert {int(address.partition(":")[2], 16) for address in listening} <= {weed.s3_port, *weed.internal_ports}


def test_nobody_gets_in_without_a_right_key(weed: EmbeddedWeed, locked: Any) -> None:
    signer = weed.credentials["signer"]
    wrong_secret = type(signer)(access_key=signer.access_key, secret_key="x" * 40)

    for credential, code in ((new_credential(), "InvalidAccessKeyId"), (wrong_secret, "SignatureDoesNotMatch")):
        with pytest.raises(ClientError, match=code):
            s3_client(weed.url, credential).get_object(Bucket=BUCKET, Key="a")
    for path in ("/", f"/{BUCKET}", f"/{BUCKET}/a", f"/{BUCKET}?versions"):
        assert ask(weed.s3_port, "GET", path)[0] == 403
    assert ask(weed.s3_port, "DELETE", f"/{BUCKET}/a")[0] == 403
    assert ask(weed.s3_port, "PUT", f"/{BUCKET}/b")[0] == 403


@pytest.mark.parametrize("action", ["CreateUser", "ListUsers", "CreateAccessKey", "AssumeRole"])
def test_keys_cannot_be_managed_over_the_network(weed: EmbeddedWeed, action: str) -> None:
    assert ask(weed.s3_port, "POST", f"/?Action={action}&Version=2010-05-08&UserName=signer")[0] >= 400


def test_an_administrators_key_in_the_launchers_environment_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = new_credential()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", stranger.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", stranger.secret_key)

    with EmbeddedWeed(tmp_path / "s3") as server, pytest.raises(ClientError, match="InvalidAccessKeyId"):
        s3_client(server.url, stranger).list_buckets()


def test_its_files_are_private(weed: EmbeddedWeed) -> None:
    assert weed.directory.stat().st_mode & 0o777 == 0o700
    files = [path for path in weed.directory.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if path.stat().st_mode & 0o077 and (path.parent.stat().st_mode & 0o077)] == []


def test_no_secret_is_on_the_command_line_or_in_the_log(weed: EmbeddedWeed) -> None:
    line = Path(f"/proc/{weed.child.pid}/cmdline").read_bytes().decode()
    log = weed.child.log_path.read_text(errors="replace")

    for credential in weed.credentials.values():
        assert credential.secret_key not in line
        assert credential.secret_key not in log
