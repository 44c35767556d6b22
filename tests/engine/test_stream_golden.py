"""Chunk streams and file trees of format version 1 restore for ever, and their bytes do not drift."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.chunking import Chunker
from engine.envelope import unwrap_envelope
from engine.repository import open_manifest
from engine.restore import RestoreKeys
from engine.store.base import ObjectRef
from engine.stream_pages import Boundary
from engine.stream_restore import restore_stream
from engine.tree_entries import FileKind, Marks, TreeEntry
from engine.tree_reader import list_tree
from engine.tree_restore import TreeRestoreOptions, restore_tree
from tests.engine.chunk_support import SMALL
from tests.engine.support import DOMAIN, TENANT, noise
from tests.golden.build_engine_v1_chunks import FOLDER, golden_streams, golden_trees, pinned_names

_INDEX: dict[str, Any] = json.loads((FOLDER / "index.json").read_text())
_WRITERS = [bytes.fromhex(_INDEX["writer_public_key"])]
_CUTS = [85, 179, 264, 143, 268, 149, 384, 265, 429, 254, 80]


class FixtureSource:
    """Reads by name only, as from a bucket without any database."""

    def get(self, ref: ObjectRef, *, offset: int = 0, length: int | None = None) -> bytes:
        data = (FOLDER / f"{_INDEX['objects'][ref.key]}.bin").read_bytes()
        return data[offset : len(data) if length is None else offset + length]


def _keys(manifest: ObjectRef) -> RestoreKeys:
    info = open_manifest(manifest_ref=manifest, object_source=FixtureSource(), trusted_writers=_WRITERS)
    unwrapped = [
        unwrap_envelope(
            FixtureSource().get(ref),
            tenant_private_key=bytes.fromhex(_INDEX["tenant_private_key"]),
            tenant=TENANT,
            domain=DOMAIN,
        )
        for ref in info.body.needed_refs()
        if "/k/" in ref.key
    ]
    data_keys = {keys.session.session_id: keys.session.data_key for keys in unwrapped}
    return RestoreKeys(domain=unwrapped[0].domain, data_keys=data_keys)


@pytest.mark.parametrize("number", [0, 1])
def test_the_streams_of_version_1_restore(number: int) -> None:
    manifest = ObjectRef(**_INDEX["manifests"][number])
    output = io.BytesIO()

    restore_stream(
        manifest_ref=manifest,
        object_source=FixtureSource(),
        keys=_keys(manifest),
        trusted_writers=_WRITERS,
        output=output,
    )

    assert output.getvalue() == golden_streams()[number]


@pytest.mark.parametrize("number", [0, 1])
def test_the_trees_of_version_1_restore(number: int, tmp_path: Path) -> None:
    manifest = ObjectRef(**_INDEX["manifests"][2 + number])
    keys = _keys(manifest)
    tree = golden_trees()[number]

    result = restore_tree(
        manifest_ref=manifest,
        object_source=FixtureSource(),
        keys=keys,
        trusted_writers=_WRITERS,
        target=tmp_path,
        options=TreeRestoreOptions(restore_owner=False, keep_setuid=True),
    )

    # Devices need privileges.
    assert {problem.path for problem in result.problems} <= {b"loop", b"null"}
    for entry, content in tree.items():
        if entry.kind == FileKind.FILE:
            assert (tmp_path / os.fsdecode(entry.path)).read_bytes() == content
    assert os.stat(tmp_path / "second name").st_ino == os.stat(tmp_path / "dir" / "tool").st_ino
    listed = list(
        list_tree(
            manifest=result.manifest,
            object_source=FixtureSource(),
            map_key=keys.domain.map_key,
            recursive=True,
        )
    )
    assert [_bare(entry) for entry in listed] == [_bare(entry, len(content)) for entry, content in tree.items()][1:]
    assert next(entry for entry in listed if entry.key == b"dir\0large").chunk_map is not None


def _bare(entry: TreeEntry, size: int | None = None) -> TreeEntry:
    return msgspec.structs.replace(entry, chunks=(), chunk_map=None, size=entry.size if size is None else size)


def test_the_bytes_of_all_objects_are_pinned() -> None:
    assert pinned_names() == _INDEX["pinned"]


def test_the_cuts_are_pinned() -> None:
    """Another version of the chunker that cuts elsewhere would cost every domain a full backup."""
    chunks = Chunker(id_key=bytes(32), sizes=SMALL).cut(io.BytesIO(noise(2500)).read)

    assert [len(chunk) for chunk in chunks] == _CUTS


def test_the_page_borders_are_pinned() -> None:
    boundary = Boundary(bytes(32))

    found = [[number for number in range(1000) if boundary.is_after(level, b"%d" % number)] for level in (0, 1)]

    assert found == [[137, 295, 415, 455, 620, 936], [19, 50, 199, 364, 451, 674, 694]]


def test_numbers_of_the_format_do_not_change() -> None:
    assert [(kind.name, int(kind)) for kind in FileKind] == [
        ("FILE", 1),
        ("DIRECTORY", 2),
        ("SYMLINK", 3),
        ("FIFO", 4),
        ("SOCKET", 5),
        ("CHARACTER_DEVICE", 6),
        ("BLOCK_DEVICE", 7),
        ("HARD_LINK", 8),
    ]
    assert [int(mark) for mark in Marks] == [1, 2, 4, 8, 16, 32]
