"""A stream that is damaged says where, and nothing unverified is handed out."""

from __future__ import annotations

import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import CanceledError, DamagedError, KeyMismatchError, StoreError
from engine.index import MapEntry, resolve
from engine.restore import RestoreKeys
from engine.store.base import ObjectSource
from engine.store.memory import Fault
from engine.stream_pages import ChunkRow, PageKind
from engine.stream_reader import LostPage, PageReader, chunk_walk
from engine.stream_restore import OutputError
from engine.writer import WriteResult
from tests.engine.chunk_support import read_stream, write_stream
from tests.engine.support import PatchedSource, Vault, noise


def _reader(vault: Vault, result: WriteResult) -> PageReader:
    return PageReader(
        manifest=vault.open(result.manifest), object_source=vault.store, map_key=vault.domain_keys.map_key
    )


def _rows(vault: Vault, result: WriteResult) -> list[tuple[int, ChunkRow]]:
    found = chunk_walk(_reader(vault, result)).from_offset(vault.open(result.manifest).root)
    return [(offset, row) for offset, row in found if isinstance(row, ChunkRow)]


def _flipped(vault: Vault, name: bytes, offset: int) -> PatchedSource:
    version = next(version for version in vault.store.list_versions() if version.sha256 == name.hex())
    data = bytearray(version.data)
    data[offset] ^= 4
    return PatchedSource(vault.store, {version.key: bytes(data)})


def test_nothing_behind_the_first_damage_is_written() -> None:
    vault = Vault()
    data = noise(30_000)
    result = write_stream(vault, data)
    offset, row = _rows(vault, result)[10]
    source = _flipped(vault, resolve(row.entry.object_name), row.entry.offset)
    output = io.BytesIO()

    with pytest.raises(DamagedError) as caught:
        read_stream(vault, result, source=source, output=output)

    assert caught.value.ranges == ((offset, row.entry.plain_length),)
    assert output.getvalue() == data[:offset]


def test_pages_that_lie_side_by_side_are_asked_for_together_and_lost_one_by_one() -> None:
    vault = Vault()
    result = write_stream(vault, noise(1_500_000))
    info = vault.open(result.manifest)
    pages: list[MapEntry] = []

    def walked(source: ObjectSource) -> list[tuple[int, ChunkRow | LostPage]]:
        pages.clear()
        reader = PageReader(
            manifest=info,
            object_source=source,
            map_key=vault.domain_keys.map_key,
            on_page=lambda kind, level, first, ref: pages.append(ref),
        )
        return list(chunk_walk(reader, report_lost=True).from_offset(info.root))

    before = vault.store.operation_count
    whole = walked(vault.store)
    assert len(pages) > 15 and vault.store.operation_count - before <= 5

    hit = pages[7]
    damaged = walked(_flipped(vault, resolve(hit.object_name), hit.offset))
    [lost] = [row for _, row in damaged if isinstance(row, LostPage)]
    kept = [one for one in whole if not lost.offset <= one[0] < lost.offset + lost.total_bytes]
    assert [one for one in damaged if one[1] is not lost] == kept and len(whole) - len(kept) == lost.leaf_count


def test_damage_is_filled_with_zeros_only_when_asked_and_still_told() -> None:
    vault = Vault()
    data = noise(30_000)
    result = write_stream(vault, data)
    offset, row = _rows(vault, result)[10]
    end = offset + row.entry.plain_length
    source = _flipped(vault, resolve(row.entry.object_name), row.entry.offset)
    output = io.BytesIO()

    with pytest.raises(DamagedError) as caught:
        read_stream(vault, result, source=source, output=output, fill_damaged=True)

    assert caught.value.ranges == ((offset, end - offset),)
    assert output.getvalue() == data[:offset] + bytes(end - offset) + data[end:]


def test_a_lost_leaf_is_damage_of_all_it_covers() -> None:
    vault = Vault()
    data = noise(400_000)
    result = write_stream(vault, data)
    root = vault.open(result.manifest).root
    assert root is not None
    branches = _reader(vault, result).page(root, PageKind.CHUNKS, lambda page: []).branches
    start = branches[0].total_bytes
    lost = branches[1]
    end = start + lost.total_bytes
    source = _flipped(vault, resolve(lost.ref.object_name), lost.ref.offset)
    output = io.BytesIO()

    with pytest.raises(DamagedError) as caught:
        read_stream(vault, result, source=source, output=output, fill_damaged=True)

    assert caught.value.ranges == ((start, end - start),)
    assert output.getvalue() == data[:start] + bytes(end - start) + data[end:]


