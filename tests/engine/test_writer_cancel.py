"""A cancel ends a backup within two seconds, wherever it is and whatever hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from engine.blocks import BatchResult, BlockBatch, BlockWorker
from engine.errors import StoreError
from engine.resume import ResumableSession
from engine.scan import Extent
from engine.store.base import ObjectRef, Pace
from engine.store.memory import ModelStore
from engine.waiting import Cancel
from engine.writer import BackupBase, write_disk_backup
from tests.engine.hanging import PATIENCE_SECONDS, Hang, canceled_in_time
from tests.engine.support import BLOCK_SIZE, ImageSource, Vault, noise

_IMAGE = noise(400 * BLOCK_SIZE)


class HangingSource(ImageSource):
    def __init__(self, hang: Hang, where: str, **more: Any) -> None:
        super().__init__(_IMAGE, **more)
        self._hang = hang
        self._where = where

    def _reach(self, place: str) -> None:
        if place == self._where:
            self._hang.wait()

    def extents(self) -> Any:
        self._reach("extents")
        return self._listed()

    def _listed(self) -> Iterator[Extent]:
        yield Extent(0, BLOCK_SIZE)
        self._reach("next extent")
        yield Extent(BLOCK_SIZE, len(self.data) - BLOCK_SIZE)

    def changed_extents(self) -> list[Extent] | None:
        self._reach("changed extents")
        return None

    def read(self, offset: int, length: int) -> bytes:
        self._reach("read")
        return super().read(offset, length)

    def check_unchanged(self) -> None:
        self._reach("check")


@pytest.mark.parametrize("where", ["extents", "next extent", "changed extents", "read", "check"])
def test_while_the_source_hangs(where: str) -> None:
    def backup(hang: Hang, cancel: Cancel) -> object:
        vault = Vault()
        base = vault.write(noise(400 * BLOCK_SIZE, "old"))
        return vault.write(HangingSource(hang, where), base=base, cancel=cancel)

    canceled_in_time(backup)


def test_while_sealing_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def backup(hang: Hang, cancel: Cancel) -> object:
        def process(self: BlockWorker, batch: BlockBatch) -> BatchResult:
            hang.wait()
            return BatchResult([], [], [])

        monkeypatch.setattr(BlockWorker, "process", process)
        return Vault().write(_IMAGE, cancel=cancel)

    canceled_in_time(backup)


@pytest.mark.parametrize("kind", ["k", "p", "i", "m"])
def test_while_the_store_hangs_at_a_put(kind: str) -> None:
    def backup(hang: Hang, cancel: Cancel) -> object:
        vault = Vault()

        class HangingSink:
            def put(self, *, key: str, data: bytes, sha256: str) -> ObjectRef:
                if f"/{kind}/" in key:
                    hang.wait()
                return vault.store.put(key=key, data=data, sha256=sha256)

        return vault.write(_IMAGE, sink=HangingSink(), cancel=cancel)

    canceled_in_time(backup)


class HangingObjects:
    def __init__(self, hang: Hang, store: ModelStore, kind: str) -> None:
        self._hang = hang
        self._store = store
        self._kind = kind

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        if f"/{self._kind}/" in ref.key:
            self._hang.wait()
        return self._store.get(ref, offset=offset, length=length)


@pytest.mark.parametrize("kind", ["m", "i"])
def test_while_the_store_hangs_at_the_base(kind: str) -> None:
    def backup(hang: Hang, cancel: Cancel) -> object:
        vault = Vault()
        base = vault.write(noise(400 * BLOCK_SIZE, "old"))
        vault.sequence += 1
        return write_disk_backup(
            source=ImageSource(_IMAGE),
            sink=vault.store,
            base=BackupBase(base.manifest, HangingObjects(hang, vault.store, kind)),
            context=vault.context(),
            cancel=cancel,
        )

    canceled_in_time(backup)


@pytest.mark.parametrize("kind", ["k", "p"])
def test_while_the_store_hangs_at_an_earlier_attempt(kind: str) -> None:
    def backup(hang: Hang, cancel: Cancel) -> object:
        vault = Vault()
        earlier = vault.write(_IMAGE)
        packs = [ref for ref in earlier.new_objects if "/p/" in ref.key]
        envelope = next(ref for ref in earlier.new_objects if "/k/" in ref.key)
        attempt = ResumableSession(envelope, packs)
        objects = HangingObjects(hang, vault.store, kind)
        return vault.write(_IMAGE, resume=[attempt], resume_source=objects, cancel=cancel)

    canceled_in_time(backup)


def _waiting_for_its_bandwidth(hang: Hang, cancel: Cancel) -> object:
    def sleep(seconds: float) -> None:
        hang.entered.set()
        time.sleep(seconds)

    return Vault().write(_IMAGE, bandwidth_bytes_per_second=1000, sleep=sleep, cancel=cancel)


def test_while_it_waits_for_its_bandwidth() -> None:
    canceled_in_time(_waiting_for_its_bandwidth)


def test_while_planning_over_endless_extents() -> None:
    size = 1 << 60

    def backup(hang: Hang, cancel: Cancel) -> object:
        class Scattered(ImageSource):
            size_bytes = size

            def extents(self) -> Any:
                for number in range(1 << 40):
                    if number == 10_000:
                        hang.entered.set()
                    # All in the first block: nothing comes out of the planning.
                    yield Extent(number, 1)

        return Vault().write(Scattered(b""), cancel=cancel, block_size=16 << 20, fan_out=4096)

    canceled_in_time(backup)


@pytest.mark.parametrize("failing", [1, 2])
def test_what_is_on_its_way_stops_soon_after_a_failure(failing: int) -> None:
    """One of two packs that are sent at once fails; the other one would go on for ever."""
    other_started, other_stopped = threading.Event(), threading.Event()
    packs: list[str] = []

    class OneFailsOneIsEndless:
        def put(self, *, key: str, data: bytes, sha256: str) -> ObjectRef:
            raise AssertionError("the paced way is to be taken")

        def put_paced(self, *, key: str, data: bytes, sha256: str, pace: Pace) -> ObjectRef:
            if "/p/" not in key:
                return ObjectRef(key, sha256, len(data), "v")
            packs.append(key)
            if len(packs) == failing:
                other_started.wait(PATIENCE_SECONDS)
                raise StoreError("refused")
            other_started.set()
            try:
                while True:
                    pace(1)
                    time.sleep(0.02)
            finally:
                other_stopped.set()

    with pytest.raises(StoreError):
        Vault().write(_IMAGE, sink=OneFailsOneIsEndless())

    # It would go on for ever.
    assert other_stopped.wait(30)


def test_what_is_on_its_way_stops_soon_after_a_cancel() -> None:
    """The threads that send end by themselves, too: nothing goes on in the background."""
    canceled_in_time(_waiting_for_its_bandwidth)

    for thread in threading.enumerate():
        if thread.name.startswith(("upload", "read", "seal", "table")):
            # At this limit one that goes on would take minutes.
            thread.join(timeout=30)
            assert not thread.is_alive()
