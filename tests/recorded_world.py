"""The world, made once for a module and written again for each of its tests, which takes far less time."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from django.db import connection

from tests.worlds import World, make_world

Statement = tuple[str, Any]


class RecordedWorld:
    """Its first world is made as ever, while what it writes is noted; the next ones write the same rows.

    Rows with counted keys get the same ones only in a database whose counters roll back with the rows, and that holds
    as much as it did when the first was made; otherwise each world is made anew.
    """

    def __init__(self) -> None:
        self._world: World | None = None
        self._statements: list[Statement] = []
        self._before: Any = None

    def play(self) -> World:
        if connection.vendor != "sqlite":
            return make_world()
        before = _counters()
        if self._world is None:
            self._before = before
            with connection.execute_wrapper(self._note):
                self._world = make_world()
        elif before != self._before:
            return make_world()
        else:
            self._write()
        return deepcopy(self._world)

    def _note(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        assert not many, "the recording knows no statement with many rows of values"
        if sql.startswith(("INSERT", "UPDATE", "DELETE")):
            self._statements.append((sql, params))
        return execute(sql, params, many, context)

    def _write(self) -> None:
        with connection.cursor() as cursor:
            for sql, params in self._statements:
                cursor.execute(sql, params)


def _counters() -> list[tuple[str, int]]:
    """The last counted key of each table."""
    with connection.cursor() as cursor:
        return list(cursor.execute("SELECT name, seq FROM sqlite_sequence ORDER BY name").fetchall())
