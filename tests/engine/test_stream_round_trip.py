"""Streams come back as they were, and a change costs only its neighbourhood."""

from __future__ import annotations

import io
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.compression import Compressor
from engine.errors import BaseMismatchError, CanceledError, FormatError, SourceError, UnsupportedError
from engine.manifest import FEATURE_OF_CONTENT, ManifestBody, ManifestInfo, build_manifest, parse_manifest
from engine.stream_pages import ChunkRow
from engine.stream_reader import LostPage, PageReader, chunk_walk
from tests.engine.chunk_support import SMALL, listed_uses, read_stream, true_uses, write_stream
from tests.engine.support import ImageTarget, Vault, noise

MIB = 1 << 20


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1024, 1025, 20_000])
def test_streams_of_all_sizes_come_back(size: int) -> None:
    vault = Vault()
    data = noise(size)

    result = write_stream(vault, data)

    assert read_stream(vault, result) == data
    body = vault.open(result.manifest).body
    assert (body.content, body.required_features) == ("stream", [FEATURE_OF_CONTENT["stream"]])
    assert (body.size_bytes, body.block_size, body.fan_out) == (size, 0, 0)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_chain_of_edited_streams_restores_and_counts_exactly(data: st.DataObject) -> None:
    vault = Vault()
    content = bytearray(noise(120_000, "chain"))
    base = None
    for number in range(3):
        for edit in range(data.draw(st.integers(0, 3))):
            place = data.draw(st.integers(0, len(content)))
            length = data.draw(st.sampled_from([0, 1, 100, 5000, 30_000]))
            new = data.draw(st.sampled_from([b"", b"x", noise(700, f"{number}{edit}"), bytes(3000)]))
            content[place : place + length] = new
        result = write_stream(vault, bytes(content), base=base)
        assert read_stream(vault, result) == content
        assert listed_uses(vault, result) == true_uses(vault, result.manifest)
        start = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, len(content) - start))
        assert read_stream(vault, result, start=start, length=length) == content[start : start + length]
        base = result


def test_an_unchanged_stream_stores_only_a_manifest() -> None:
    vault = Vault()
    data = noise(400_000)
    first = write_stream(vault, data)

    second = write_stream(vault, data, base=first)

    assert second.new_objects == ()
    assert vault.open(second.manifest).root == vault.open(first.manifest).root
    assert read_stream(vault, second) == data


@pytest.mark.parametrize("place", [0, MIB, 3 * MIB])
def test_one_byte_inserted_rewrites_a_few_chunks_and_one_page_per_level(place: int) -> None:
    vault = Vault()
    data = noise(3 * MIB)
    first = write_stream(vault, data)
    changed = data[:place] + b"!" + data[place:]

    second = write_stream(vault, changed, base=first)

    assert second.stats.new_blocks <= 3
    segments = true_uses(vault, second.manifest)[1]
    old_segments = {ref.sha256 for ref in first.new_objects}
    new_pages = sum(count for name, count in segments.items() if name not in old_segments)
    # 10,000 chunks in some 30 leaves below one root; an edit may touch two neighbours.
    assert 1 <= new_pages <= 5
    assert read_stream(vault, second) == changed


def test_any_offset_is_found_by_one_page_per_level() -> None:
    vault = Vault()
    data = noise(4 * MIB)
    result = write_stream(vault, data)
    info = vault.open(result.manifest)
    pages: list[int] = []
    reader = PageReader(
        manifest=info,
        object_source=vault.store,
        map_key=vault.domain_keys.map_key,
        on_page=lambda kind, level, first, ref: pages.append(level),
    )

    offset, row = next(chunk_walk(reader).from_offset(info.root, 3 * MIB))

    assert isinstance(row, ChunkRow)
    assert pages == sorted(pages, reverse=True) == list(range(len(pages) - 1, -1, -1))
    # The walk begins with the page that holds the offset.
    assert offset <= 3 * MIB < offset + 1024 * 1024


