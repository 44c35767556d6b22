"""Keys of tenants and domains. Private halves are wrapped by the service's master key, or not here at all."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from common.models import IdentifiedModel
from tenants.models import Tenant
from tenants.querysets import ScopedQuerySet
from vaults.models.places import Vault


class TenantKeyQuerySet(ScopedQuerySet):
    tenant_path = "tenant"


class TenantKey(IdentifiedModel):
    """A root key pair of the tenant (X25519): data keys are wrapped to its public half.

    In managed mode the private half is here, wrapped; in customer mode the service never sees it. A tenant has one
    active key; after a rotation the earlier ones stay until no envelope is made for them.
    """

    class Mode(models.TextChoices):
        MANAGED = "managed", "kept by the service"
        CUSTOMER = "customer", "kept by the customer"

    class Status(models.TextChoices):
        UNTESTED = "untested", "waits for its test"
        ACTIVE = "active", "in use"
        RETIRED = "retired", "replaced"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="keys")
    mode = models.CharField(max_length=8, choices=Mode, default=Mode.MANAGED)
    status = models.CharField(max_length=8, choices=Status, default=Status.ACTIVE)
    public_key = models.BinaryField()
    wrapped_private_key = models.BinaryField(null=True, blank=True)
    # The recovery key is shown once, and tested once by the person who printed it.
    shown_at = models.DateTimeField(null=True, blank=True)
    tested_at = models.DateTimeField(null=True, blank=True)
    # SHA-256 of the answer that the pending test expects.
    test_digest = models.CharField(max_length=64, blank=True)

    objects = TenantKeyQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant"], condition=Q(status="active"), name="tenant_key_one_active"),
            models.CheckConstraint(
                condition=Q(mode="managed", wrapped_private_key__isnull=False)
                | Q(mode="customer", wrapped_private_key__isnull=True),
                name="tenant_key_private_half_by_mode",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["untested", "active", "retired"]), name="tenant_key_status_known"
            ),
        ]

    def __str__(self) -> str:
        return f"key of {self.tenant_id}"


class CatalogueKey(IdentifiedModel):
    """The tenant's signing key (Ed25519) for domain descriptions; its fingerprint is part of the recovery key."""

    tenant = models.OneToOneField(Tenant, on_delete=models.PROTECT, related_name="catalogue_key")
    public_key = models.BinaryField()
    wrapped_private_key = models.BinaryField()

    def __str__(self) -> str:
        return f"catalogue key of {self.tenant_id}"


class Domain(IdentifiedModel):
    """A dedup domain: one server's data in one vault. Its keys are wrapped by the service's master key."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="domains")
    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="domains")
    wrapped_id_key = models.BinaryField()
    wrapped_map_key = models.BinaryField()
    # The tenant that the server and its backups were moved to. What is in here is that tenant's then, and counted as
    # its own; keys and vault stay with `tenant`, and nothing new is written.
    held_for = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="domains_elsewhere"
    )

    def __str__(self) -> str:
        return f"domain {self.id}"
