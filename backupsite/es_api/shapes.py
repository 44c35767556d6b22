"""Rows as objects of the es grammar. Names of nodes and storages only for those who see them; sizes as it has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.models import Count, F, Q, Sum

from agents.models import Node, Server, Storage
from backups.figures import LIVE_BACKUPS
from backups.models import Backup, TenantFigures
from backupsite.es_api.task_shapes import moment
from definitions.models import Definition
from tenants.models import Person, Tenant

TYPES = {1: "dataset", 2: "file", 3: "vault"}
# 3 was xz there.
COMPRESSIONS = {0: "off", 1: "gzip", 2: "bzip2", 4: "zstd"}
_STATUSES = {"ok": 1, "pending": 2, "restore": 3, "lost": 4}
_NODE_STATUSES = {"maintenance": 1, "online": 2, "offline": 3}
_MIB = 1024**2


def _number(numbers: dict[int, str], word: str) -> int | str | None:
    return next((number for number, known in numbers.items() if known == word), word or None)


def _seen(rows: Any, person: Person, keys: Iterable[Any]) -> dict[Any, str]:
    """Names by key, of those that the person sees."""
    return dict(rows.for_user(person).filter(pk__in={key for key in keys if key}).values_list("pk", "name"))


def _counted(rows: Any, column: str, keys: list[Any], **sums: Any) -> dict[Any, dict[str, Any]]:
    """By key what `sums` say of the rows that carry it."""
    found = rows.filter(**{f"{column}__in": keys}).order_by().values(column).annotate(**sums)
    return {row[column]: row for row in found}


def definitions(rows: list[Definition], *, person: Person, extended: bool) -> list[dict[str, Any]]:
    nodes = _seen(Node.objects, person, (_node_of(one) for one in rows))
    storages = _seen(Storage.objects, person, (one.storage_id for one in rows))
    shown = [_definition(one, nodes, storages) for one in rows]
    if extended:
        kept = Backup.objects.in_catalogue().for_user(person)
        counts = _counted(kept, "definition", [one.pk for one in rows], number=Count("pk"))
        for row, one in zip(shown, rows, strict=True):
            row["backups"] = counts.get(one.pk, {}).get("number", 0)
    return shown


def _node_of(definition: Definition) -> Any:
    """Where its backups lie; for a vault, which node moves them."""
    return definition.backup_node_id or definition.disk.server.node_id


def _definition(one: Definition, nodes: dict[Any, str], storages: dict[Any, str]) -> dict[str, Any]:
    return {
        "hostname": one.disk.server.name,
        "vm_uuid": str(one.disk.server_id),
        "dc": one.tenant.name,
        "name": one.name,
        "disk_id": one.disk.number,
        "type": _number(TYPES, one.type),
        "node": nodes.get(_node_of(one)),
        "zpool": storages.get(one.storage_id),
        "desc": one.description,
        "bwlimit": one.bandwidth_limit,
        "active": one.active,
        "schedule": one.cron,
        "retention": one.retention_count,
        "compression": _number(COMPRESSIONS, one.compression),
        "fsfreeze": one.freeze_filesystem,
        "time_zone": one.time_zone,
    }


def backups(rows: list[Backup], *, person: Person, extended: bool, with_dc: bool = False) -> list[dict[str, Any]]:
    nodes = _seen(Node.objects, person, (one.node_id for one in rows))
    storages = _seen(Storage.objects, person, (one.storage_id for one in rows))
    servers = _seen(Server.objects, person, (one.server_id for one in rows))
    shown = []
    for one in rows:
        row = _backup(one, nodes, storages, servers)
        if with_dc:
            row["dc"] = one.tenant.name
        shown.append({**row, **_beyond(one)} if extended else row)
    return shown


def _backup(one: Backup, nodes: dict[Any, str], storages: dict[Any, str], servers: dict[Any, str]) -> dict[str, Any]:
    return {
        "hostname": one.server_name,
        "vm_uuid": str(one.server_id) if one.server_id in servers else None,
        "vm": servers.get(one.server_id),
        "define": one.definition.name if one.definition else None,
        "name": one.name,
        "disk_id": one.disk_number,
        "type": _number(TYPES, one.type),
        "node": nodes.get(one.node_id),
        "zpool": storages.get(one.storage_id),
        "created": moment(one.created_at),
        "status": _STATUSES[one.status],
        "size": one.stored_bytes,
        "time": one.duration_seconds,
        "file_path": one.place or None,
        "note": one.note,
    }


def _beyond(one: Backup) -> dict[str, Any]:
    """What that grammar has no word for."""
    return {
        "fsfreeze": one.frozen,
        "checksum": one.checksum,
        "health": one.health,
        "verified": moment(one.verified_at),
        "immutable_until": moment(one.immutable_until),
        "disk_size": one.size_bytes,
    }


def servers(rows: list[Server], *, person: Person, extended: bool) -> list[dict[str, Any]]:
    keys = [one.pk for one in rows]
    nodes = _seen(Node.objects, person, (one.node_id for one in rows))
    sizes = _counted(Server.objects.for_user(person), "pk", keys, size=Sum("disks__size_bytes"))
    shown = [_server(one, nodes, sizes.get(one.pk, {}).get("size")) for one in rows]
    if extended:
        for row in shown:
            row.update(dict.fromkeys(("backup_define_active", "backup_define_inactive", "backups", "size_backups"), 0))
        _add_counts(dict(zip(keys, shown, strict=True)), person)
    return shown


def _add_counts(shown: dict[Any, dict[str, Any]], person: Person) -> None:
    kept = Backup.objects.in_catalogue().for_user(person)
    found = _counted(kept, "server", list(shown), number=Count("pk"), size=Sum("stored_bytes"))
    for key, row in found.items():
        shown[key].update(backups=row["number"], size_backups=_mib(row["size"] or 0))
    wanted = Definition.objects.for_user(person)
    by = {"on": Count("pk", filter=Q(active=True)), "off": Count("pk", filter=Q(active=False))}
    for key, row in _counted(wanted, "disk__server", list(shown), **by).items():
        shown[key].update(backup_define_active=row["on"], backup_define_inactive=row["off"])


def _server(one: Server, nodes: dict[Any, str], size_bytes: int | None) -> dict[str, Any]:
    node = nodes.get(one.node_id)
    return {
        "hostname": one.name,
        "uuid": str(one.pk),
        "alias": one.name,
        "dc": one.tenant.name,
        "node": node,
        "owner": None,
        # Whether it runs is its hypervisor's to say.
        "status": "unknown",
        "node_status": one.node.status if one.node and node else None,
        "vcpus": None,
        "ram": None,
        "disk": _mib(size_bytes),
        "ips": [],
        "uptime": None,
        "locked": False,
    }


def nodes(rows: list[Node], *, person: Person, extended: bool) -> list[dict[str, Any]]:
    shown = [_node(one) for one in rows]
    if extended:
        keys = [one.pk for one in rows]
        vms = _counted(Server.objects.for_user(person), "node", keys, number=Count("pk"))
        kept = _counted(Backup.objects.in_catalogue().for_user(person), "node", keys, number=Count("pk"))
        for row, one in zip(shown, rows, strict=True):
            row["vms"] = vms.get(one.pk, {}).get("number", 0)
            row["backups"] = kept.get(one.pk, {}).get("number", 0)
    return shown


def _node(one: Node) -> dict[str, Any]:
    return {
        "hostname": one.name,
        "uuid": str(one.pk),
        "address": None,
        "status": _NODE_STATUSES[one.status],
        "node_status": one.status,
        "owner": None,
        "is_head": False,
        "is_compute": True,
        "is_backup": one.is_backup,
        "cpu": None,
        "ram": None,
        "cpu_free": None,
        "ram_free": None,
        "region": one.region_id,
    }


def storages(rows: list[Storage], *, person: Person, extended: bool) -> list[dict[str, Any]]:
    shown = [_storage(one) for one in rows]
    if extended:
        kept = Backup.objects.in_catalogue().for_user(person)
        by = {"number": Count("pk"), "size": Sum("stored_bytes")}
        found = _counted(kept, "storage", [one.pk for one in rows], **by)
        for row, one in zip(shown, rows, strict=True):
            counted = found.get(one.pk, {})
            row.update(backups=counted.get("number", 0), size_backups=_mib(counted.get("size") or 0))
    return shown


def _storage(one: Storage) -> dict[str, Any]:
    return {
        "node": one.node.name,
        "zpool": one.name,
        "alias": one.name,
        "type": 1,
        "size": _mib(one.total_bytes),
        "size_free": _mib(one.free_bytes),
        "created": moment(one.created_at),
        "desc": one.problem,
    }


def dcs(rows: list[Tenant], *, person: Person, extended: bool) -> list[dict[str, Any]]:
    shown = [_dc(one) for one in rows]
    if extended:
        keys = [one.pk for one in rows]
        attached = Node.tenants.through.objects.filter(node__in=Node.objects.for_user(person))
        nodes_of = _counted(attached, "tenant", keys, number=Count("pk"))
        vms = _counted(Server.objects.for_user(person), "tenant", keys, number=Count("pk"))
        kept = _kept_of_tenants(keys, person)
        for row, one in zip(shown, rows, strict=True):
            counted = kept.get(one.pk, {})
            row["nodes"] = nodes_of.get(one.pk, {}).get("number", 0)
            row["vms"] = vms.get(one.pk, {}).get("number", 0)
            row.update(backups=counted.get("number", 0), size_backups=_mib(counted.get("size") or 0))
            row["counted"] = moment(counted.get("counted_at"))
    return shown


def _kept_of_tenants(keys: list[Any], person: Person) -> dict[Any, dict[str, Any]]:
    """Backups and their bytes: now; of large tenants that the person administers as they were counted last."""
    figures = TenantFigures.objects.filter(tenant__in=keys, backup_count__gt=LIVE_BACKUPS)
    seen = figures.filter(tenant__in=Tenant.objects.for_user(person).order_by().values("pk"))
    columns = {"number": F("backup_count"), "size": F("backup_bytes")}
    large = {row["tenant_id"]: row for row in seen.values("tenant_id", "counted_at", **columns)}
    rest = [key for key in keys if key not in large]
    by = {"number": Count("pk"), "size": Sum("stored_bytes")}
    return large | _counted(Backup.objects.in_catalogue().for_user(person), "tenant", rest, **by)


def _dc(one: Tenant) -> dict[str, Any]:
    return {
        "name": one.name,
        "alias": one.title,
        "site": None,
        "owner": None,
        # Private: seen by its own people only.
        "access": 3,
        "desc": "",
        "created": moment(one.created_at),
        "status": one.status,
    }


def _mib(size_bytes: int | None) -> int | None:
    return None if size_bytes is None else round(size_bytes / _MIB)