def test_a_gibibyte_with_one_byte_inserted_reuses_all_but_a_few_chunks(tmp_path: Path) -> None:
    """With the real chunk sizes; 64 MiB of noise repeated with differences stands for the gibibyte."""
    from engine.chunking import Chunker, ChunkSizes

    chunker = Chunker(id_key=bytes(32), sizes=ChunkSizes())
    block = random.Random(7).randbytes(64 * MIB)

    def lengths(data: list[bytes]) -> Counter[int]:
        source = io.BufferedReader(_Joined(data))
        return Counter(hash(chunk) for chunk in chunker.cut(source.read))

    before = lengths([block, block[::-1]])
    after = lengths([block, b"!", block[::-1]])

    assert (after - before).total() <= 2
    assert before.total() > 80


class _Joined(io.RawIOBase):
    def __init__(self, parts: list[bytes]) -> None:
        self._parts = [memoryview(part) for part in parts]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        while self._parts and not self._parts[0]:
            self._parts.pop(0)
        if not self._parts:
            return 0
        part = self._parts[0][: len(buffer)]
        buffer[: len(part)] = part
        self._parts[0] = self._parts[0][len(part) :]
        return len(part)


def test_holes_of_a_file_are_neither_read_nor_stored(tmp_path: Path) -> None:
    vault = Vault()
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
        file.seek(20 * MIB)
        file.write(noise(10_000))
    with path.open("rb") as file:
        result = write_stream(vault, file)

    assert result.stats.read_bytes < 200_000
    assert sum(ref.size_bytes for ref in result.new_objects) < 100_000
    assert read_stream(vault, result) == path.read_bytes()


def test_zeros_of_a_pipe_are_not_stored() -> None:
    vault = Vault()
    data = noise(5000) + bytes(2 * MIB) + noise(5000, "end")

    result = write_stream(vault, data)

    assert sum(ref.size_bytes for ref in result.new_objects) < 40_000
    assert read_stream(vault, result) == data


def test_a_file_that_is_cut_off_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    vault = Vault()
    path = tmp_path / "file"
    path.write_bytes(noise(3 * MIB))

    with path.open("rb", buffering=0) as file:
        calls = 0

        def cancel() -> bool:
            nonlocal calls
            calls += 1
            if calls == 3:
                os.truncate(path, 1000)
            return False

        with pytest.raises(SourceError, match="cut off"):
            write_stream(vault, file, cancel=cancel)


