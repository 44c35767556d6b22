"""The NBD client: against QEMU's own server, and against servers that lie."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.drivers.base import DiskBusyError, DiskFullError, DiskUnreadableError
from agents.drivers.nbd import NbdClient
from agents.drivers.nbd_wire import NbdProtocolError
from agents.drivers.qemu_images import add_bitmap, bitmap_context, image_facts, new_image, served_image

MIB = 1024 * 1024
SIZE = 16 * MIB
BLOCK = 65536
CONTEXT = "base:allocation"

needs_qemu = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="not installed: qemu-utils")


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Short: a socket's path has at most 107 bytes."""
    made = Path("/tmp", f"bs-nbd-{os.getpid()}-{os.urandom(3).hex()}")
    made.mkdir()
    yield made
    shutil.rmtree(made)


@needs_qemu
def test_what_is_written_and_zeroed_is_read_and_told_again(folder: Path) -> None:
    path = str(folder / "disk.qcow2")
    new_image(path, "qcow2", SIZE)
    add_bitmap(path, "since")
    content = bytearray(SIZE)
    with served_image(path, "qcow2", folder=str(folder), name="d", writable=True) as client:
        for offset, length in ((0, 3 * MIB + 5), (7 * MIB + 1, 4096), (SIZE - 700, 700)):
            content[offset : offset + length] = os.urandom(length)
            client.write(offset, bytes(content[offset : offset + length]))
        content[MIB : 2 * MIB] = bytes(MIB)
        client.zero(MIB, MIB)
        client.flush()
        assert client.read(0, SIZE) == content
        with ThreadPoolExecutor(4) as pool:
            places = [(offset, 100_000) for offset in range(0, SIZE - 100_000, 777_777)]
            assert list(pool.map(lambda place: client.read(*place), places)) == [
                bytes(content[offset : offset + length]) for offset, length in places
            ]

    context = bitmap_context("since")
    with served_image(path, "qcow2", folder=str(folder), name="d", bitmap="since") as client:
        told = list(client.statuses(CONTEXT))
        changed = [(offset, length) for offset, length, flags in client.statuses(context) if flags & 1]

    assert sum(length for _, length, _ in told) == SIZE
    assert all(not any(content[offset : offset + length]) for offset, length, flags in told if flags & 2)
    assert changed == [(0, 3 * MIB + BLOCK), (7 * MIB, BLOCK), (SIZE - BLOCK, BLOCK)]
    assert sorted(entry.name for entry in folder.iterdir()) == ["disk.qcow2"]


@needs_qemu
def test_an_image_is_served_to_one_writer_and_its_bitmaps_are_seen(folder: Path) -> None:
    path = str(folder / "disk.qcow2")
    new_image(path, "qcow2", SIZE)
    with (
        served_image(path, "qcow2", folder=str(folder), name="d", writable=True),
        pytest.raises(DiskBusyError, match="in use"),
        served_image(path, "qcow2", folder=str(folder), name="e", writable=True),
    ):
        pass
    add_bitmap(path, "one")
    facts = image_facts(path, "qcow2")

    assert (facts.size_bytes, facts.has_sound_bitmap("one"), facts.has_sound_bitmap("two")) == (SIZE, True, False)


@needs_qemu
def test_errors_of_the_server_are_told_and_the_connection_goes_on(folder: Path) -> None:
    path = str(folder / "disk.raw")
    new_image(path, "raw", SIZE)
    with served_image(path, "raw", folder=str(folder), name="d") as client:
        with pytest.raises(DiskUnreadableError, match="reports"):
            client.write(0, b"x" * 5_000_000)
        assert client.read(0, 10) == bytes(10)
        with pytest.raises(DiskUnreadableError, match="does not offer"):
            list(client.statuses("qemu:dirty-bitmap:none"))
        subprocess.run(["truncate", "-s", str(MIB), path], check=True)
        with pytest.raises(DiskUnreadableError):
            client.read(SIZE - 512, 4096)


# --- servers that lie

GREETING = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)


def _answer(option: int, kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(payload)) + payload


def _handshake(size_bytes: int = SIZE) -> bytes:
    meta = _answer(10, 4, struct.pack(">I", 9) + CONTEXT.encode()) + _answer(10, 1)
    info = _answer(7, 3, struct.pack(">HQH", 0, size_bytes, 0x4D)) + _answer(7, 1)
    return GREETING + _answer(8, 1) + meta + info


def _chunk(cookie: int, kind: int, payload: bytes = b"", *, last: bool = True, length: int | None = None) -> bytes:
    told = len(payload) if length is None else length
    return struct.pack(">IHHQI", 0x668E33EF, last, kind, cookie, told) + payload


def _data(cookie: int, offset: int, data: bytes, *, last: bool = True) -> bytes:
    return _chunk(cookie, 1, struct.pack(">Q", offset) + data, last=last)


