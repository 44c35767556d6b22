"""The second wall, on PostgreSQL: links that lead to another tenant cannot be stored, whatever a service does.

Composite foreign keys over (key, tenant), beside Django's own. They are looked at when the transaction ends, so that a
server can be moved with all that belongs to it. SQLite gets none: it would have to look after every statement, or keep
them in table definitions that Django writes anew with each change.
"""

from __future__ import annotations

from typing import Any

from django.db import migrations

# table -> what it is referred to by, beside its key.
_UNIQUE = {
    "vaults_vault": "tenant_id",
    "vaults_domain": "tenant_id",
    "agents_server": "tenant_id",
    "agents_disk": "tenant_id",
    "definitions_definition": "tenant_id",
}
# Of a domain also its vault: a stored object lies in the vault of its domain.
_UNIQUE_VAULT = "vaults_domain"
# (table, its link, the table that it leads to); the tenant is `tenant_id` in both.
_LINKS = (
    ("vaults_domain", "vault_id", "vaults_vault"),
    ("agents_server", "domain_id", "vaults_domain"),
    ("agents_disk", "server_id", "agents_server"),
    ("definitions_definition", "disk_id", "agents_disk"),
    ("definitions_definition", "vault_id", "vaults_vault"),
    ("backups_backup", "server_id", "agents_server"),
    ("backups_backup", "disk_id", "agents_disk"),
    ("backups_backup", "definition_id", "definitions_definition"),
    ("backups_job", "disk_id", "agents_disk"),
    ("backups_job", "definition_id", "definitions_definition"),
)
# A backup that was moved with its server stays in the vault of the former tenant, in a domain that is held for the new
# one. No foreign key can say that.
_FUNCTION = """
CREATE FUNCTION backup_vault_of_tenant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM vaults_vault WHERE id = NEW.vault_id AND tenant_id = NEW.tenant_id;
    IF FOUND THEN RETURN NULL; END IF;
    PERFORM 1 FROM vaults_domain WHERE vault_id = NEW.vault_id AND held_for_id = NEW.tenant_id;
    IF FOUND THEN RETURN NULL; END IF;
    -- What is looked at is the row as it was written; a later statement of the transaction may have removed it.
    PERFORM 1 FROM backups_backup WHERE id = NEW.id AND vault_id = NEW.vault_id AND tenant_id = NEW.tenant_id;
    IF NOT FOUND THEN RETURN NULL; END IF;
    RAISE EXCEPTION 'backup % is in a vault of another tenant', NEW.id
        USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'backup_vault_of_tenant';
END $$
"""
_TRIGGER = """
CREATE CONSTRAINT TRIGGER backup_vault_of_tenant AFTER INSERT OR UPDATE OF vault_id, tenant_id ON backups_backup
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION backup_vault_of_tenant()
"""


def _name(table: str, column: str) -> str:
    return f"wall_{table.split('_')[1]}_{column.removesuffix('_id')}"


def _forwards(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    for table, column in [*_UNIQUE.items(), (_UNIQUE_VAULT, "vault_id")]:
        schema_editor.execute(f"ALTER TABLE {table} ADD CONSTRAINT {_name(table, column)}_key UNIQUE (id, {column})")
    for table, link, other in _LINKS:
        schema_editor.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT {_name(table, link)} FOREIGN KEY ({link}, tenant_id) "
            f"REFERENCES {other} (id, tenant_id) DEFERRABLE INITIALLY DEFERRED"
        )
    schema_editor.execute(
        "ALTER TABLE vaults_storedobject ADD CONSTRAINT wall_storedobject_domain FOREIGN KEY (domain_id, vault_id) "
        "REFERENCES vaults_domain (id, vault_id) DEFERRABLE INITIALLY DEFERRED"
    )
    # Without parameters: a percent sign stays one.
    schema_editor.execute(_FUNCTION, params=None)
    schema_editor.execute(_TRIGGER)


def _backwards(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    schema_editor.execute("DROP TRIGGER backup_vault_of_tenant ON backups_backup")
    schema_editor.execute("DROP FUNCTION backup_vault_of_tenant")
    schema_editor.execute("ALTER TABLE vaults_storedobject DROP CONSTRAINT wall_storedobject_domain")
    for table, link, _ in _LINKS:
        schema_editor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {_name(table, link)}")
    for table, column in [*_UNIQUE.items(), (_UNIQUE_VAULT, "vault_id")]:
        schema_editor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {_name(table, column)}_key")


class Migration(migrations.Migration):
    dependencies = [("backups", "0001_tables")]

    operations = [migrations.RunPython(_forwards, _backwards)]
