"""The addresses of the es grammar below `/api/`. Its clients send a slash at the end, or none."""

from __future__ import annotations

from django.urls import URLPattern, include, re_path

from backupsite.es_api.backups import VmBackup, VmBackups
from backupsite.es_api.base import EsView
from backupsite.es_api.definitions import AllDefinitions, VmDefinition, VmDefinitions
from backupsite.es_api.reading import (
    Dc,
    DcList,
    NodeBackups,
    NodeDefinitions,
    NodeList,
    NodeShown,
    StorageComparison,
    StorageList,
    StorageShown,
    Vm,
    VmList,
)
from backupsite.es_api.tasks import Task, TaskCancel, TaskDone, TaskList, TaskLog, TaskLogStats, TaskStatus

_TASK = "(?P<task>[^/]+)"


def _path(address: str, view: type[EsView], name: str) -> URLPattern:
    return re_path(f"^{address}/?$", view.as_view(), name=name)


# Also below /dc/<dc>/, which is another way to say -dc.
_OF_SERVERS = [
    _path("vm", VmList, "vms"),
    _path("vm/define/backup", AllDefinitions, "definitions"),
    _path("vm/(?P<vm>[^/]+)", Vm, "vm"),
    _path("vm/(?P<vm>[^/]+)/define/backup", VmDefinitions, "vm-definitions"),
    _path("vm/(?P<vm>[^/]+)/define/backup/(?P<definition>[^/]+)", VmDefinition, "vm-definition"),
    _path("vm/(?P<vm>[^/]+)/backup", VmBackups, "vm-backups"),
    _path("vm/(?P<vm>[^/]+)/backup/(?P<name>[^/]+)", VmBackup, "vm-backup"),
]
app_name = "es_api"
urlpatterns = [
    *_OF_SERVERS,
    re_path(r"^dc/(?P<dc>[^/]+)/", include((_OF_SERVERS, "in_dc"))),
    _path("dc", DcList, "dcs"),
    _path("dc/(?P<name>[^/]+)", Dc, "dc"),
    _path("node", NodeList, "nodes"),
    _path("node/(?P<node>[^/]+)", NodeShown, "node"),
    _path("node/(?P<node>[^/]+)/define/backup", NodeDefinitions, "node-definitions"),
    _path("node/(?P<node>[^/]+)/backup", NodeBackups, "node-backups"),
    _path("node/(?P<node>[^/]+)/storage", StorageList, "storages"),
    _path("node/(?P<node>[^/]+)/storage/(?P<zpool>[^/]+)", StorageShown, "storage"),
    _path("node/(?P<node>[^/]+)/storage/(?P<zpool>[^/]+)/snapshot", StorageComparison, "storage-comparison"),
    _path("task", TaskList, "tasks"),
    _path("task/log", TaskLog, "task-log"),
    _path("task/log/stats", TaskLogStats, "task-log-stats"),
    _path(f"task/{_TASK}", Task, "task"),
    _path(f"task/{_TASK}/status", TaskStatus, "task-status"),
    _path(f"task/{_TASK}/done", TaskDone, "task-done"),
    _path(f"task/{_TASK}/cancel", TaskCancel, "task-cancel"),
]
