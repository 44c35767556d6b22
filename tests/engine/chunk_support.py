"""Shared pieces of the tests of chunk streams and file trees."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections import Counter
from typing import Any

from engine.chunking import ChunkSizes
from engine.index import MapEntry, resolve
from engine.store.base import ObjectRef
from engine.stream_pages import ChunkRow, PageKind
from engine.stream_reader import PageReader, chunk_walk
from engine.stream_restore import restore_stream
from engine.stream_writer import write_stream_backup
from engine.tree_entries import TreeEntry
from engine.tree_reader import TreeEntries, list_tree
from engine.tree_restore import TreeRestoreOptions, TreeRestoreResult, restore_tree
from engine.tree_walk import TreeOptions
from engine.tree_writer import TreeWriteResult, write_tree_backup
from engine.writer import BackupBase, WriteResult
from tests.engine.support import Vault

# Small chunks make large trees of small streams.
SMALL = ChunkSizes(64, 256, 1024)


def write_stream(
    vault: Vault,
    data: bytes | Any,
    *,
    base: WriteResult | None = None,
    sink: Any = None,
    sizes: ChunkSizes = SMALL,
    cancel: Any = lambda: False,
    resume: Any = (),
    check_complete: Any = None,
    **changes: Any,
) -> WriteResult:
    vault.sequence += 1
    return write_stream_backup(
        source=io.BytesIO(data) if isinstance(data, bytes | bytearray) else data,
        sink=sink or vault.store,
        base=BackupBase(base.manifest, vault.store) if base is not None else None,
        context=vault.context(**changes),
        sizes=sizes,
        check_complete=check_complete,
        cancel=cancel,
        resume=resume,
        resume_source=vault.store,
    )


def read_stream(vault: Vault, result: WriteResult, **arguments: Any) -> bytes:
    output = arguments.pop("output", None) or io.BytesIO()
    restore_stream(
        manifest_ref=result.manifest,
        object_source=arguments.pop("source", vault.store),
        keys=arguments.pop("keys", None) or vault.keys_for(result.manifest),
        trusted_writers=[vault.writer_key.public],
        output=output,
        **arguments,
    )
    return output.getvalue()


def listed_uses(vault: Vault, result: WriteResult) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Use counts of packs, segments and sessions, as the manifest says."""
    body = vault.open(result.manifest).body
    return (
        {entry.sha256.hex(): entry.use_count for entry in body.packs},
        {entry.sha256.hex(): entry.use_count for entry in body.segments},
        {entry.session_id.hex(): entry.use_count for entry in body.sessions if entry.use_count},
    )


NEVER_FRESH = 1 << 62


def write_tree(
    vault: Vault,
    root: Any,
    *,
    base: TreeWriteResult | None = None,
    sink: Any = None,
    sizes: ChunkSizes = SMALL,
    options: TreeOptions | None = None,
    now_ns: int = NEVER_FRESH,
    cancel: Any = lambda: False,
    resume: Any = (),
    **changes: Any,
) -> TreeWriteResult:
    """`now_ns` is far in the future unless a test says otherwise: nothing counts as changed just now."""
    vault.sequence += 1
    return write_tree_backup(
        root=root,
        sink=sink or vault.store,
        base=BackupBase(base.write.manifest, vault.store) if base is not None else None,
        context=vault.context(**changes),
        options=options,
        sizes=sizes,
        now_ns=lambda: now_ns,
        cancel=cancel,
        resume=resume,
        resume_source=vault.store,
    )


def read_tree(vault: Vault, result: TreeWriteResult, target: Any, **arguments: Any) -> TreeRestoreResult:
    options = {name: arguments.pop(name) for name in list(arguments) if name in TreeRestoreOptions.__slots__}
    return restore_tree(
        manifest_ref=result.write.manifest,
        object_source=arguments.pop("source", vault.store),
        keys=arguments.pop("keys", None) or vault.keys_for(result.write.manifest),
        trusted_writers=[vault.writer_key.public],
        target=target,
        options=TreeRestoreOptions(**options),
        **arguments,
    )


def entries_of(vault: Vault, result: TreeWriteResult, path: bytes = b"", **arguments: Any) -> list[TreeEntry]:
    return list(
        list_tree(
            manifest=vault.open(result.write.manifest),
            object_source=vault.store,
            map_key=vault.domain_keys.map_key,
            path=path,
            **arguments,
        )
    )


def snapshot(root: bytes) -> dict[bytes, tuple[Any, ...]]:
    """All that a restore must bring back, by path; read without the code under test."""
    found: dict[bytes, tuple[Any, ...]] = {}
    inodes: dict[tuple[int, int], bytes] = {}

    def look(path: bytes, name: bytes) -> None:
        info = os.lstat(path)
        kind = stat.S_IFMT(info.st_mode)
        content: Any = None
        if kind == stat.S_IFREG:
            with open(path, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()
        elif kind == stat.S_IFLNK:
            content = os.readlink(path)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            content = info.st_rdev
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
        }
        first = inodes.setdefault((info.st_dev, info.st_ino), name) if kind != stat.S_IFDIR else name
        found[name] = (kind, info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, xattrs, content, first)

    def walk(path: bytes, name: bytes) -> None:
        look(path, name)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            for child in sorted(os.listdir(path)):
                walk(path + b"/" + child, name + b"/" + child)

    walk(root, b"")
    return found


def true_uses(vault: Vault, manifest: ObjectRef) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Use counts, as a walk over everything below the root finds them."""
    packs: Counter[str] = Counter()
    segments: Counter[str] = Counter()
    sessions: Counter[str] = Counter()
    info = vault.open(manifest)

    def on_page(kind: PageKind, level: int, first: bytes, ref: MapEntry) -> None:
        segments[resolve(ref.object_name).hex()] += 1

    def count(chunk: ChunkRow) -> None:
        packs[resolve(chunk.entry.object_name).hex()] += 1
        sessions[chunk.entry.session_id.hex()] += 1

    reader = PageReader(manifest=info, object_source=vault.store, map_key=vault.domain_keys.map_key, on_page=on_page)
    if info.body.content == "stream":
        for _, row in chunk_walk(reader).from_offset(info.root):
            count(row)
        return dict(packs), dict(segments), dict(sessions)
    for entry in TreeEntries(reader, info.root).starting_at(b""):
        for row in entry.chunks:
            count(row)
        for _, row in chunk_walk(reader).from_offset(entry.chunk_map):
            count(row)
    return dict(packs), dict(segments), dict(sessions)