def test_a_lost_root_is_damage_of_everything() -> None:
    vault = Vault()
    result = write_stream(vault, noise(5000))
    root = vault.open(result.manifest).root
    assert root is not None
    source = _flipped(vault, resolve(root.object_name), root.offset)

    with pytest.raises(DamagedError) as caught:
        read_stream(vault, result, source=source)

    assert caught.value.ranges == ((0, 5000),)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_flipped_bit_gives_wrong_bytes(data: st.DataObject) -> None:
    vault = Vault()
    content = noise(3000) + bytes(3000) + b"text " * 300
    result = write_stream(vault, content)
    keys = vault.keys_for(result.manifest)
    ref = data.draw(st.sampled_from([ref for ref in result.new_objects if "/k/" not in ref.key]))
    stored = bytearray(vault.store.get(ref))
    bit = data.draw(st.integers(0, len(stored) * 8 - 1))
    stored[bit // 8] ^= 1 << bit % 8
    output = io.BytesIO()

    try:
        read_stream(
            vault, result, source=PatchedSource(vault.store, {ref.key: bytes(stored)}), keys=keys, output=output
        )
    except DamagedError:
        assert content.startswith(output.getvalue())
        return
    # Headers and record tables are not read by a restore; the scrub finds those by the hash.
    assert output.getvalue() == content


def test_one_bad_read_is_no_damage() -> None:
    vault = Vault()
    data = noise(5000)
    result = write_stream(vault, data)

    class BadOnce:
        def __init__(self) -> None:
            self.spoiled: set[str] = set()

        def get(self, ref, *, offset=0, length=None):
            found = vault.store.get(ref, offset=offset, length=length)
            if "/m/" in ref.key or "/k/" in ref.key or ref.key in self.spoiled:
                return found
            self.spoiled.add(ref.key)
            return b"\0" * len(found)

    assert read_stream(vault, result, source=BadOnce()) == data


def test_keys_are_checked_before_anything_is_written() -> None:
    vault = Vault()
    result = write_stream(vault, noise(5000))
    keys = vault.keys_for(result.manifest)
    output = io.BytesIO()

    for data_keys in ({}, {name: noise(32, "wrong") for name in keys.data_keys}):
        with pytest.raises(KeyMismatchError):
            read_stream(vault, result, keys=RestoreKeys(domain=keys.domain, data_keys=data_keys), output=output)
    assert output.getvalue() == b""


def test_a_closed_receiver_is_a_clear_error() -> None:
    vault = Vault()
    result = write_stream(vault, noise(5000))

    class Closed(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise BrokenPipeError

    with pytest.raises(OutputError) as caught:
        read_stream(vault, result, output=Closed())
    assert caught.value.code == "target_closed"


def test_short_writes_of_a_pipe_lose_nothing() -> None:
    vault = Vault()
    data = noise(5000) + bytes(70_000)
    result = write_stream(vault, data)

    class Slow(io.BytesIO):
        def write(self, data: bytes | memoryview, /) -> int:
            return super().write(bytes(data[:100]))

    assert read_stream(vault, result, output=Slow()) == data


def test_a_store_that_is_away_is_an_error_and_not_damage() -> None:
    vault = Vault()
    result = write_stream(vault, noise(5000))
    keys = vault.keys_for(result.manifest)
    vault.store.faults.update({vault.store.operation_count + number: Fault.BEFORE for number in range(1, 9)})

    with pytest.raises(StoreError) as caught:
        read_stream(vault, result, keys=keys)
    assert caught.value.transient


def test_cancel_ends_the_restore() -> None:
    vault = Vault()
    result = write_stream(vault, noise(5000))

    with pytest.raises(CanceledError):
        read_stream(vault, result, cancel=lambda: True)


def test_no_store_failure_while_writing_leaves_a_manifest() -> None:
    for operation in range(200):
        vault = Vault()
        vault.store.faults[operation] = Fault.REFUSE
        try:
            write_stream(vault, noise(40_000))
        except StoreError:
            assert not [version for version in vault.store.list_versions() if "/m/" in version.key]
            continue
        assert operation > 5
        return
    raise AssertionError("the backup never succeeds")
