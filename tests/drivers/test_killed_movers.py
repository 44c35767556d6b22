"""Movers that are killed with -9, as real processes: the sweep leaves nothing of them on the node.

Those of `libvirt` are in test_libvirt_faults.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents import protocol
from agents.drivers import registry
from agents.drivers.base import DiskAddress, DiskWish, WriteWish
from agents.drivers.copy_files import list_copies
from agents.drivers.libvirt import LibvirtDriver
from agents.drivers.qemu import QemuDriver
from agents.drivers.qmp import Qmp
from agents.drivers.registry import load_driver
from agents.program.copies import run_copy
from tests.drivers.libvirt_lab import Lab
from tests.drivers.test_libvirt_faults import in_a_process
from tests.drivers.test_qemu import NAMES, ONE, SIZE, TWO, Server, needs_qemu, server

pytestmark = pytest.mark.long
__all__ = ["server"]
_driver: list[QemuDriver | LibvirtDriver] = []


def driver_of_the_test() -> QemuDriver | LibvirtDriver:
    return _driver[-1]


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@needs_qemu
def test_qemu_after_each_of_its_steps(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.start()
    server.take(ONE)
    before, wishes, plain = server.traces(), [server.wish(name, ONE) for name in NAMES], Qmp.run
    count, at = 0, 0

    def run(self: Qmp, command: str, **arguments: object) -> object:
        nonlocal count
        answer = plain(self, command, **arguments)
        count += not command.startswith("query-")
        if count == at:
            killed()
        return answer

    monkeypatch.setattr(Qmp, "run", run)
    ended = 1
    while ended:
        count, at = 0, at + 1
        ended = in_a_process(lambda: server.take(TWO, ONE))
        count, step = -1000, at
        server.driver.forget(wishes)
        assert server.traces() == before, step

    assert at > 10


class Gate:
    """Nobody is told of a copy whose mover is killed."""

    def copied(self, done: protocol.CopyDone) -> None:
        raise AssertionError("it ended")


@pytest.fixture(params=["qemu", "libvirt"])
def of_files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A running server of that driver: how its mover reaches it, what is there, and how it is swept."""
    name = request.param
    if name == "qemu":
        made: Server = request.getfixturevalue("server")
        made.start()
        made.writes("write -P 7 0 8M")
        found = SimpleNamespace(folder=made.folder, server=made.socket, wish=made.wish("a.qcow2"), traces=made.traces)
        driver: QemuDriver | LibvirtDriver = made.driver
    else:
        lab: Lab = request.getfixturevalue("lab")
        lab.disk("a.qcow2", SIZE)
        uuid = lab.server("one", ["a.qcow2"])
        lab.start("one")
        lab.guest_writes("one", "write -P 7 0 8M")
        driver, wish = lab.driver, lab.wish(uuid, "a.qcow2")
        found = SimpleNamespace(folder=lab.folder, server=uuid, wish=wish, traces=lambda: lab.traces("one"))
    monkeypatch.setattr("tests.drivers.test_killed_movers._driver", [driver])
    monkeypatch.setitem(registry.BUILT_IN, name, "tests.drivers.test_killed_movers:driver_of_the_test")
    found.name, found.driver = name, driver
    yield found


@needs_qemu
def test_a_file_backup_while_it_is_written(of_files: Any) -> None:
    storage = Path(tempfile.mkdtemp(prefix="bs-copies-"))
    work = protocol.CopyWork(
        disk=protocol.DiskMessage(of_files.name, str(of_files.folder), "a.qcow2", SIZE, of_files.server),
        at=protocol.CopyPlaceMessage(str(storage), "storage-1", "backups/acme/one/daily.img"),
        compression="off",
        facts={},
        is_first=True,
    )
    assert of_files.driver.forget([of_files.wish]) == []
    before = of_files.traces()

    def tell(progress: protocol.Progress) -> None:
        if progress.done_bytes:
            killed()

    heart = SimpleNamespace(tell=tell, stopped=lambda: False)
    run: Any = SimpleNamespace(client=Gate(), heart=heart, end=lambda: None)
    try:
        assert in_a_process(lambda: run_copy(run, work, storage)) == signal.SIGKILL
        assert of_files.traces() != before

        of_files.driver.forget([of_files.wish])

        assert of_files.traces() == before
        assert list_copies(str(storage), storage_id="storage-1") == []
        assert [path.name for path in storage.rglob("daily*")] == []
    finally:
        shutil.rmtree(storage)


def test_image_while_its_disk_is_written(tmp_path: Path) -> None:
    """It holds locks alone, which the kernel takes back: the next one has the disk at once."""
    driver, wish = load_driver("image"), DiskWish(DiskAddress(str(tmp_path), "a.img", SIZE))
    order = WriteWish(wish.address, SIZE, create=True)

    def write() -> None:
        with driver.open_target(order) as opened:
            opened.target.write(0, b"half")
            killed()

    assert in_a_process(write) == signal.SIGKILL
    with driver.open_target(WriteWish(wish.address, SIZE)) as opened:
        opened.target.write(0, b"done")
        opened.target.flush()
    assert driver.forget([wish]) == () and [path.name for path in tmp_path.iterdir()] == ["a.img"]
