"""Where backups are kept: regions, endpoints, vaults, keys, and the ledger of every object ever granted."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models import F, Q

from common.models import IdentifiedModel
from tenants.models import Tenant
from tenants.querysets import ScopedQuerySet
from vaults.locks import LockRule


class Region(models.Model):
    """A place where servers stand or vaults are."""

    code = models.CharField(max_length=16, primary_key=True)
    title = models.CharField(max_length=100, blank=True)

    def __str__(self) -> str:
        return self.code


class Affinity(models.Model):
    """Where the vaults of a region's servers must be: always somewhere else."""

    region = models.OneToOneField(Region, on_delete=models.PROTECT, primary_key=True, related_name="affinity")
    vault_region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="vaults_for")

    class Meta:
        verbose_name_plural = "affinities"
        constraints = [
            models.CheckConstraint(condition=~Q(region=F("vault_region")), name="affinity_is_elsewhere"),
        ]

    def __str__(self) -> str:
        return f"{self.region_id} -> {self.vault_region_id}"


class Endpoint(models.Model):
    """An S3 service. Which credentials a process has for it comes from that process's environment, never from here."""

    region = models.OneToOneField(Region, on_delete=models.PROTECT, related_name="endpoint")
    url = models.URLField()
    signing_region = models.CharField(max_length=64, default="us-east-1")

    def __str__(self) -> str:
        return self.url


class VaultQuerySet(ScopedQuerySet):
    tenant_path = "tenant"


class Vault(IdentifiedModel):
    """An S3 bucket with Object Lock in one region."""

    class Status(models.TextChoices):
        PENDING = "pending", "being made"
        READY = "ready", "ready"
        REFUSED = "refused", "refused"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="vaults")
    name = models.CharField(max_length=64, unique=True, editable=False)
    endpoint = models.ForeignKey(Endpoint, on_delete=models.PROTECT, related_name="vaults")
    bucket = models.CharField(max_length=63)
    immutable_days = models.PositiveIntegerField(default=14)
    status = models.CharField(max_length=12, choices=Status, default=Status.PENDING)
    refusal = models.TextField(blank=True)
    checked_at = models.DateTimeField(null=True, blank=True)

    objects = VaultQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["endpoint", "bucket"], name="vault_bucket_once"),
            models.CheckConstraint(
                condition=Q(immutable_days__gte=1, immutable_days__lte=3650), name="vault_days_sane"
            ),
            models.CheckConstraint(condition=Q(status__in=["pending", "ready", "refused"]), name="vault_status_known"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def lock_rule(self) -> LockRule:
        return LockRule(promised=timedelta(days=self.immutable_days))


class TenantKey(IdentifiedModel):
    """The tenant's root key pair (X25519); the private half is wrapped by the service's master key."""

    tenant = models.OneToOneField(Tenant, on_delete=models.PROTECT, related_name="key")
    public_key = models.BinaryField()
    wrapped_private_key = models.BinaryField()

    def __str__(self) -> str:
        return f"key of {self.tenant_id}"


class Domain(IdentifiedModel):
    """A dedup domain: one server's data in one vault. Its keys are wrapped by the service's master key."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="domains")
    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="domains")
    wrapped_id_key = models.BinaryField()
    wrapped_map_key = models.BinaryField()

    def __str__(self) -> str:
        return f"domain {self.id}"


class StoredObject(models.Model):
    """One object of a vault. The row is written before its grant is signed, so no object exists without a row."""

    class Status(models.TextChoices):
        GRANTED = "granted", "may be uploaded"
        STORED = "stored", "seen in the vault"

    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="stored_objects")
    domain = models.ForeignKey(Domain, on_delete=models.PROTECT, related_name="stored_objects")
    session_id = models.UUIDField()
    kind = models.CharField(max_length=1)
    key = models.CharField(max_length=300)
    size_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    md5_base64 = models.CharField(max_length=24)
    status = models.CharField(max_length=8, choices=Status, default=Status.GRANTED)
    version_id = models.CharField(max_length=128, blank=True)
    retain_until = models.DateTimeField()
    granted_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["vault", "key"], name="stored_object_key_once"),
            models.CheckConstraint(condition=Q(size_bytes__gte=0), name="stored_object_size_sane"),
            models.CheckConstraint(
                condition=Q(status="granted") | ~Q(version_id=""), name="stored_object_version_known"
            ),
        ]
        indexes = [models.Index(fields=["session_id"], name="stored_object_session")]

    def __str__(self) -> str:
        return self.key


class ObjectUse(models.Model):
    """A manifest needs an object: what lock extension, restore grants and later garbage collection go by."""

    manifest = models.ForeignKey(StoredObject, on_delete=models.PROTECT, related_name="uses")
    needed = models.ForeignKey(StoredObject, on_delete=models.PROTECT, related_name="used_by")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["manifest", "needed"], name="object_use_once")]

    def __str__(self) -> str:
        return f"{self.manifest_id} needs {self.needed_id}"
