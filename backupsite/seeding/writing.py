"""Many rows at once: COPY on PostgreSQL, plain inserts elsewhere. No signals, no `save`, constraints as ever."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, time
from itertools import islice
from typing import Any
from uuid import UUID

from django.core.management.color import no_style
from django.db import connection, models, transaction

ROWS_AT_ONCE = 50_000
Row = Mapping[str, Any]


@contextmanager
def references_unchecked() -> Iterator[None]:
    """On PostgreSQL, for a superuser: foreign keys are not looked up row by row, which is most of the time it takes.

    What is made up refers rightly by construction; its test has SQLite check all of it.
    """
    with connection.cursor() as cursor:
        allowed = connection.vendor == "postgresql" and _value(cursor, "SHOW is_superuser") == "on"
        if allowed:
            cursor.execute("SET session_replication_role = replica")
    yield
    if allowed:
        with connection.cursor() as cursor:
            cursor.execute("SET session_replication_role = DEFAULT")


def _value(cursor: Any, sql: str) -> Any:
    cursor.execute(sql)
    return cursor.fetchone()[0]


class Table:
    """Where rows of a model go. A row names its columns (`tenant_id`, not `tenant`); the others get their defaults."""

    def __init__(self, model: type[models.Model], *, now: datetime, with_keys: bool = False) -> None:
        """`with_keys`: the rows bring their numbers; otherwise the database counts."""
        fields = [
            field for field in model._meta.concrete_fields if with_keys or not isinstance(field, models.AutoField)
        ]
        self._model = model
        self._columns = [field.attname for field in fields]
        self._quoted = ", ".join(connection.ops.quote_name(field.column) for field in fields)
        self._json = frozenset(field.attname for field in fields if isinstance(field, models.JSONField))
        self._defaults = {field.attname: _default(field, now) for field in fields}

    def write(self, rows: Iterable[Row]) -> int:
        """Returns how many. Each lot is a transaction of its own."""
        count, lines = 0, self._lines(rows)
        while lot := list(islice(lines, ROWS_AT_ONCE)):
            with transaction.atomic():
                self._write_lot(lot)
            count += len(lot)
        return count

    def count_on(self) -> None:
        """Let the database go on counting behind the numbers that were brought."""
        with connection.cursor() as cursor:
            for statement in connection.ops.sequence_reset_sql(no_style(), [self._model]):
                cursor.execute(statement)

    def _lines(self, rows: Iterable[Row]) -> Iterator[list[Any]]:
        plain: Callable[[Any], Any] = (lambda value: value) if connection.vendor == "postgresql" else _for_sqlite
        for row in rows:
            values = {**self._defaults, **row}
            for name in self._json & row.keys():
                values[name] = json.dumps(row[name])
            if len(values) != len(self._columns):
                raise KeyError(f"{self._model.__name__} has no {set(values) - set(self._columns)}")
            yield [plain(values[name]) for name in self._columns]

    def _write_lot(self, lot: list[list[Any]]) -> None:
        table = connection.ops.quote_name(self._model._meta.db_table)
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                with cursor.copy(f"COPY {table} ({self._quoted}) FROM STDIN") as copy:
                    for line in lot:
                        copy.write_row(line)
                return
            marks = ", ".join(["%s"] * len(self._columns))
            # Names come from the models, values go by parameters.
            cursor.executemany(f"INSERT INTO {table} ({self._quoted}) VALUES ({marks})", lot)  # noqa: S608  # names of tables and columns of our own


def _default(field: models.Field[Any, Any], now: datetime) -> Any:
    if getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False):
        return now
    if field.primary_key and not field.is_relation:
        return None
    value = field.get_default()
    if isinstance(field, models.JSONField) and value is not None:
        return json.dumps(value)
    return str(value) if isinstance(value, str) else value


def _for_sqlite(value: Any) -> Any:
    """As Django itself stores it there."""
    if isinstance(value, UUID):
        return value.hex
    if isinstance(value, time):
        return str(value)
    if isinstance(value, datetime):
        return str(value.astimezone(UTC).replace(tzinfo=None))
    return value
