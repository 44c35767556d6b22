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

    Rows with counted keys get the same ones only where the counters are as they were when the first was made: SQLite's
    roll back with the rows (if they did not, the world is made anew), PostgreSQL's are set back.
    """

    def __init__(self) -> None:
        self._world: World | None = None
        self._statements: list[Statement] = []
        self._before: Any = None

    def play(self) -> World:
        if self._world is None:
            self._before = _counters()
            with connection.execute_wrapper(self._note):
                self._world = make_world()
        elif _set_back(self._before):
            self._write()
        else:
            return make_world()
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


def _counters() -> list[tuple[str, int | None]]:
    """The last counted key of each table; None where none was counted yet."""
    known = {
        "sqlite": "SELECT name, seq FROM sqlite_sequence ORDER BY name",
        "postgresql": "SELECT sequencename, last_value FROM pg_sequences ORDER BY sequencename",
    }
    with connection.cursor() as cursor:
        cursor.execute(known[connection.vendor])
        return list(cursor.fetchall())


def _set_back(counters: list[tuple[str, int | None]]) -> bool:
    """Whether the counters are as they were."""
    if connection.vendor != "postgresql":
        return _counters() == counters
    with connection.cursor() as cursor:
        for name, last in counters:
            cursor.execute("SELECT setval(%s, %s, %s)", [f'"{name}"', last or 1, last is not None])
    return True
