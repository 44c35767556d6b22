"""What an answer costs of the database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection
from django.utils import timezone

from tenants.sign_in.guard import GUARD
from tenants.sign_in.session_store import SEEN_AT

# Of a page, and of any answer of the API.
MOST_STATEMENTS = 30


@contextmanager
def counted_statements() -> Iterator[list[str]]:
    """Those that are made within, without the savepoints of the tests."""
    statements: list[str] = []

    def count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if not sql.startswith(("SAVEPOINT", "RELEASE", "ROLLBACK")):
            statements.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(count):
        yield statements


def leave_session_alone(client: Any) -> None:
    """Once a minute a session is looked over and written, by whichever request comes first; not in this hour."""
    session = client.session
    session[SEEN_AT] = session[GUARD]["at"] = timezone.now().timestamp() + 3600
    session.save()
