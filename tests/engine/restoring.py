"""Shared pieces of the tests of restore, relocations and repacking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from engine.compression import Compressor
from engine.index import MapEntry, resolve
from engine.manifest import SessionEntry
from engine.ranges import ByteRange
from engine.relocations import Relocations, parse_relocations
from engine.repack import RepackContext, RepackResult, RepackSource, repack
from engine.repository import MapReader, walk_leaves
from engine.restore import RestoreKeys, RestoreResult, restore_disk
from engine.store.base import ObjectRef
from engine.writer import WriteResult
from tests.engine.support import DOMAIN, TENANT, ImageTarget, Vault, seeded_bytes


class ReadableTarget(ImageTarget):
    """A target in memory that can be read; `break_at` fails its n-th write."""

    def __init__(self, data: bytes | bytearray | int, *, break_at: int | None = None) -> None:
        super().__init__(data if isinstance(data, int) else len(data))
        if not isinstance(data, int):
            self.data = bytearray(data)
        self.break_at = break_at
        self.touched: list[ByteRange] = []

    def write(self, offset: int, data: bytes) -> None:
        if self.writes == self.break_at:
            raise KilledError("killed here")
        super().write(offset, data)
        self.touched.append((offset, len(data)))

    def read(self, offset: int, length: int) -> bytes:
        assert offset + length <= self.size_bytes
        return bytes(self.data[offset : offset + length])


class KilledError(Exception):
    """Stands for a process that ends here."""


def restore(vault: Vault, manifest: ObjectRef, target: Any, **options: Any) -> RestoreResult:
    """restore_disk with the vault's own keys and store unless told otherwise."""
    arguments: dict[str, Any] = {
        "manifest_ref": manifest,
        "object_source": vault.store,
        "trusted_writers": [vault.writer_key.public],
        "target": target,
    }
    arguments["keys"] = options.get("keys") or vault.keys_for(manifest)
    return restore_disk(**{**arguments, **options})


def map_of(vault: Vault, manifest: ObjectRef, *, source: Any = None, **options: Any) -> MapReader:
    return MapReader(
        manifest=vault.open(manifest),
        object_source=source or vault.store,
        map_key=vault.domain_keys.map_key,
        **options,
    )


def map_entries(vault: Vault, manifest: ObjectRef) -> Iterator[tuple[int, MapEntry]]:
    """(offset in the image, map entry) of every stored block."""
    reader = map_of(vault, manifest)
    for span in walk_leaves(reader):
        for slot, entry in (span.entries or {}).items():
            yield span.offset + slot * reader.body.block_size, entry


def packs_of(result: WriteResult) -> list[ObjectRef]:
    return [ref for ref in result.new_objects if "/p/" in ref.key]


def blocks_in(vault: Vault, manifest: ObjectRef, packs: list[ObjectRef]) -> list[int]:
    names = {pack.sha256 for pack in packs}
    return [offset for offset, entry in map_entries(vault, manifest) if resolve(entry.object_name).hex() in names]


def sessions_of(vault: Vault, *manifests: ObjectRef) -> dict[bytes, SessionEntry]:
    return {entry.session_id: entry for manifest in manifests for entry in vault.open(manifest).body.sessions}


def repack_context(vault: Vault, *manifests: ObjectRef, **changes: Any) -> RepackContext:
    options: dict[str, Any] = {
        "tenant": TENANT,
        "domain": DOMAIN,
        "map_key": vault.domain_keys.map_key,
        "sessions": sessions_of(vault, *manifests),
        "random_bytes": seeded_bytes("repack"),
        "compressor": Compressor(1),
        "target_size": 8192,
    }
    return RepackContext(**{**options, **changes})


def live_records(vault: Vault, *manifests: ObjectRef, keep: Callable[[MapEntry], bool] = bool) -> list[RepackSource]:
    """All packs of these manifests with the records that their maps name."""
    refs: dict[str, ObjectRef] = {}
    live: dict[str, list[MapEntry]] = {}
    for manifest in manifests:
        refs |= {ref.sha256: ref for ref in vault.open(manifest).body.needed_refs() if "/p/" in ref.key}
        for _, entry in map_entries(vault, manifest):
            if keep(entry):
                live.setdefault(resolve(entry.object_name).hex(), []).append(entry)
    return [RepackSource(refs[name], entries) for name, entries in live.items()]


def repacked(vault: Vault, *manifests: ObjectRef, **changes: Any) -> tuple[RepackResult, list[Relocations]]:
    context = repack_context(vault, *manifests, **changes)
    result = repack(live_records(vault, *manifests), object_source=vault.store, sink=vault.store, context=context)
    return result, [read_relocations(vault, ref) for ref in result.relocations]


def read_relocations(vault: Vault, ref: ObjectRef) -> Relocations:
    return parse_relocations(vault.store.get(ref), tenant=TENANT, domain=DOMAIN, map_key=vault.domain_keys.map_key)


def without_keys(keys: RestoreKeys, *sessions: bytes) -> RestoreKeys:
    left = {session: key for session, key in keys.data_keys.items() if session not in sessions}
    return RestoreKeys(domain=keys.domain, data_keys=left)
