"""Files, block devices and streams as targets, on the real kernel; and the errors that a person will read."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import TargetTooSmallError
from engine.targets import (
    DeviceTarget,
    FileTarget,
    SparseTarget,
    StreamTarget,
    TargetClosedError,
    TargetError,
    TargetFullError,
    TargetGoneError,
    descriptor_target,
    open_target,
)
from tests.engine.restoring import restore
from tests.engine.support import BLOCK_SIZE, Vault, noise

_BIG = 65536
_IMAGE = noise(3 * _BIG) + bytes(20 * _BIG) + noise(2 * _BIG + 100, "end")


def _written(vault: Vault):
    return vault.write(_IMAGE, block_size=_BIG, pack_size=1 << 20)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[FileTarget]:
    path = tmp_path / "target.img"
    path.write_bytes(noise(len(_IMAGE), "old"))
    with open_target(str(path), size_bytes=len(_IMAGE), existing=True) as target:
        yield target


def test_a_file_gets_the_image_and_its_holes(tmp_path: Path) -> None:
    vault = Vault()
    result = _written(vault)
    path = tmp_path / "new.img"

    with open_target(str(path), size_bytes=len(_IMAGE)) as target:
        restore(vault, result.manifest, target)

    assert path.read_bytes() == _IMAGE
    assert path.stat().st_blocks * 512 <= 6 * _BIG
    assert path.stat().st_mode & 0o077 == 0


def test_old_data_in_a_hole_is_punched_out(file: FileTarget, tmp_path: Path) -> None:
    vault = Vault()
    result = _written(vault)
    path = tmp_path / "target.img"
    assert path.stat().st_blocks * 512 >= len(_IMAGE)

    restore(vault, result.manifest, file)

    assert path.read_bytes() == _IMAGE
    assert path.stat().st_blocks * 512 <= 6 * _BIG


def test_zeros_are_written_where_no_hole_can_be_made(file: FileTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object) -> int:
        import ctypes

        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    monkeypatch.setattr("engine.targets._libc", type("Libc", (), {"fallocate": staticmethod(cannot)}))

    file.zero(1000, 1_500_000)

    assert file.read(0, 1000) == noise(len(_IMAGE), "old")[:1000]
    assert file.read(1000, 1_500_000) == bytes(1_500_000)
    assert file.read(1_501_000, 500) == noise(len(_IMAGE), "old")[1_501_000:1_501_500]


def test_holes_of_a_file_are_known_without_reading(file: FileTarget, tmp_path: Path) -> None:
    file.zero(5 * _BIG, 10 * _BIG)

    assert isinstance(file, SparseTarget)
    assert file.is_hole(5 * _BIG, 10 * _BIG)
    assert not file.is_hole(5 * _BIG, 11 * _BIG)
    assert not file.is_hole(0, _BIG)
    with open_target(str(tmp_path / "new.img"), size_bytes=_BIG) as new:
        assert new.is_hole(0, _BIG)
        assert not new.is_hole(0, _BIG + 1)


def test_what_the_kernel_writes_in_parts_is_written_whole(file: FileTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda target, data, offset: honest(target, bytes(data)[:1000], offset))

    file.write(500, noise(4321, "new"))

    assert file.read(0, 6000) == (
        noise(len(_IMAGE), "old")[:500] + noise(4321, "new") + noise(len(_IMAGE), "old")[4821:6000]
    )


def test_a_differential_restore_of_a_file_leaves_its_blocks_alone(file: FileTarget, tmp_path: Path) -> None:
    vault = Vault()
    result = _written(vault)
    restore(vault, result.manifest, file)
    file.write(_BIG + 5, b"x")
    file.write(10 * _BIG, b"y")

    told = restore(vault, result.manifest, file, differential=True)

    assert (tmp_path / "target.img").read_bytes() == _IMAGE
    assert (told.written_bytes, told.zeroed_bytes) == (_BIG, _BIG)


def test_what_is_there_already_is_refused_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "there.img"
    path.write_bytes(b"precious")

    with pytest.raises(TargetError) as caught, open_target(str(path), size_bytes=100):
        pass

    assert caught.value.code == "target_exists"
    assert path.read_bytes() == b"precious"


def test_an_existing_file_is_lengthened_and_never_shortened(tmp_path: Path) -> None:
    path = tmp_path / "there.img"
    path.write_bytes(b"1234")

    with open_target(str(path), size_bytes=100, existing=True) as target:
        assert target.size_bytes == 100
    with open_target(str(path), size_bytes=10, existing=True) as target:
        assert target.size_bytes == 100

    assert path.read_bytes() == b"1234" + bytes(96)


def test_two_restores_do_not_share_a_target(tmp_path: Path) -> None:
    path = str(tmp_path / "one.img")

    again = open_target(path, size_bytes=10, existing=True)
    with open_target(path, size_bytes=10), pytest.raises(TargetError) as caught, again:
        pass

    assert caught.value.code == "target_busy"


@pytest.mark.parametrize("place", ["missing/x.img", "."])
def test_a_place_that_cannot_be_opened_is_named(tmp_path: Path, place: str) -> None:
    path = str(tmp_path / place)

    with pytest.raises(TargetError, match="cannot be opened") as caught, open_target(path, size_bytes=1, existing=True):
        pass

    assert caught.value.code == "target_unsuitable"


def test_a_pipe_is_no_block_target() -> None:
    reader, writer = os.pipe()

    with pytest.raises(TargetError) as caught:
        descriptor_target(writer, name="pipe")

    assert caught.value.code == "target_unsuitable"
    os.close(reader)
    os.close(writer)


def test_a_file_that_is_too_small_is_refused_before_any_write(tmp_path: Path) -> None:
    vault = Vault()
    result = _written(vault)
    path = tmp_path / "small.img"
    path.write_bytes(noise(len(_IMAGE) - 1, "old"))

    with path.open("r+b") as opened, pytest.raises(TargetTooSmallError):
        restore(vault, result.manifest, descriptor_target(opened.fileno(), name="small"))

    assert path.read_bytes() == noise(len(_IMAGE) - 1, "old")


def test_a_file_removed_meanwhile_is_noticed_at_the_end(file: FileTarget, tmp_path: Path) -> None:
    vault = Vault()
    result = _written(vault)
    (tmp_path / "target.img").unlink()

    with pytest.raises(TargetGoneError, match="removed"):
        restore(vault, result.manifest, file)


def test_a_file_shortened_meanwhile_is_noticed_at_the_end(file: FileTarget, tmp_path: Path) -> None:
    file.write(0, b"x")
    os.truncate(tmp_path / "target.img", 1000)

    with pytest.raises(TargetGoneError, match="shorter"):
        file.flush()
    with pytest.raises(TargetGoneError, match="shorter"):
        file.read(900, 200)


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ENOSPC, TargetFullError, "target_full"),
        (errno.EDQUOT, TargetFullError, "target_full"),
        (errno.ENXIO, TargetGoneError, "target_gone"),
        (errno.EIO, TargetError, "target_failed"),
    ],
)
def test_errors_of_the_kernel_have_their_codes(
    file: FileTarget, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[TargetError], code: str
) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    for name in ("pwrite", "fsync"):
        with monkeypatch.context() as patch, pytest.raises(kind, match=r"target\.img") as caught:
            patch.setattr(os, name, fail)
            file.write(0, b"x") if name == "pwrite" else file.flush()
        assert (type(caught.value), caught.value.code) == (kind, code)


# --- a full file system and a block device, for real ------------------------------------------------------


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "mounted"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_file_system_stops_the_restore_and_it_goes_on_when_there_is_room(small_file_system: Path) -> None:
    vault = Vault()
    result = _written(vault)
    path = str(small_file_system / "disk.img")

    with pytest.raises(TargetFullError) as caught, open_target(path, size_bytes=len(_IMAGE)) as target:
        restore(vault, result.manifest, target)
    assert caught.value.code == "target_full"
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_file_system)], check=True)
    with open_target(path, size_bytes=len(_IMAGE), existing=True) as target:
        told = restore(vault, result.manifest, target, differential=True)

    assert Path(path).read_bytes() == _IMAGE
    assert 0 < told.written_bytes < 5 * _BIG + 100


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    backing = tmp_path / "backing.img"
    backing.write_bytes(noise(2 << 20, "old"))
    done = subprocess.run(["losetup", "--find", "--show", str(backing)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no loop device here")
    yield done.stdout.strip(), backing
    subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True)


def test_a_block_device_gets_the_image_and_zeros_to_its_end(loop_device: tuple[str, Path]) -> None:
    path, _ = loop_device
    vault = Vault()
    result = _written(vault)

    with open_target(path, size_bytes=len(_IMAGE), existing=True) as target:
        assert isinstance(target, DeviceTarget)
        restore(vault, result.manifest, target)
        told = restore(vault, result.manifest, target, differential=True)

    assert Path(path).read_bytes() == _IMAGE + bytes((2 << 20) - len(_IMAGE))
    assert told.written_bytes == told.zeroed_bytes == told.fetched_bytes == 0


def test_zeros_of_a_device_are_right_at_any_alignment(loop_device: tuple[str, Path]) -> None:
    path, _ = loop_device
    old = noise(2 << 20, "old")

    with open_target(path, size_bytes=1, existing=True) as target:
        target.zero(4096, 8192)
        target.zero(100_001, 50_003)
        target.flush()

    expected = bytearray(old)
    expected[4096:12288] = bytes(8192)
    expected[100_001:150_004] = bytes(50_003)
    assert Path(path).read_bytes() == expected


def test_a_device_that_is_too_small_is_refused_before_any_write(loop_device: tuple[str, Path]) -> None:
    path, backing = loop_device
    vault = Vault()
    result = vault.write(noise(2 << 20) + b"x", block_size=_BIG)

    with open_target(path, size_bytes=1, existing=True) as target, pytest.raises(TargetTooSmallError):
        restore(vault, result.manifest, target)

    assert backing.read_bytes() == noise(2 << 20, "old")


# --- streams: see also test_restore_stream.py --------------------------------------------------------------


def test_a_closed_pipe_is_a_clear_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)

    with pytest.raises(TargetClosedError) as caught:
        StreamTarget(writer, name="the pipe").append(b"data")

    assert caught.value.code == "target_closed"
    os.close(writer)


def test_a_pipe_takes_more_than_it_holds_at_once() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, 1031, 4096)  # F_SETPIPE_SZ
    found: list[bytes] = []

    def read_all() -> None:
        while data := os.read(reader, 1000):
            found.append(data)

    thread = threading.Thread(target=read_all)
    thread.start()
    target = StreamTarget(writer)
    target.append(_IMAGE)
    target.flush()
    os.close(writer)
    thread.join(60)

    assert b"".join(found) == _IMAGE
    os.close(reader)


def test_a_stream_into_a_full_device_is_a_clear_error() -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(TargetFullError):
        StreamTarget(full.fileno()).append(bytes(BLOCK_SIZE))
