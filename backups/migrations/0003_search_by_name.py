"""Indexes for a part of a name, as `search=` looks for in backups and jobs. See `agents/0002_search_by_name`."""

from __future__ import annotations

from typing import Any

from django.db import migrations, transaction
from django.db.utils import DatabaseError

COLUMNS = {
    "backup_by_part_of_name": ("backups_backup", "name"),
    "backup_by_part_of_server": ("backups_backup", "server_name"),
    "backup_by_part_of_note": ("backups_backup", "note"),
    "job_by_part_of_name": ("backups_job", "backup_name"),
}


def add_indexes(apps: Any, schema_editor: Any) -> None:
    connection = schema_editor.connection
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        try:
            with transaction.atomic(using=connection.alias):
                cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
        except DatabaseError:
            return
        for name, (table, column) in COLUMNS.items():
            # As Django writes `icontains`.
            cursor.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {table} USING gin (upper({column}) gin_trgm_ops)")


def remove_indexes(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        for name in COLUMNS:
            schema_editor.execute(f"DROP INDEX IF EXISTS {name}")


class Migration(migrations.Migration):
    dependencies = [("backups", "0002_tenant_wall"), ("agents", "0002_search_by_name")]

    operations = [migrations.RunPython(add_indexes, remove_indexes)]
