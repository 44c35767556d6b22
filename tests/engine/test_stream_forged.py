"""A parent page that says something else than its child holds is refused, whoever signed it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.errors import FormatError
from engine.stream_pages import Branch, ChunkRow, PageKind, draft_page
from engine.stream_reader import PageReader, TreeWalk, chunk_walk
from engine.stream_session import ChunkSession, new_uploader
from engine.tree_entries import FileKind, TreeEntry, parse_file_rows
from engine.waiting import never_cancel
from engine.writer import WriteResult
from tests.engine.support import Vault


def _forged(vault: Vault, kind: PageKind, change: Callable[[Branch], Branch], *, level: int = 1) -> WriteResult:
    """A leaf below a branch that was changed; the leaf has two entries."""
    vault.sequence += 1
    context = vault.context(compression_level=None)
    uploader = new_uploader(sink=vault.store, context=context, cancel=never_cancel)
    content = "stream" if kind == PageKind.CHUNKS else "tree"
    session = ChunkSession(
        context=context, content=content, base=None, uploader=uploader, progress=None, cancel=never_cancel
    )
    with uploader, session:
        slots = [session.pipe.put(data, hole=0, known={}) for data in (b"one", b"three")]
        session.pipe.flush()
        session.packs.close_pack()
        rows = [ChunkRow(slot.hole, slot.entry) for slot in slots if slot.entry is not None]
        for row in rows:
            session.census.add_chunk(row.entry)
        names = [TreeEntry(key=key, kind=FileKind.FILE, size=4) for key in (b"b", b"d")]
        draft = draft_page(kind=kind, level=0, rows=rows if kind == PageKind.CHUNKS else names)
        leaf = draft.branch(session.pages.add(draft))
        after = Branch(leaf.ref, leaf.total_bytes, leaf.leaf_count, b"e" if kind == PageKind.FILES else b"")
        top = draft_page(kind=kind, level=level, rows=[change(leaf), after])
        root = top.branch(session.pages.add(top))
        for ref in (leaf.ref, root.ref):
            session.census.add_page(ref)
        return session.commit(root=root, size_bytes=16, counters={})


def _read(vault: Vault, result: WriteResult, kind: PageKind) -> object:
    """The first entry."""
    info = vault.open(result.manifest)
    reader = PageReader(manifest=info, object_source=vault.store, map_key=vault.domain_keys.map_key)
    if kind == PageKind.CHUNKS:
        return next(chunk_walk(reader).from_offset(info.root))
    return next(TreeWalk(reader=reader, kind=kind, decode=parse_file_rows).from_key(info.root))


@pytest.mark.parametrize("kind", list(PageKind))
def test_a_branch_that_tells_the_truth_is_read(kind: PageKind) -> None:
    vault = Vault()

    assert _read(vault, _forged(vault, kind, lambda leaf: leaf), kind)


@pytest.mark.parametrize("kind", list(PageKind))
@pytest.mark.parametrize(
    "change",
    [
        lambda leaf: leaf._replace(total_bytes=leaf.total_bytes + 1),
        lambda leaf: leaf._replace(total_bytes=0),
        lambda leaf: leaf._replace(leaf_count=3),
        lambda leaf: leaf._replace(key=b"a"),
    ],
)
def test_a_branch_that_says_something_else_of_its_child_is_refused(
    kind: PageKind, change: Callable[[Branch], Branch]
) -> None:
    vault = Vault()
    result = _forged(vault, kind, change)

    with pytest.raises(FormatError):
        _read(vault, result, kind)


@pytest.mark.parametrize("kind", list(PageKind))
def test_a_child_must_be_one_level_below(kind: PageKind) -> None:
    vault = Vault()
    result = _forged(vault, kind, lambda leaf: leaf, level=2)

    with pytest.raises(FormatError, match="level"):
        _read(vault, result, kind)


def test_a_child_must_end_before_the_next_begins() -> None:
    vault = Vault()
    kind = PageKind.FILES
    result = _forged(vault, kind, lambda leaf: leaf._replace(key=b"b"))
    info = vault.open(result.manifest)
    reader = PageReader(manifest=info, object_source=vault.store, map_key=vault.domain_keys.map_key)

    # The second child is the first one again, so its first key is not the one its parent says.
    with pytest.raises(FormatError):
        list(TreeWalk(reader=reader, kind=kind, decode=parse_file_rows).from_key(info.root))