def _client(sent: bytes) -> NbdClient:
    """Connected to a server that says this, whatever it hears, and then ends the connection."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        try:
            client = NbdClient(ours, export="d", contexts=[CONTEXT])
        except BaseException:
            ours.close()
            raise
        client.keep = theirs.dup()  # type: ignore[attr-defined]  # so that requests find an open end
    return client


READ_10 = [
    pytest.param(_data(1, 100, b"0123456789"), b"0123456789", id="whole"),
    pytest.param(_data(1, 105, b"56789", last=False) + _data(1, 100, b"01234"), b"0123456789", id="any-order"),
    pytest.param(
        _data(1, 100, b"0123456", last=False) + _chunk(1, 2, struct.pack(">QI", 107, 3), last=False) + _chunk(1, 0),
        b"0123456\0\0\0",
        id="with-a-hole",
    ),
    pytest.param(_data(2, 100, b"0123456789"), None, id="another-cookie"),
    pytest.param(_data(1, 99, b"0123456789"), None, id="another-place"),
    pytest.param(_data(1, 100, b"01234"), None, id="too-little"),
    pytest.param(_data(1, 100, b"01234", last=False) + _data(1, 100, b"01234"), None, id="the-same-twice"),
    pytest.param(_chunk(1, 1, b"", length=1 << 31), None, id="huge"),
    pytest.param(_chunk(1, 2, struct.pack(">QI", 100, 0), last=False) * 3000, None, id="empty-parts"),
    pytest.param(_chunk(1, 77, b"abc"), None, id="unknown-kind"),
    pytest.param(struct.pack(">IIQ", 0x67446698, 0, 1), None, id="no-data"),
    pytest.param(_data(1, 100, b"0123456789")[:-1], None, id="cut"),
    pytest.param(b"", None, id="nothing"),
]


@pytest.mark.parametrize(("sent", "expected"), READ_10)
def test_a_read_is_whole_or_an_error(sent: bytes, expected: bytes | None) -> None:
    client = _client(_handshake() + sent)
    if expected is not None:
        assert client.read(100, 10) == expected
        return
    with pytest.raises(NbdProtocolError):
        client.read(100, 10)
    with pytest.raises(DiskUnreadableError, match="closed"):
        client.read(100, 10)


def test_no_space_is_told_as_such() -> None:
    refusal = _chunk(1, 0x8001, struct.pack(">IH", errno.ENOSPC, 4) + b"full")
    with pytest.raises(DiskFullError, match="full"):
        _client(_handshake() + refusal).write(0, b"x")


@pytest.mark.parametrize(
    "extents", [[], [(0, 0)], [(SIZE, 0), (1, 0)], [(BLOCK, 0)] * 3], ids=["none", "empty", "beyond", "stops"]
)
def test_a_status_that_cannot_be_is_refused(extents: list[tuple[int, int]]) -> None:
    payload = struct.pack(">I", 9) + b"".join(struct.pack(">II", *extent) for extent in extents)
    with pytest.raises(NbdProtocolError):
        list(_client(_handshake() + _chunk(1, 5, payload)).statuses(CONTEXT))


_CHUNKS = st.builds(
    lambda cookie, kind, payload, last, wrong: _chunk(
        cookie, kind, payload, last=last, length=None if wrong is None else wrong
    ),
    st.integers(0, 3),
    st.sampled_from([0, 1, 2, 5, 0x8001, 9]),
    st.one_of(
        st.binary(max_size=24),
        st.builds(lambda offset, data: struct.pack(">Q", offset) + data, st.integers(95, 112), st.binary(max_size=12)),
        st.builds(lambda offset, size: struct.pack(">QI", offset, size), st.integers(95, 112), st.integers(0, 12)),
    ),
    st.booleans(),
    st.one_of(st.none(), st.none(), st.integers(0, 2**32 - 1)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_CHUNKS, max_size=5).map(b"".join), st.integers(0, 40))
def test_whatever_a_server_answers_a_read_has_its_length_or_fails(sent: bytes, cut: int) -> None:
    client = _client(_handshake() + sent[: len(sent) - cut])
    try:
        found = client.read(100, 10)
    except (DiskUnreadableError, DiskFullError):
        return
    finally:
        client.close()
    assert len(found) == 10


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(_handshake())), st.binary(max_size=12), st.booleans())
def test_whatever_a_server_greets_with_there_is_an_export_or_an_error(place: int, noise: bytes, cut: bool) -> None:
    told = _handshake()
    broken = told[:place] + noise + (b"" if cut else told[place + len(noise) :])
    try:
        client = _client(broken)
    except DiskUnreadableError:
        return
    client.close()
    assert 0 <= client.size_bytes < 1 << 63
