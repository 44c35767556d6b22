"""Backups and jobs of the made-up fleet, night by night, as they come: neighbours in time, not of a tenant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from backups.models import Backup, Job, JobEvent
from backupsite.seeding.places import Places, SeededServer
from backupsite.seeding.shape import Shape, id_at, slot_of
from backupsite.seeding.writing import Table
from vaults.models import StoredObject

MIB = 1024**2
MANIFEST_BYTES = 4096
# Of a thousand: jobs that failed, restores beside the backups, backups that are lost or damaged.
FAILED, RESTORES, LOST, DAMAGED = 20, 5, 3, 2
# Of a thousand backups so many were checked by a job of its own.
CHECKED = 10


@dataclass(frozen=True, slots=True)
class SeededBackup:
    id: UUID
    job: UUID
    server: SeededServer
    at: datetime
    number: int
    sequence: int


def write_work(shape: Shape, random: Random, places: Places) -> None:
    order = sorted(range(len(places.servers)), key=lambda index: places.servers[index].offset)
    tables = {
        model: Table(model, now=shape.at, with_keys=model is StoredObject) for model in (StoredObject, Backup, Job)
    }
    events, count = Table(JobEvent, now=shape.at), 0
    for night in range(shape.rounds):
        chosen = order[: shape.backups - count]
        lot = [
            _backup(shape, random, places.servers[index], night, count + place) for place, index in enumerate(chosen)
        ]
        tables[StoredObject].write(_manifest(places, backup) for backup in lot if not backup.server.copies)
        tables[Backup].write(_backup_row(places, backup, random, oldest=night == 0) for backup in lot)
        jobs = [row for backup in lot for row in _jobs(places, backup, random)]
        tables[Job].write(jobs)
        events.write({"job_id": row["id"], "at": row["created_at"], "code": "requested"} for row in jobs)
        count += len(lot)
    tables[StoredObject].count_on()
    Table(Job, now=shape.at).write(_active_jobs(shape, random, places))


def _backup(shape: Shape, random: Random, server: SeededServer, night: int, number: int) -> SeededBackup:
    at = slot_of(shape, night, server.offset)
    return SeededBackup(id_at(at, random), id_at(at, random), server, at, number + 1, night + 1)


def _manifest(places: Places, backup: SeededBackup) -> dict[str, Any]:
    tenant = backup.server.tenant
    digest = f"{backup.number:064x}"
    key = f"t/{places.tenants[tenant]}/d/{backup.server.domain}/m/{digest}"
    return {
        "id": backup.number,
        "vault_id": places.vaults[tenant],
        "domain_id": backup.server.domain,
        "session_id": backup.job,
        "kind": "m",
        "key": key,
        "size_bytes": MANIFEST_BYTES,
        "sha256": digest,
        "md5_base64": "seeded",
        "status": "stored",
        "version_id": "1",
        "retain_until": backup.at + timedelta(days=26),
        "granted_at": backup.at,
    }


def _backup_row(places: Places, backup: SeededBackup, random: Random, *, oldest: bool) -> dict[str, Any]:
    server, chance = backup.server, random.randrange(1000)
    seconds, stored = random.randrange(20, 4000), random.randrange(1, 20_000) * MIB
    damaged = LOST <= chance < LOST + DAMAGED
    return {
        "id": backup.id,
        "created_at": backup.at,
        "changed_at": backup.at,
        "tenant_id": places.tenants[server.tenant],
        "server_id": server.id,
        "disk_id": server.disk,
        "definition_id": server.definition,
        "node_id": server.node,
        "name": f"daily-{backup.at:%Y%m%d_%H%M%S}",
        "server_name": server.name,
        "disk_number": 1,
        "status": "lost" if chance < LOST else "ok",
        "slot_at": backup.at if server.definition else None,
        "finished_at": backup.at + timedelta(seconds=seconds),
        "duration_seconds": seconds,
        "size_bytes": server.size_bytes,
        "read_bytes": server.size_bytes // 20,
        "changed_bytes": stored,
        "stored_bytes": stored,
        "sequence": backup.sequence,
        **_where(places, backup),
        "health": "damaged" if damaged else "verified" if chance % 4 == 0 else "unverified",
        "damaged_bytes": 65536 if damaged else 0,
        "damage": [[1024**3, 65536]] if damaged else [],
        "verified_at": backup.at + timedelta(days=1) if chance % 4 == 0 or damaged else None,
        # Of all that it needs only the manifest has a row here.
        "unique_bytes": MANIFEST_BYTES,
        # Of the oldest night retention took some.
        "removed_at": backup.at + timedelta(days=9) if oldest and chance % 2 else None,
    }


def _where(places: Places, backup: SeededBackup) -> dict[str, Any]:
    server = backup.server
    if server.copies:
        place = f"backups/{backup.server.name}-{backup.number}.img"
        return {"type": "file", "storage_id": server.copies, "place": place, "sha256": f"{backup.number:064x}"}
    content = {} if server.node else {"content": "tree", "counts": {"files": 100_000, "directories": 9_000}}
    locked = {"manifest_id": backup.number, "immutable_until": backup.at + timedelta(days=14)}
    return {"vault_id": places.vaults[server.tenant], **locked, **content}


def _jobs(places: Places, backup: SeededBackup, random: Random) -> Iterator[dict[str, Any]]:
    server, at = backup.server, backup.at
    done = {"started_at": at, "finished_at": at + timedelta(minutes=5), "created_at": at, "changed_at": at}
    common = {
        "tenant_id": places.tenants[server.tenant],
        "disk_id": server.disk,
        "node_id": server.node,
        "definition_id": server.definition,
        "backup_name": f"daily-{at:%Y%m%d_%H%M%S}",
        **done,
    }
    slot = {"slot_at": at if server.definition else None}
    yield {**common, **slot, "id": backup.job, "kind": "backup", "state": "ok", "backup_id": backup.id}
    chance = random.randrange(1000)
    if chance < FAILED:
        trouble = {"code": "vault_unreachable", "message": "The vault did not answer."}
        yield {**common, "id": id_at(at, random), "kind": "backup", "state": "failed", **trouble}
    elif chance < FAILED + RESTORES:
        later = at + timedelta(hours=9)
        times = dict.fromkeys(("created_at", "changed_at", "started_at", "finished_at"), later)
        yield {**common, **times, "id": id_at(later, random), "kind": "restore", "state": "ok", "backup_id": backup.id}
    elif chance < FAILED + RESTORES + CHECKED:
        later = at + timedelta(hours=12)
        times = dict.fromkeys(("created_at", "changed_at", "started_at", "finished_at"), later)
        yield {**common, **times, "id": id_at(later, random), "kind": "verify", "state": "ok", "backup_id": backup.id}


def _active_jobs(shape: Shape, random: Random, places: Places) -> Iterator[dict[str, Any]]:
    """One server in two hundred is at work, half of them wait."""
    for number, server in enumerate(places.servers[:: min(200, len(places.servers))]):
        runs = number % 2 == 0
        lease = {"lease_until": shape.at + timedelta(days=3650), "started_at": shape.at, "fence": 1} if runs else {}
        yield {
            "id": id_at(shape.at, random),
            "kind": "backup",
            "state": "running" if runs else "pending",
            "tenant_id": places.tenants[server.tenant],
            "disk_id": server.disk,
            "node_id": server.node,
            "definition_id": server.definition,
            "backup_name": f"daily-{shape.at:%Y%m%d_%H%M%S}",
            "total_bytes": server.size_bytes,
            "phase": "copying" if runs else "",
            "done_bytes": server.size_bytes // 3 if runs else 0,
            **lease,
        }
