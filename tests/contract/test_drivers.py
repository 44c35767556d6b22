"""What every driver must do, whatever it reaches; each new driver adds a bench here and passes the same suite."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agents.drivers.base import (
    POINT_PREFIX,
    DiskAddress,
    DiskBusyError,
    DiskChangedError,
    DiskMissingError,
    DiskTooSmallError,
    DiskWish,
    Driver,
    ReadWish,
    WriteWish,
)
from agents.drivers.qemu import QemuDriver
from agents.drivers.registry import BUILT_IN, UnknownDriverError, content_of, driver_names, load_driver
from engine.manifest import CONTENT_DISK
from engine.writer import BlockSource
from tests.drivers.libvirt_lab import Lab, missing_tools, running_lab
from tests.drivers.lvm_lab import GROUP
from tests.drivers.lvm_lab import Lab as LvmLab

SIZE = 8 * 1024 * 1024
BLOCK = 64 * 1024
# Not in the test's folder: paths of sockets are short.
QEMU_JOBS = f"/tmp/bs-contract-{os.getpid()}"


@dataclass
class Bench:
    """A disk that the driver can open, and the ways to disturb it."""

    driver: Driver
    address: DiskAddress
    content: Callable[[], bytes]
    disturb: Callable[[], None]
    remove: Callable[[], None]


def image_bench(folder: Path) -> Bench:
    path = folder / "disk.img"
    with path.open("wb") as file:
        file.write(os.urandom(BLOCK * 3))
        file.seek(SIZE // 2)
        file.write(os.urandom(BLOCK))
        file.truncate(SIZE)

    def disturb() -> None:
        with path.open("r+b") as file:
            file.write(b"changed")

    address = DiskAddress(storage_path=str(folder), path="disk.img", size_bytes=SIZE)
    return Bench(load_driver("image"), address, path.read_bytes, disturb, path.unlink)


@contextmanager
def reading(driver: Driver, address: DiskAddress) -> Iterator[BlockSource]:
    with driver.open_sources(ReadWish(disks=[DiskWish(address)], new_point=f"{POINT_PREFIX}of-the-test")) as [opened]:
        yield opened.source


@contextmanager
def writing(driver: Driver, address: DiskAddress) -> Iterator[Any]:
    with driver.open_target(WriteWish(address=address, size_bytes=address.size_bytes)) as opened:
        yield opened.target


def libvirt_bench(lab: Lab) -> Bench:
    """A server that is shut off; one that runs is in tests/drivers."""
    name = "disk.qcow2"
    path = lab.disk(name, SIZE)
    writes = [f"write -P 17 0 {BLOCK * 3}", f"write -P 34 {SIZE // 2} {BLOCK}"]
    commands = [word for write in writes for word in ("-c", write)]
    subprocess.run(["qemu-io", "-f", "qcow2", *commands, path], check=True, capture_output=True)
    server = lab.server("bench", [name])

    def disturb() -> None:
        shutil.copyfile(path, lab.folder / "other")
        (lab.folder / "other").replace(path)

    address = DiskAddress(str(lab.folder), name, SIZE, server)
    return Bench(lab.driver, address, lambda: lab.content(name), disturb, path.unlink)


def qemu_bench(folder: Path) -> Bench:
    """A server that is off: nobody listens on its socket."""
    if shutil.which("qemu-nbd") is None:
        pytest.skip("not installed: qemu-utils")
    raw = image_bench(folder)
    path = folder / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", folder / "disk.img", path], check=True)

    def content() -> bytes:
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, folder / "disk.img"], check=True)
        return raw.content()

    def disturb() -> None:
        shutil.copyfile(path, folder / "other")
        (folder / "other").replace(path)

    return Bench(
        QemuDriver(QEMU_JOBS),
        DiskAddress(str(folder), path.name, SIZE, str(folder / "qmp")),
        content,
        disturb,
        path.unlink,
    )


def lvm_bench(folder: Path) -> Bench:
    lab = LvmLab(folder)
    path = lab.volume("web", os.urandom(BLOCK * 3).ljust(SIZE // 2, b"\0") + os.urandom(BLOCK), size=SIZE)

    def disturb() -> None:
        (folder / "dev" / GROUP / f"{POINT_PREFIX}of-the-test.web").unlink()

    def remove() -> None:
        lab.change(volumes={"pool": lab.state["volumes"]["pool"]})

    return Bench(lab.driver, lab.address("web", SIZE), path.read_bytes, disturb, remove)


# ZFS sends what changed by itself; see the tests of its driver.
NOT_READ_AS_DISKS = {"zfs"}
BENCHES: dict[str, Callable[[Any], Bench]] = {
    "image": image_bench,
    "libvirt": libvirt_bench,
    "lvm": lvm_bench,
    "qemu": qemu_bench,
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if missing := missing_tools():
        pytest.skip(f"not installed: {', '.join(missing)}")
    with running_lab() as running:
        yield running


@pytest.fixture(params=sorted(BENCHES))
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    if request.param != "libvirt":
        yield BENCHES[request.param](tmp_path)
        shutil.rmtree(QEMU_JOBS, ignore_errors=True)
        return
    running: Lab = request.getfixturevalue("lab")
    yield libvirt_bench(running)
    running.drop()


def test_every_built_in_driver_has_its_bench() -> None:
    disks = {name for name in BUILT_IN if content_of(name) == CONTENT_DISK}
    assert set(BENCHES) == disks - NOT_READ_AS_DISKS
    assert set(BUILT_IN) <= set(driver_names())


def test_extents_are_ascending_disjoint_and_hold_all_data(bench: Bench) -> None:
    with reading(bench.driver, bench.address) as source:
        extents, found = list(source.extents()), bytearray(source.size_bytes)
        for extent in extents:
            found[extent.offset : extent.offset + extent.length] = source.read(extent.offset, extent.length)

    ends = [extent.offset + extent.length for extent in extents]
    assert all(end <= after.offset for end, after in zip(ends, extents[1:], strict=False))
    assert bytes(found) == bench.content()
    assert sum(extent.length for extent in extents) < SIZE


def test_a_read_returns_exactly_what_was_asked(bench: Bench) -> None:
    with reading(bench.driver, bench.address) as source:
        assert source.read(1000, 5000) == bench.content()[1000:6000]


def test_an_undisturbed_source_is_one_point_in_time(bench: Bench) -> None:
    with reading(bench.driver, bench.address) as source:
        source.read(0, BLOCK)
        source.check_unchanged()


def test_a_disturbed_source_is_noticed(bench: Bench) -> None:
    with reading(bench.driver, bench.address) as source:
        source.read(0, BLOCK)
        bench.disturb()

        with pytest.raises(DiskChangedError):
            source.check_unchanged()


def test_a_missing_disk_is_named(bench: Bench) -> None:
    bench.remove()

    for opened in (reading, writing):
        with pytest.raises(DiskMissingError, match=bench.address.path), opened(bench.driver, bench.address):
            pass


def test_what_is_written_and_zeroed_is_read_again(bench: Bench) -> None:
    with writing(bench.driver, bench.address) as target:
        target.write(100, b"x" * 5000)
        target.zero(SIZE // 2, BLOCK)
        target.flush()

    content = bench.content()
    assert len(content) == SIZE
    assert content[100:5100] == b"x" * 5000
    assert not any(content[SIZE // 2 : SIZE // 2 + BLOCK])


def test_a_target_is_held_alone(bench: Bench) -> None:
    with writing(bench.driver, bench.address):
        for opened in (reading, writing):
            with pytest.raises(DiskBusyError), opened(bench.driver, bench.address):
                pass


def test_it_is_free_again_after_an_error(bench: Bench) -> None:
    with pytest.raises(RuntimeError), writing(bench.driver, bench.address):
        raise RuntimeError("on purpose")

    with writing(bench.driver, bench.address) as target:
        assert target.size_bytes == SIZE


def test_a_target_that_is_too_small_is_refused(bench: Bench) -> None:
    before = bench.content()
    wish = WriteWish(address=bench.address, size_bytes=SIZE + 1)

    with pytest.raises(DiskTooSmallError, match="larger"), bench.driver.open_target(wish):
        pass

    assert bench.content() == before


@pytest.mark.parametrize("path", ["../outside.img", "link.img", "."])
def test_nothing_outside_of_its_storage_is_opened(tmp_path: Path, path: str) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    (tmp_path / "outside.img").write_bytes(b"secret" * 1000)
    (storage / "link.img").symlink_to(tmp_path / "outside.img")

    with pytest.raises(DiskMissingError), reading(load_driver("image"), DiskAddress(str(storage), path, 6000)):
        pass


def test_an_unknown_driver_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnknownDriverError, match="image"):
        load_driver("tape")
