"""The audit: what was done, by whom, from where. Rows are written once; what seals them is a chain of hashes.

A row is inserted in the transaction of the write that it tells of, without a number. Right after that transaction the
chain is continued over it (`tenants.audit_chain`): number, hash before, own hash. The database itself refuses every
other update and every delete (`tenants.audit_guard`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn
from uuid import UUID

from django.db import connection, models
from django.db.models import Q

from common.errors import ConflictError
from common.ids import new_id
from tenants.models.core import Tenant
from tenants.querysets import ScopedQuerySet

# What the hash of a row covers, besides its number and the hash before it.
CONTENT = (
    "id",
    "at",
    "tenant_id",
    "tenant_name",
    "actor_kind",
    "actor_id",
    "actor_name",
    "address",
    "token_id",
    "request_id",
    "action",
    "subject_type",
    "subject_id",
    "subject_name",
    "before",
    "after",
    "outcome",
)


class AppendOnlyError(ConflictError):
    """Audit records are never changed or removed."""

    code = "append_only"


def _refuse() -> NoReturn:
    raise AppendOnlyError("Audit records are written once; they are never changed or removed.")


class AuditEventQuerySet(ScopedQuerySet):
    tenant_path = "tenant"

    def update(self, **changes: Any) -> int:
        _refuse()

    def delete(self) -> tuple[int, dict[str, int]]:
        _refuse()

    def bulk_update(self, *arguments: Any, **options: Any) -> int:
        _refuse()

    def unsealed(self) -> AuditEventQuerySet:
        return self.filter(sequence=None)

    def seal(self, *, pk: Any, sequence: int, previous_hash: str, own_hash: str) -> bool:
        """Give the row its place in the chain, once."""
        open_row = self.filter(pk=pk, sequence=None)
        values = {"sequence": sequence, "previous_hash": previous_hash, "hash": own_hash}
        return models.QuerySet.update(open_row, **values) == 1

    def seal_all(self, places: Iterable[tuple[UUID, int, str, str]]) -> None:
        """Give rows (key, number, hash before, own hash) their places in the chain, in one go."""
        key = self.model._meta.pk
        table = connection.ops.quote_name(self.model._meta.db_table)
        with connection.cursor() as cursor:
            cursor.executemany(
                f"UPDATE {table} SET sequence = %s, previous_hash = %s, hash = %s WHERE id = %s AND sequence IS NULL",  # noqa: S608  # the table's own name
                [(number, before, own, key.get_db_prep_value(pk, connection)) for pk, number, before, own in places],
            )


class AuditEvent(models.Model):
    """One thing that was done, or refused. Names stand here as text: they stay when the object goes.

    `tenant` has no constraint in the database: the record outlives the tenant. Of a person only id and user name are
    kept. `before` and `after` hold what changed, never a secret.
    """

    class Outcome(models.TextChoices):
        DONE = "done", "done"
        REFUSED = "refused", "refused"
        FAILED = "failed", "failed"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    at = models.DateTimeField()
    tenant = models.ForeignKey(
        Tenant, null=True, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    tenant_name = models.CharField(max_length=64, blank=True)
    actor_kind = models.CharField(max_length=12)
    actor_id = models.CharField(max_length=64, blank=True)
    actor_name = models.CharField(max_length=200, blank=True)
    address = models.CharField(max_length=45, blank=True)
    token_id = models.CharField(max_length=64, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    action = models.CharField(max_length=64)
    subject_type = models.CharField(max_length=64, blank=True)
    subject_id = models.CharField(max_length=64, blank=True)
    subject_name = models.CharField(max_length=200, blank=True)
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    outcome = models.CharField(max_length=8, choices=Outcome, default=Outcome.DONE)

    sequence = models.BigIntegerField(null=True, unique=True)
    previous_hash = models.CharField(max_length=64, blank=True)
    hash = models.CharField(max_length=64, blank=True)

    objects = AuditEventQuerySet.as_manager()

    class Meta:
        verbose_name = "audit record"
        indexes = [
            models.Index(fields=["id"], condition=Q(sequence=None), name="audit_unsealed"),
            models.Index(fields=["at"], name="audit_by_time"),
            models.Index(fields=["tenant", "id"], name="audit_of_tenant"),
            models.Index(fields=["actor_id", "id"], name="audit_of_actor"),
            models.Index(fields=["subject_id", "id"], name="audit_of_subject"),
            models.Index(fields=["action", "id"], name="audit_of_action"),
            # Every other column that the list can be narrowed by: what is rare is found without reading all of it.
            models.Index(fields=["actor_name", "id"], name="audit_of_actor_name"),
            models.Index(fields=["actor_kind", "id"], name="audit_of_actor_kind"),
            models.Index(fields=["outcome", "id"], name="audit_of_outcome"),
            models.Index(fields=["subject_type", "id"], name="audit_of_subject_type"),
            models.Index(fields=["address", "id"], name="audit_of_address"),
            models.Index(fields=["request_id", "id"], name="audit_of_request"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(sequence=None, hash="") | Q(sequence__gt=0) & ~Q(hash=""), name="audit_sealed_whole"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.subject_name}".strip()

    def save(self, *arguments: Any, **options: Any) -> None:
        if not self._state.adding:
            _refuse()
        super().save(*arguments, **{**options, "force_insert": True})

    def delete(self, *arguments: Any, **options: Any) -> tuple[int, dict[str, int]]:
        _refuse()


class AuditHead(models.Model):
    """The end of the chain: one row, which is locked while the chain is continued."""

    id = models.SmallIntegerField(primary_key=True, default=1, editable=False)
    sequence = models.BigIntegerField(default=0)
    hash = models.CharField(max_length=64, blank=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="audit_head_is_one")]


class AuditCheck(models.Model):
    """What a look over the whole chain found; the newest one is shown to SuperAdmins. `broken_at`: None when whole."""

    at = models.DateTimeField()
    head_sequence = models.BigIntegerField()
    head_hash = models.CharField(max_length=64, blank=True)
    broken_at = models.BigIntegerField(null=True)
    reason = models.CharField(max_length=300, blank=True)


class RefusalBucket(models.Model):
    """Refusals of one kind by one caller within a while: the first is a record at once, the others are counted here."""

    key = models.CharField(max_length=64, unique=True)
    caller = models.CharField(max_length=64, db_index=True)
    opened_at = models.DateTimeField(db_index=True)
    count = models.PositiveIntegerField(default=0)
    facts = models.JSONField(default=dict)
