"""An index for a part of a server's name, which is what people type. PostgreSQL has it in an extension of its own.

It is trusted: whoever may create in the database may add it. Where it is not installed, or not allowed, the search
reads all names, as on SQLite; `docs/operations.md` says how to add the index later.
"""

from __future__ import annotations

from typing import Any

from django.db import migrations, transaction
from django.db.utils import DatabaseError

INDEX = "server_by_part_of_name"


def add_index(apps: Any, schema_editor: Any) -> None:
    connection = schema_editor.connection
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        try:
            with transaction.atomic(using=connection.alias):
                cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
        except DatabaseError:
            return
        # As Django writes `icontains`.
        cursor.execute(f"CREATE INDEX IF NOT EXISTS {INDEX} ON agents_server USING gin (upper(name) gin_trgm_ops)")


def remove_index(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(f"DROP INDEX IF EXISTS {INDEX}")


class Migration(migrations.Migration):
    dependencies = [("agents", "0001_tables")]

    operations = [migrations.RunPython(add_index, remove_index)]
