"""A tree to back up, a place to restore it to, and trees that no writer would make."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from engine.backup import WriteContext
from engine.stream_pages import PageKind
from engine.stream_session import ChunkSession, new_uploader
from engine.tree_entries import FileKind, TreeEntry
from engine.tree_writer import TreeWriteResult
from engine.waiting import never_cancel
from tests.engine.support import Vault

MIB = 1 << 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "place" / "target"
    folder.mkdir(parents=True)
    return folder


def file_entry(key: bytes, **fields: Any) -> TreeEntry:
    return TreeEntry(key=key, kind=FileKind.FILE, mode=0o644, **fields)


def directory_entry(key: bytes) -> TreeEntry:
    return TreeEntry(key=key, kind=FileKind.DIRECTORY, mode=0o755)


def forged_tree(vault: Vault, entries: Iterable[TreeEntry]) -> TreeWriteResult:
    """A signed backup with these entries: what a host that was taken over can write."""
    vault.sequence += 1
    context: WriteContext = vault.context()
    uploader = new_uploader(sink=vault.store, context=context, cancel=never_cancel)
    session = ChunkSession(
        context=context, content="tree", base=None, uploader=uploader, progress=None, cancel=never_cancel
    )
    with uploader, session:
        builder = session.builder(PageKind.FILES)
        for entry in entries:
            builder.add(entry)
        result = session.commit(root=builder.finish(), size_bytes=0, counters={})
    return TreeWriteResult(result, (), {}, {})


def files_below(folder: Path) -> set[str]:
    return {os.fspath(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