def test_a_failing_source_is_a_source_error_and_leaves_no_manifest() -> None:
    vault = Vault()

    class Failing(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(SourceError):
        write_stream(vault, Failing())
    assert not [version for version in vault.store.list_versions() if "/m/" in version.key]


def test_check_complete_stops_the_commit() -> None:
    from engine.stream_writer import write_stream_backup

    vault = Vault()

    def fail() -> None:
        raise SourceError("the dump failed")

    with pytest.raises(SourceError, match="dump failed"):
        write_stream_backup(
            source=io.BytesIO(b"half"),
            sink=vault.store,
            base=None,
            context=vault.context(),
            check_complete=fail,
        )
    assert not [version for version in vault.store.list_versions() if "/m/" in version.key]


def test_a_hanging_pipe_can_be_canceled() -> None:
    import threading

    vault = Vault()
    read_end, write_end = os.pipe()
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()

    with os.fdopen(read_end, "rb") as pipe, pytest.raises(CanceledError):
        try:
            write_stream(vault, pipe, cancel=cancel.is_set)
        finally:
            os.close(write_end)


def test_other_content_cannot_be_a_base_nor_be_restored_as_a_disk() -> None:
    vault = Vault()
    disk = vault.write(noise(4096))
    stream = write_stream(vault, noise(4096))

    with pytest.raises(BaseMismatchError):
        write_stream(vault, b"data", base=disk)
    with pytest.raises(BaseMismatchError):
        vault.write(noise(4096), base=stream)
    target = ImageTarget(4096)
    with pytest.raises(UnsupportedError):
        vault.restore(stream.manifest, target)
    assert target.writes == 0
    with pytest.raises(UnsupportedError):
        read_stream(vault, disk)


@pytest.mark.parametrize(
    "changes",
    [
        {"required_features": []},
        {"required_features": ["file-tree"]},
        {"block_size": 512},
        {"fan_out": 4},
        {"size_bytes": -1},
        {"size_bytes": 1 << 62},
        {"content": "disk"},
        {"content": "other"},
    ],
)
def test_a_manifest_whose_fields_do_not_fit_its_content_is_refused(changes: dict[str, Any]) -> None:
    vault = Vault()
    body = vault.open(write_stream(vault, noise(100)).manifest).body

    def parse(changed: ManifestBody) -> ManifestInfo:
        data = build_manifest(
            changed,
            root=None,
            source_facts={},
            map_key=vault.domain_keys.map_key,
            writer_key=vault.writer_key,
            salt=bytes(16),
            compressor=Compressor(None),
        )
        return parse_manifest(data, trusted_writers=[vault.writer_key.public])

    assert parse(body).body == body
    with pytest.raises(FormatError):
        parse(msgspec.structs.replace(body, **changes))


def test_a_base_that_is_not_older_or_lies_in_a_distrusted_segment_is_refused() -> None:
    vault = Vault()
    first = write_stream(vault, noise(100))
    segment = next(ref.sha256 for ref in first.new_objects if "/i/" in ref.key)

    with pytest.raises(BaseMismatchError):
        write_stream(vault, noise(100), base=first, sequence=1)
    with pytest.raises(BaseMismatchError):
        write_stream(vault, noise(100), base=first, distrusted_segments=frozenset([segment]))
    with pytest.raises(BaseMismatchError):
        write_stream(vault, noise(100), base=first, source_id="another")


def test_a_range_outside_of_the_stream_is_refused() -> None:
    vault = Vault()
    result = write_stream(vault, noise(1000))

    for start, length in [(-1, 5), (0, 1001), (1001, 0), (500, 501)]:
        with pytest.raises(FormatError):
            read_stream(vault, result, start=start, length=length)


def test_chunks_of_distrusted_packs_are_stored_anew() -> None:
    vault = Vault()
    data = noise(60_000)
    first = write_stream(vault, data)
    packs = [ref.sha256 for ref in first.new_objects if "/p/" in ref.key]
    moved: list[tuple[object, object]] = []

    second = write_stream(
        vault,
        data,
        base=first,
        distrusted_packs=frozenset(packs[:1]),
        on_moved=lambda old, new: moved.append((old, new)),
    )

    assert packs[0] not in {entry.sha256.hex() for entry in vault.open(second.manifest).body.packs}
    assert second.stats.healed_blocks == len(moved) > 10
    assert all(old.content_id == new.content_id for old, new in moved)
    assert read_stream(vault, second) == data


def test_borders_differ_from_domain_to_domain() -> None:
    from engine.chunking import Chunker

    data = noise(200_000)
    lengths = [
        [len(chunk) for chunk in Chunker(id_key=noise(32, seed), sizes=SMALL).cut(io.BytesIO(data).read)]
        for seed in ("one", "two")
    ]

    assert lengths[0] != lengths[1]
    assert sum(lengths[0]) == sum(lengths[1]) == len(data)


def test_lost_pages_are_marked_when_asked_for() -> None:
    vault = Vault()
    result = write_stream(vault, noise(2 * MIB))
    info = vault.open(result.manifest)
    reader = PageReader(manifest=info, object_source=vault.store, map_key=vault.domain_keys.map_key)
    root = info.root
    assert root is not None
    bad = root._replace(content_id=bytes(32))

    rows = [row for _, row in chunk_walk(reader, report_lost=True).from_offset(bad)]

    assert len(rows) == 1
    assert isinstance(rows[0], LostPage)
