"""An image served over NBD: what our own client, QEMU's tools and hostile clients get."""

from __future__ import annotations

import errno
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.drivers.base import DiskUnreadableError
from agents.drivers.nbd import NbdClient
from agents.drivers.nbd_export import ALLOCATION, receive_request, welcome
from agents.drivers.nbd_server import NbdServer
from agents.drivers.nbd_wire import NbdProtocolError, request
from engine.errors import DamagedError
from tests.engine.support import noise

SIZE = 4 * 1024 * 1024 + 512
STEP = 65536
CONTENT = bytearray(SIZE)
for _start in (0, 5 * STEP, SIZE - 700):
    CONTENT[_start : _start + 100_000] = noise(min(100_000, SIZE - _start), str(_start))
BAD = 30 * STEP

needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="not installed: qemu-utils")


class Image:
    """With one part that cannot be had."""

    size_bytes = SIZE
    bad = SIZE

    def read(self, offset: int, length: int) -> bytes:
        if offset <= self.bad < offset + length:
            raise DamagedError([(self.bad, 1)])
        return bytes(CONTENT[offset : offset + length])

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        for start in range(offset, offset + length, STEP):
            part = CONTENT[start : min(start + STEP, offset + length)]
            yield len(part), not any(part)


@pytest.fixture
def server() -> Iterator[tuple[str, Image, NbdServer]]:
    image = Image()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/nbd"
        with NbdServer(image, path) as serving:
            yield path, image, serving
        assert not Path(path).exists()


def test_clients_read_all_parts_at_the_same_time(server: tuple[str, Image, NbdServer]) -> None:
    path, _, serving = server

    def whole(_: int) -> bytes:
        client = NbdClient.connect(path, export="any", contexts=[ALLOCATION])
        try:
            told = list(client.statuses(ALLOCATION))
            assert sum(length for _, length, _ in told) == SIZE
            assert all(not any(CONTENT[at : at + length]) for at, length, flags in told if flags)
            assert any(flags == 3 for _, _, flags in told)
            return client.read(0, SIZE)
        finally:
            client.close()

    with ThreadPoolExecutor(4) as pool:
        assert all(found == CONTENT for found in pool.map(whole, range(4)))
    assert serving.read_bytes >= 4 * SIZE and serving.failed_reads == 0


def test_what_cannot_be_had_is_an_error_and_the_rest_is_read(server: tuple[str, Image, NbdServer]) -> None:
    path, image, serving = server
    image.bad = BAD
    client = NbdClient.connect(path, export="")

    with pytest.raises(DiskUnreadableError, match="Input/output error"):
        client.read(BAD - 10, 20)

    assert client.read(0, BAD) == CONTENT[:BAD]
    with pytest.raises(DiskUnreadableError, match="not permitted"):
        client.write(0, b"x" * 10)
    with pytest.raises(DiskUnreadableError, match="not permitted"):
        client.zero(0, 10)
    assert client.read(0, 10) == CONTENT[:10] and serving.failed_reads == 1
    client.close()


@needs_qemu
def test_qemus_own_tools_find_the_same_image(server: tuple[str, Image, NbdServer], tmp_path: Path) -> None:
    path, image, _ = server
    copy, url = tmp_path / "copy.raw", f"nbd+unix:///disk?socket={path}"
    copy.write_bytes(CONTENT)
    compare = ["qemu-img", "compare", "-f", "raw", "-F", "raw", str(copy), url]

    assert subprocess.run(compare, capture_output=True, check=False).returncode == 0
    told = subprocess.run(["qemu-img", "map", "-f", "raw", "--output=json", url], capture_output=True, check=True)
    assert b'"zero": true' in told.stdout and b'"data": true' in told.stdout
    image.bad = 6 * STEP
    assert subprocess.run(compare, capture_output=True, check=False).returncode > 1


def test_an_old_client_without_structured_replies(server: tuple[str, Image, NbdServer]) -> None:
    path, image, _ = server
    image.bad = BAD
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as answers:
        client.connect(path)
        answers.read(18)
        client.sendall(struct.pack(">I", 1) + b"IHAVEOPT" + struct.pack(">II", 99, 0))
        assert answers.read(20)[12:16] == struct.pack(">I", 0x80000001)
        client.sendall(b"IHAVEOPT" + struct.pack(">II", 1, 0))
        assert struct.unpack(">Q", answers.read(134)[:8]) == (SIZE,)
        for offset, length, number in ((3, 50, 0), (BAD, 1, errno.EIO), (SIZE, 1, errno.EINVAL), (0, 0, errno.EINVAL)):
            client.sendall(request(0, offset, offset, length))
            assert struct.unpack(">IIQ", answers.read(16)) == (0x67446698, number, offset)
            assert number or answers.read(length) == CONTENT[offset : offset + length]
        client.sendall(b"x" * 28)
        assert answers.read() == b""


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_whatever_a_client_sends_ends_well(sent: bytes, is_welcomed: bool) -> None:
    """An error of ours or the end of what it sent, and nothing is read that it did not announce within bounds."""
    if is_welcomed:
        sent = struct.pack(">I", 3) + b"IHAVEOPT" + sent
    left = memoryview(sent)

    def receive(length: int) -> bytes:
        nonlocal left
        assert length <= 32 * 1024 * 1024
        if length > len(left):
            raise EOFError
        taken, left = left[:length], left[length:]
        return bytes(taken)

    with suppress(EOFError, NbdProtocolError):
        welcome(receive, lambda data: None, size_bytes=SIZE)
    left = memoryview(sent)
    with suppress(EOFError, NbdProtocolError):
        receive_request(receive)
