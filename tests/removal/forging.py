"""What a host in other hands, or an older database, leaves in the small world's vault: objects that no row knows."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import msgspec

from backups.models import Backup
from engine.compression import Compressor
from engine.index import MapEntry
from engine.manifest import ManifestBody, build_manifest
from engine.relocations import RelocationWriter
from engine.store.base import ObjectKind, object_key
from tests.removal.world import OpenSession, World, now
from vaults.models import StoredObject

_COMPRESSOR = Compressor(None)
# Bytes of a small record. The pack of one must hold it: see `large_pack`.
_RECORD = 64


def forget(backup: Backup) -> set[str]:
    """The database is older than this backup: neither it, nor its session, nor what that stored. Returns the keys."""
    own = StoredObject.objects.filter(session_id=backup.jobs.get().sessions.get().pk)
    keys = set(own.values_list("key", flat=True))
    backup.manifest.uses.all().delete()
    backup.jobs.all().delete()
    backup.delete()
    own.delete()
    return keys


def put(world: World, key: str, data: bytes, *, days: int = 20) -> str:
    """An object with its lock, and no row. Returns its key."""
    until = now() + timedelta(days=days)
    world.store.put_object(key=f"{world.vault.bucket}/{key}", data=data, retain_until=until)
    return key


def forge(world: World, like: ManifestBody, *, named: dict[str, Any] | None = None, **changes: Any) -> str:
    """A signed manifest with `changes`, under the key that it tells, or the one of `named`. Returns the key."""
    body = msgspec.structs.replace(like, **changes)
    data = build_manifest(
        body,
        root=None,
        source_facts={"server": "forged", "disk": "1", "backup": "forged"},
        map_key=world.domain_keys.map_key,
        writer_key=world.writer_key,
        salt=hashlib.sha256(repr(changes).encode()).digest()[:16],
        compressor=_COMPRESSOR,
    )
    telling = msgspec.structs.replace(body, **(named or {}))
    name = f"{telling.sequence:020d}-{hashlib.sha256(data).hexdigest()}"
    return put(world, f"t/{telling.tenant}/d/{telling.domain}/m/{telling.source_id}/{name}", data)


def large_pack(world: World, writer: OpenSession) -> None:
    """A pack of the session that has room for a record."""
    world.put_pack(writer)
    writer.packs.append(world._put(writer, ObjectKind.PACK, writer.session.pk.bytes * (_RECORD // 16)))


def put_relocation(world: World, *, old: StoredObject, like: ManifestBody, new_pack: bytes | None = None) -> str:
    """A relocation of one block of the pack `old` into a pack of `like`, or into the one named. Returns its key."""
    session, pack = like.sessions[-1], like.packs[-1]
    if new_pack is not None:
        pack = msgspec.structs.replace(pack, sha256=new_pack, size_bytes=100)
    writer = RelocationWriter(
        tenant=like.tenant,
        domain=like.domain,
        map_key=world.domain_keys.map_key,
        random_bytes=lambda size: bytes(size),
        compressor=_COMPRESSOR,
    )
    content = hashlib.sha256(pack.sha256).digest()
    facts = (_RECORD, 1, 0, bytes(12), content)
    writer.add(
        MapEntry(0, bytes.fromhex(old.sha256), session.session_id, 0, *facts),
        MapEntry(0, pack.sha256, session.session_id, 0, *facts),
    )
    data = writer.finish({pack.sha256: pack}, [session])
    return put(world, relocation_key(world, hashlib.sha256(data).hexdigest()), data)


def relocation_key(world: World, sha256: str) -> str:
    tenant, domain = str(world.vault.tenant_id), str(world.domain.pk)
    return object_key(tenant=tenant, domain=domain, kind=ObjectKind.RELOCATION, sha256=sha256)
