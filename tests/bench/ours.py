"""One backup or restore by the engine, as a process of its own: what `restic backup` is for restic.

    python -m tests.bench.ours backup|restore    (an order as JSON on standard input)

Keys and the list of backups are kept in a file, as the control plane would keep them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agents.drivers.base import DiskAddress, DiskWish, ReadWish, WriteWish
from agents.drivers.image import ImageDriver, ImageSource
from engine.crypto import (
    DomainKeys,
    generate_domain_keys,
    generate_tenant_key,
    generate_writer_key,
    tenant_key_from_private,
    writer_key_from_private,
)
from engine.envelope import unwrap_envelope
from engine.repository import open_manifest
from engine.restore import RestoreKeys, restore_disk
from engine.scan import Extent
from engine.store.base import ObjectKind, ObjectRef, ObjectSink, ObjectSource
from engine.store.http import GrantedSink, GrantedSource
from engine.writer import BackupBase, WriteContext, write_disk_backup
from tests.bench.stores import DirectoryStore, Signer

TENANT, DOMAIN, SOURCE_ID = "bench", "server-1", "disk-0"


class KnownExtents:
    """A source whose driver knows what changed."""

    def __init__(self, inner: ImageSource, changed: Iterable[Extent]) -> None:
        self.size_bytes = inner.size_bytes
        self.extents, self.read, self.check_unchanged = inner.extents, inner.read, inner.check_unchanged
        self._changed = list(changed)

    def changed_extents(self) -> list[Extent]:
        return self._changed


def backup(order: dict[str, Any]) -> None:
    """`changed`: extents, or None when they are not known; `base`: number of the backup compared with, or None."""
    state = _load(order)
    sink, source = _stores(order["store"])
    base = _ref(state["backups"][order["base"]]) if order["base"] is not None else None
    image = Path(order["image"])
    with ImageDriver().open_sources(ReadWish(disks=[DiskWish(_address(image))], new_point="")) as [opened]:
        disk = opened.source
        changed = order["changed"]
        known = disk if changed is None else KnownExtents(disk, [Extent(*extent) for extent in changed])
        result = write_disk_backup(
            source=known,
            sink=sink,
            base=BackupBase(base, source) if base is not None else None,
            context=_context(state, order),
        )
    state["backups"].append(asdict(result.manifest))
    Path(order["state"]).write_text(json.dumps(state))


def restore(order: dict[str, Any]) -> None:
    """Into a new sparse file; keys come from the vault and the tenant's private key only."""
    state = _load(order)
    source = _stores(order["store"])[1]
    manifest = _ref(state["backups"][order["base"]])
    trusted = [writer_key_from_private(bytes.fromhex(state["writer"])).public]
    info = open_manifest(manifest_ref=manifest, object_source=source, trusted_writers=trusted)
    target = Path(order["image"])
    with target.open("wb") as file:
        file.truncate(info.body.size_bytes)
    with ImageDriver().open_target(WriteWish(address=_address(target), size_bytes=info.body.size_bytes)) as opened:
        restore_disk(
            manifest_ref=manifest,
            object_source=source,
            keys=_restore_keys(info.body.sessions, info.body.object_ref, source, state),
            trusted_writers=trusted,
            target=opened.target,
        )


def _restore_keys(sessions: Any, ref_of: Any, source: ObjectSource, state: dict[str, Any]) -> RestoreKeys:
    private = bytes.fromhex(state["tenant"])
    opened = [
        unwrap_envelope(
            source.get(ref_of(ObjectKind.KEY, session.envelope)),
            tenant_private_key=private,
            tenant=TENANT,
            domain=DOMAIN,
        )
        for session in sessions
    ]
    data_keys = {keys.session.session_id: keys.session.data_key for keys in opened}
    return RestoreKeys(domain=opened[0].domain, data_keys=data_keys)


def _context(state: dict[str, Any], order: dict[str, Any]) -> WriteContext:
    chosen = {name: order[name] for name in ("block_size", "compression_level") if order.get(name) is not None}
    return WriteContext(
        tenant=TENANT,
        domain=DOMAIN,
        source_id=SOURCE_ID,
        sequence=len(state["backups"]) + 1,
        created_at=datetime.now(UTC),
        domain_keys=DomainKeys(bytes.fromhex(state["id"]), bytes.fromhex(state["map"])),
        tenant_public_key=tenant_key_from_private(bytes.fromhex(state["tenant"])).public,
        writer_key=writer_key_from_private(bytes.fromhex(state["writer"])),
        random_bytes=os.urandom,
        **chosen,
    )


def _load(order: dict[str, Any]) -> dict[str, Any]:
    path = Path(order["state"])
    if path.exists():
        loaded: dict[str, Any] = json.loads(path.read_text())
        return loaded
    domain = generate_domain_keys(os.urandom)
    return {
        "tenant": generate_tenant_key().private.hex(),
        "writer": generate_writer_key().private.hex(),
        "id": domain.id_key.hex(),
        "map": domain.map_key.hex(),
        "backups": [],
    }


def _stores(told: dict[str, str]) -> tuple[ObjectSink, ObjectSource]:
    if "path" in told:
        store = DirectoryStore(Path(told["path"]))
        return store, store
    signer = Signer(**told)
    return GrantedSink(signer), GrantedSource(signer)


def _address(image: Path) -> DiskAddress:
    size = image.stat().st_size
    return DiskAddress(storage_path=str(image.parent), path=image.name, size_bytes=size)


def _ref(told: dict[str, Any]) -> ObjectRef:
    return ObjectRef(**told)


if __name__ == "__main__":
    {"backup": backup, "restore": restore}[sys.argv[1]](json.load(sys.stdin))
