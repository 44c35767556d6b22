"""An image that is read at any place is the one that was backed up, whatever is read in which order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import DamagedError, StoreError
from engine.image_reader import ImageReader
from engine.scan import Extent
from engine.store.base import ObjectRef
from tests.engine.restoring import blocks_in, packs_of
from tests.engine.support import BLOCK_SIZE, ImageSource, Vault, noise

# More leaves than one page above them holds, holes between, equal blocks, an end that is no whole block.
SIZE = 40 * BLOCK_SIZE + 100
IMAGE = bytearray(SIZE)
IMAGE[: 7 * BLOCK_SIZE] = noise(7 * BLOCK_SIZE)
IMAGE[20 * BLOCK_SIZE : 22 * BLOCK_SIZE] = IMAGE[:BLOCK_SIZE] * 2
IMAGE[-100:] = noise(100)


def reader_of(vault: Vault, manifest: ObjectRef, **options: Any) -> ImageReader:
    arguments: dict[str, Any] = {
        "manifest_ref": manifest,
        "object_source": vault.store,
        "keys": vault.keys_for(manifest),
        "trusted_writers": [vault.writer_key.public],
        "cache_bytes": 3 * BLOCK_SIZE,
    }
    return ImageReader(**{**arguments, **options})


@pytest.fixture(scope="module")
def reader() -> ImageReader:
    vault = Vault()
    return reader_of(vault, vault.write(bytes(IMAGE)).manifest)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, SIZE), st.integers(0, 6 * BLOCK_SIZE))
def test_any_range_is_what_was_backed_up(reader: ImageReader, offset: int, length: int) -> None:
    length = min(length, SIZE - offset)

    assert reader.read(offset, length) == IMAGE[offset : offset + length]

    at = offset
    for step, is_hole in reader.extents(offset, length):
        assert step > 0 and (not is_hole or not any(IMAGE[at : at + step]))
        at += step
    assert at == offset + length


def test_holes_are_told_and_nothing_outside_is_read(reader: ImageReader) -> None:
    holes = sum(step for step, is_hole in reader.extents(0, SIZE) if is_hole)

    assert holes == 31 * BLOCK_SIZE
    for offset, length in ((SIZE, 1), (-1, 1), (0, SIZE + 1), (0, -1)):
        with pytest.raises(ValueError, match="outside"):
            reader.read(offset, length)


class CountingSource:
    """The store; `fails` is raised by every read of it, and `garbles` spoils what packs give."""

    def __init__(self, vault: Vault) -> None:
        self.store, self.reads = vault.store, 0
        self.fails: StoreError | None = None
        self.garbles = False

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        self.reads += 1
        if self.fails is not None:
            raise self.fails
        data = self.store.get(ref, offset=offset, length=length)
        return bytes(byte ^ 1 for byte in data) if self.garbles and "/p/" in ref.key else data


def test_what_was_read_is_kept_within_bounds() -> None:
    vault = Vault()
    manifest = vault.write(bytes(IMAGE)).manifest
    source = CountingSource(vault)
    reader = reader_of(vault, manifest, object_source=source)
    reader.read(0, BLOCK_SIZE)
    before = source.reads

    reader.read(10, 20)
    assert source.reads == before
    reader.read(20 * BLOCK_SIZE, BLOCK_SIZE)
    before = source.reads
    reader.read(21 * BLOCK_SIZE, BLOCK_SIZE)
    assert source.reads == before  # the first block again, and a page that is known
    reader.read(BLOCK_SIZE, 3 * BLOCK_SIZE)
    before = source.reads
    reader.read(0, BLOCK_SIZE)
    assert source.reads == before + 1


def test_what_cannot_be_had_is_an_error_and_never_zeros() -> None:
    vault = Vault()
    first = vault.write(bytes(IMAGE))
    changed = bytearray(IMAGE)
    changed[: 2 * BLOCK_SIZE] = noise(2 * BLOCK_SIZE, "later")
    second = vault.write(ImageSource(changed, changed=[Extent(0, 2 * BLOCK_SIZE)]), base=first)
    lost = packs_of(second)
    bad = blocks_in(vault, second.manifest, lost)
    source = CountingSource(vault)
    reader = reader_of(vault, second.manifest, object_source=source)
    gone = reader_of(vault, second.manifest, gone_packs=[bytes.fromhex(pack.sha256) for pack in lost])

    source.fails = StoreError("away", transient=True)
    with pytest.raises(StoreError):
        reader.read(0, SIZE)
    source.fails, source.garbles = None, True
    with pytest.raises(DamagedError):
        reader.read(0, SIZE)
    source.garbles = False

    assert bad == [0, BLOCK_SIZE]
    assert reader.read(0, SIZE) == changed
    with pytest.raises(DamagedError):
        gone.read(BLOCK_SIZE - 1, 2)
    assert gone.read(2 * BLOCK_SIZE, 5 * BLOCK_SIZE) == IMAGE[2 * BLOCK_SIZE : 7 * BLOCK_SIZE]
