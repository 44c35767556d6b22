"""Makes tests/golden/engine_v1_chunks: two streams and two file trees in format version 1. Run once; never again after
a release.

    python -m tests.golden.build_engine_v1_chunks

A later change of the writer must leave tests/golden/engine_v1_chunks alone: old vaults look like that for ever. The
trees are written from fixed entries, because times and inodes of real files differ from run to run.
"""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

from engine.chunking import Chunker
from engine.store.base import ObjectRef
from engine.stream_pipe import NOTHING_KNOWN
from engine.stream_session import ChunkSession, new_uploader
from engine.tree_base import BaseEntries
from engine.tree_entries import FileKind, TreeEntry
from engine.tree_queue import EntryQueue
from engine.waiting import never_cancel
from engine.writer import BackupBase, WriteResult
from tests.engine.chunk_support import SMALL, write_stream
from tests.engine.support import Vault, noise

FOLDER = Path(__file__).parent / "engine_v1_chunks"


def golden_streams() -> list[bytes]:
    """Noise, text, zeros and repeats; the second has an insertion, a cut and a longer end."""
    first = noise(160_000) + b"compress me " * 3000 + bytes(20_000) + noise(3000) * 4 + b"end"
    second = first[:20_000] + b"inserted" + first[20_000:70_000] + first[75_000:] + noise(900, "grown")
    return [first, second]


def golden_trees() -> list[dict[TreeEntry, bytes]]:
    """Entries of every kind, with the content of the files; the second has one file changed and one less."""
    common = {"mode": 0o644, "uid": 1000, "gid": 100, "user": b"alice", "group": b"users", "inode": 7, "device": 2049}
    file, directory = FileKind.FILE, FileKind.DIRECTORY
    tree: dict[TreeEntry, bytes] = {}

    def add(key: bytes, kind: FileKind, content: bytes = b"", **fields: object) -> None:
        tree[TreeEntry(**{**common, "key": key, "kind": kind, "size": len(content), **fields})] = content

    add(b"", directory, mode=0o755, mtime_ns=1_700_000_000_123_456_789)
    add(b"dir", directory, mode=0o2750, xattrs=((b"user.note", b"\x00\xff"),))
    add(b"dir\0empty", file)
    add(b"dir\0large", file, noise(50_000, "large") + bytes(9000) + noise(50), mtime_ns=-1)
    add(b"dir\0tool", file, b"#!/bin/sh\n" * 40, mode=0o4755, ctime_ns=5, marks=8)
    add(b"dir.after", file, b"sorted behind dir")
    add(b"fifo", FileKind.FIFO)
    add(b"link", FileKind.SYMLINK, target=b"dir/\xff")
    add(b"loop", FileKind.BLOCK_DEVICE, rdev=(7, 300))
    add(b"new\nline\xfe", file, bytes(4096) + b"x", user=b"", group=b"")
    add(b"null", FileKind.CHARACTER_DEVICE, rdev=(1, 3))
    add(b"second name", FileKind.HARD_LINK, target=b"dir\0tool")
    add(b"socket", FileKind.SOCKET)
    changed = {entry: content for entry, content in tree.items() if entry.key != b"dir.after"}
    large = next(entry for entry in changed if entry.key == b"dir\0large")
    changed[large] = changed[large][:30_000] + b"!" * 10 + changed[large][30_010:]
    return [tree, changed]


def write_tree_of(
    vault: Vault, tree: dict[TreeEntry, bytes], *, base: WriteResult | None, compression_level: int | None
) -> WriteResult:
    vault.sequence += 1
    context = vault.context(compression_level=compression_level)
    uploader = new_uploader(sink=vault.store, context=context, cancel=never_cancel)
    session = ChunkSession(
        context=context,
        content="tree",
        base=BackupBase(base.manifest, vault.store) if base is not None else None,
        uploader=uploader,
        progress=None,
        cancel=never_cancel,
    )
    chunker = Chunker(id_key=vault.domain_keys.id_key, sizes=SMALL)
    with uploader, session:
        old_entries = BaseEntries(session, distrusted_packs=())
        queue = EntryQueue(session)
        for entry, content in tree.items():
            old = old_entries.take(entry.key)
            known = old_entries.chunks_of(old) if old is not None else NOTHING_KNOWN
            opened = queue.open(entry, known=known)
            for piece in chunker.pieces(chunker.cut(_reader(content))):
                if piece.data:
                    queue.add(opened, piece)
            queue.close(opened, size=len(content), marks=entry.marks)
        session.pipe.flush()
        queue.settle()
        session.packs.close_pack()
        old_entries.finish()
        root = queue.finish()
        assert root is not None
        return session.commit(root=root, size_bytes=root.total_bytes, counters={"files": len(tree)})


def _reader(content: bytes):
    rest = memoryview(content)

    def read(length: int) -> bytes:
        nonlocal rest
        part, rest = bytes(rest[:length]), rest[length:]
        return part

    return read


def write_chains(vault: Vault, *, compression_level: int | None) -> list[WriteResult]:
    results: list[WriteResult] = []
    for number, stream in enumerate(golden_streams()):
        base = results[-1] if number else None
        results.append(write_stream(vault, stream, base=base, compression_level=compression_level))
    for number, tree in enumerate(golden_trees()):
        base = results[-1] if number else None
        results.append(write_tree_of(vault, tree, base=base, compression_level=compression_level))
    return results


def pinned_names() -> list[str]:
    """Keys of all objects of chains with fixed randomness; uncompressed, so that no zstd version matters.

    HPKE draws its own randomness, so the wrapped keys are replaced by fixed bytes. One upload at a time: the store
    numbers versions as they arrive, and manifests name them.
    """
    vault = Vault(seed="pinned")
    wrapped = patch("engine.envelope._wrap", lambda secret, public, info: noise(144, "wrapped"))
    with wrapped, patch("engine.upload._THREADS", 1):
        write_chains(vault, compression_level=None)
    return [version.key for version in vault.store.list_versions()]


def main() -> None:
    vault = Vault(seed="golden")
    results = write_chains(vault, compression_level=3)
    FOLDER.mkdir(exist_ok=True)
    objects = {}
    for version in vault.store.list_versions():
        (FOLDER / f"{version.sha256}.bin").write_bytes(version.data)
        objects[version.key] = version.sha256
    description = {
        "objects": objects,
        "manifests": [_ref(result.manifest) for result in results],
        "tenant_private_key": vault.tenant_key.private.hex(),
        "writer_public_key": vault.writer_key.public.hex(),
        "pinned": pinned_names(),
    }
    (FOLDER / "index.json").write_text(json.dumps(description, indent=1) + "\n")


def _ref(ref: ObjectRef) -> dict[str, object]:
    return {"key": ref.key, "sha256": ref.sha256, "size_bytes": ref.size_bytes}


if __name__ == "__main__":
    main()
