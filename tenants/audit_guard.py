"""The database's own refusal to change or remove audit records: triggers, for SQLite and PostgreSQL.

They hold against mistakes and against a way in that can only send statements. Who may alter tables can drop them;
against him there is the chain, and its head outside of the database.
"""

from __future__ import annotations

from typing import Any

TABLE = "tenants_auditevent"
CONTENT_COLUMNS = (
    "id, at, tenant_id, tenant_name, actor_kind, actor_id, actor_name, address, token_id, request_id, action, "
    "subject_type, subject_id, subject_name, before, after, outcome"
)
SEAL_COLUMNS = "sequence, previous_hash, hash"
NAMES = ("audit_no_delete", "audit_no_change", "audit_sealed_once")
_MESSAGE = "audit records are never changed or removed"


def create_statements(vendor: str) -> list[str]:
    """What makes the triggers, for one kind of database. May be run when they are there already."""
    return _postgresql() if vendor == "postgresql" else _sqlite()


def drop_statements(vendor: str) -> list[str]:
    names = [*NAMES, "audit_no_truncate"] if vendor == "postgresql" else list(NAMES)
    where = f" ON {TABLE}" if vendor == "postgresql" else ""
    return [f"DROP TRIGGER IF EXISTS {name}{where}" for name in names]


def _sqlite() -> list[str]:
    body = f"BEGIN SELECT RAISE(ABORT, '{_MESSAGE}'); END"
    columns = ", ".join(f'"{name}"' for name in CONTENT_COLUMNS.split(", "))
    return [
        f"CREATE TRIGGER IF NOT EXISTS audit_no_delete BEFORE DELETE ON {TABLE} {body}",
        f"CREATE TRIGGER IF NOT EXISTS audit_no_change BEFORE UPDATE OF {columns} ON {TABLE} {body}",
        f"CREATE TRIGGER IF NOT EXISTS audit_sealed_once BEFORE UPDATE OF {SEAL_COLUMNS} ON {TABLE} "
        f"WHEN OLD.sequence IS NOT NULL {body}",
    ]


def _postgresql() -> list[str]:
    columns = ", ".join(f'"{name}"' for name in CONTENT_COLUMNS.split(", "))
    refuse = "EXECUTE FUNCTION audit_refuse()"
    return [
        "CREATE OR REPLACE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_MESSAGE}' USING ERRCODE = 'integrity_constraint_violation'; END $$",
        f"CREATE OR REPLACE TRIGGER audit_no_delete BEFORE DELETE ON {TABLE} FOR EACH ROW {refuse}",
        f"CREATE OR REPLACE TRIGGER audit_no_truncate BEFORE TRUNCATE ON {TABLE} FOR EACH STATEMENT {refuse}",
        f"CREATE OR REPLACE TRIGGER audit_no_change BEFORE UPDATE OF {columns} ON {TABLE} FOR EACH ROW {refuse}",
        f"CREATE OR REPLACE TRIGGER audit_sealed_once BEFORE UPDATE OF {SEAL_COLUMNS} ON {TABLE} FOR EACH ROW "
        f"WHEN (OLD.sequence IS NOT NULL) {refuse}",
    ]


def install(connection: Any) -> None:
    """Make the triggers; may run any number of times (SQLite loses them when a migration makes the table anew)."""
    with connection.cursor() as cursor:
        for statement in create_statements(connection.vendor):
            cursor.execute(statement)


def missing(connection: Any) -> list[str]:
    """The names of triggers that are not there."""
    catalogue = (
        "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND tgenabled <> 'D'"
        if connection.vendor == "postgresql"
        else "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s"
    )
    with connection.cursor() as cursor:
        cursor.execute(catalogue, [TABLE])
        present = {row[0] for row in cursor.fetchall()}
    return [name for name in NAMES if name not in present]
