"""How a restore reads the vault: few and bounded reads, and none of a backup that is no disk image."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
import pytest

from engine import fetching
from engine.compression import Compressor
from engine.errors import UnsupportedError
from engine.hashing import sha256_hex
from engine.manifest import CONTENT_STREAM, build_manifest, manifest_ref
from engine.store.base import ObjectRef
from tests.engine.restoring import ReadableTarget, map_entries, restore
from tests.engine.support import BLOCK_SIZE, PatchedSource, Vault, noise


class Watched(PatchedSource):
    """Counts reads of packs, and how many bytes of them are on their way at once."""

    def __init__(self, vault: Vault, *, first_read_seconds: float = 0.0) -> None:
        super().__init__(vault.store, {})
        self._lock = threading.Lock()
        self._next_read_seconds = first_read_seconds
        self._is_joined = threading.Event()
        self.lengths: list[int] = []
        self.target: ReadableTarget | None = None
        self.kept_peak = 0
        self.reading = self.peak = 0

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        if "/p/" not in ref.key:
            return super().get(ref, offset=offset, length=length)
        with self._lock:
            self.reading += 1
            self.peak = max(self.peak, self.reading)
            if self.reading > 1:
                self._is_joined.set()
            pause_seconds, self._next_read_seconds = self._next_read_seconds, 0.0
        if pause_seconds:
            # However late the next one comes; none comes where reads do not run in parallel.
            self._is_joined.wait(30)
            time.sleep(pause_seconds)
        data = super().get(ref, offset=offset, length=length)
        with self._lock:
            self.reading -= 1
            self.lengths.append(len(data))
            if self.target is not None:
                written = sum(length for _, length in self.target.touched)
                self.kept_peak = max(self.kept_peak, sum(self.lengths) - written)
        return data


def test_reads_run_in_parallel_and_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    # Smaller than in earnest, so that a small image takes several.
    monkeypatch.setattr(fetching, "FETCH_BYTES_MAX", 4 << 20)
    vault = Vault()
    image = noise(24 << 20)
    result = vault.write(image, block_size=65536, fan_out=1024, pack_size=16 << 20, compression_level=None)
    source = Watched(vault, first_read_seconds=0.5)
    target = source.target = ReadableTarget(len(image))

    restore(vault, result.manifest, target, keys=vault.keys_for(result.manifest), object_source=source)

    assert target.data == image
    # While the first read hangs, three more wait to be written at most; each has 16 bytes more for every block.
    assert source.kept_peak <= 4 * (4 << 20) + 400 * 16
    assert 2 <= source.peak <= 3
    assert max(source.lengths) <= 4 << 20
    assert len(source.lengths) <= 8


def test_blocks_that_lie_close_are_one_read_and_those_far_apart_are_not() -> None:
    vault = Vault()
    first = noise(1 << 20)
    result = vault.write(first, block_size=4096, fan_out=1024, pack_size=1 << 20, compression_level=None)
    near, far = ReadableTarget(first), ReadableTarget(first)
    for block in (3, 10):
        near.data[block * 4096] ^= 1
    for block in (3, 100):
        far.data[block * 4096] ^= 1
    reads: list[list[int]] = []

    for target in (near, far):
        source = Watched(vault)
        keys = vault.keys_for(result.manifest)
        restore(vault, result.manifest, target, keys=keys, object_source=source, differential=True)
        reads.append(source.lengths)

    assert reads == [[8 * 4112], [4112, 4112]]
    assert near.data == far.data == first


def test_a_block_that_the_image_has_many_times_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.sealing import RecordSealer

    vault = Vault()
    image = noise(BLOCK_SIZE) * 200
    result = vault.write(image, fan_out=1024)
    keys = vault.keys_for(result.manifest)
    opened: list[int] = []
    honest = RecordSealer.open

    def counted(self: RecordSealer, record: Any) -> bytes:
        opened.append(record.plain_length)
        return honest(self, record)

    monkeypatch.setattr(RecordSealer, "open", counted)
    target = ReadableTarget(len(image))
    told = restore(vault, result.manifest, target, keys=keys)

    assert target.data == image
    assert opened.count(BLOCK_SIZE) == 1
    assert told.written_bytes == len(image)
    assert told.fetched_bytes == BLOCK_SIZE + 16


def test_what_was_done_adds_up_to_the_target() -> None:
    vault = Vault()
    image = noise(30 * BLOCK_SIZE) + bytes(20 * BLOCK_SIZE)
    result = vault.write(image)
    target = ReadableTarget(len(image) + 999)

    told = restore(vault, result.manifest, target)

    stored = sum(entry.record_length for _, entry in map_entries(vault, result.manifest))
    assert (told.written_bytes, told.zeroed_bytes, told.same_bytes) == (30 * BLOCK_SIZE, 20 * BLOCK_SIZE + 999, 0)
    assert told.fetched_bytes >= stored


def test_progress_ends_at_the_size_of_the_image_and_never_goes_back() -> None:
    vault = Vault()
    image = noise(50 * BLOCK_SIZE)
    result = vault.write(image)
    seen: list[Any] = []

    restore(vault, result.manifest, ReadableTarget(len(image)), progress=seen.append)

    assert seen[-1].done_bytes == seen[-1].size_bytes == len(image)
    assert [one.done_bytes for one in seen] == sorted(one.done_bytes for one in seen)
    assert [one.fetched_bytes for one in seen] == sorted(one.fetched_bytes for one in seen)


def test_a_backup_that_is_no_disk_image_is_refused_before_any_write() -> None:
    vault = Vault()
    info = vault.open(vault.write(b"").manifest)
    body = msgspec.structs.replace(
        info.body, content=CONTENT_STREAM, required_features=["chunk-stream"], block_size=0, fan_out=0, size_bytes=9
    )
    data = build_manifest(
        body,
        root=None,
        source_facts={},
        map_key=vault.domain_keys.map_key,
        writer_key=vault.writer_key,
        salt=bytes(16),
        compressor=Compressor(None),
    )
    ref = manifest_ref(body, sha256=sha256_hex(data), size_bytes=len(data), version_id=None)
    target = ReadableTarget(5000)

    with pytest.raises(UnsupportedError):
        restore(
            vault,
            ref,
            target,
            keys=vault.keys_for(vault.write(b"").manifest),
            object_source=PatchedSource(vault.store, {ref.key: data}),
        )

    assert target.writes == 0
