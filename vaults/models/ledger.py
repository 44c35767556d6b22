"""The ledger: every object ever granted, who needs it, and how it was removed."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from common.models import IdentifiedModel
from tenants.models import Person
from vaults.models.keys import Domain
from vaults.models.places import Vault


class StoredObject(models.Model):
    """One object of a vault. The row is written before its grant is signed, so no object exists without a row.

    granted -> stored -> condemned -> deleting -> deleted; a commit that needs a condemned object makes it stored again.
    """

    class Status(models.TextChoices):
        GRANTED = "granted", "may be uploaded"
        STORED = "stored", "seen in the vault"
        CONDEMNED = "condemned", "needed by nothing"
        DELETING = "deleting", "being removed"
        DELETED = "deleted", "removed"

    vault = models.ForeignKey(Vault, on_delete=models.PROTECT, related_name="stored_objects")
    domain = models.ForeignKey(Domain, on_delete=models.PROTECT, related_name="stored_objects")
    session_id = models.UUIDField()
    kind = models.CharField(max_length=1)
    key = models.CharField(max_length=300)
    size_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    md5_base64 = models.CharField(max_length=24)
    status = models.CharField(max_length=9, choices=Status, default=Status.GRANTED)
    version_id = models.CharField(max_length=128, blank=True)
    retain_until = models.DateTimeField()
    granted_at = models.DateTimeField()
    # The removal run (by its epoch) that found it unneeded, and when.
    condemned_epoch = models.PositiveBigIntegerField(null=True, blank=True)
    condemned_at = models.DateTimeField(null=True, blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True)
    # The last time that all its bytes were read and hashed, and since when they are known to be wrong or gone.
    read_at = models.DateTimeField(null=True, blank=True)
    damaged_since = models.DateTimeField(null=True, blank=True)
    damage = models.CharField(max_length=64, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["vault", "key"], name="stored_object_key_once"),
            models.CheckConstraint(condition=Q(size_bytes__gte=0), name="stored_object_size_sane"),
            models.CheckConstraint(
                condition=Q(status__in=["granted", "deleted"]) | ~Q(version_id=""), name="stored_object_version_known"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["granted", "stored", "condemned", "deleting", "deleted"]),
                name="stored_object_status_known",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=["condemned", "deleting"]) | Q(condemned_epoch__isnull=False),
                name="stored_object_condemned_by",
            ),
        ]
        indexes = [
            models.Index(fields=["session_id"], name="stored_object_session"),
            models.Index(fields=["vault", "status"], name="stored_object_by_status"),
            # With the size: what a tenant takes up is summed without a look at the rows.
            models.Index(fields=["domain", "kind", "status"], include=["size_bytes"], name="stored_object_of_domain"),
            models.Index(
                fields=["vault", "damaged_since"],
                condition=Q(damaged_since__isnull=False),
                name="stored_object_damaged",
            ),
        ]

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


class Envelope(models.Model):
    """Which session's data key a key object holds, and for which tenant key (fingerprint in hexadecimal)."""

    stored_object = models.OneToOneField(
        StoredObject, on_delete=models.CASCADE, primary_key=True, related_name="envelope"
    )
    writer_session = models.CharField(max_length=32)
    recipient = models.CharField(max_length=64)

    class Meta:
        indexes = [models.Index(fields=["writer_session"], name="envelope_of_session")]

    def __str__(self) -> str:
        return f"envelope of session {self.writer_session}"


class RelocatedPack(models.Model):
    """A relocation object says for blocks of this pack where they can be found instead.

    The relocation is needed as long as a backup names the pack; what it needs itself is in ObjectUse, as of a manifest.
    """

    relocation = models.ForeignKey(StoredObject, on_delete=models.CASCADE, related_name="relocated_packs")
    pack = models.ForeignKey(StoredObject, on_delete=models.CASCADE, related_name="relocations")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["relocation", "pack"], name="relocated_pack_once")]

    def __str__(self) -> str:
        return f"{self.relocation_id} moves {self.pack_id}"


class MovedPack(models.Model):
    """The manifest names the pack and does not need it: a repack proved that all that it reads there is elsewhere.

    What it needs instead, relocation objects and the packs that they lead to, is among its ObjectUse; the pack is not.
    """

    manifest = models.ForeignKey(StoredObject, on_delete=models.CASCADE, related_name="moved_packs")
    pack = models.ForeignKey(StoredObject, on_delete=models.CASCADE, related_name="moved_from")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["manifest", "pack"], name="moved_pack_once")]

    def __str__(self) -> str:
        return f"{self.manifest_id} does not need {self.pack_id}"


class KnownBadObject(IdentifiedModel):
    """A person said that removal need not wait for an object that cannot be taken in. `created_at` says when.

    Object and needs are kept for a time all the same. By key, for the object may have no row of its own.
    """

    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="known_bad_objects")
    key = models.CharField(max_length=1024)
    # Why it could not be taken in, as the person was told; and what the person says of it.
    refusal = models.TextField()
    reason = models.CharField(max_length=500)
    actor = models.ForeignKey(Person, on_delete=models.SET_NULL, null=True, related_name="known_bad_objects")
    # Also when the person is gone.
    actor_name = models.CharField(max_length=150)
    kept_until = models.DateTimeField()
    # What it names, as far as it could be read: kept as long as itself.
    needs = models.ManyToManyField(StoredObject, related_name="needed_by_known_bad")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["vault", "key"], name="known_bad_object_once")]

    def __str__(self) -> str:
        return self.key


class RemovalRun(models.Model):
    """One run over a vault: what it found unneeded, what it gave to the reaper, or why it stopped."""

    vault = models.ForeignKey(Vault, on_delete=models.CASCADE, related_name="removal_runs")
    epoch = models.PositiveBigIntegerField()
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=64, blank=True)
    message = models.TextField(blank=True)
    needed_objects = models.PositiveIntegerField(default=0)
    condemned_objects = models.PositiveIntegerField(default=0)
    revived_objects = models.PositiveIntegerField(default=0)
    deleting_objects = models.PositiveIntegerField(default=0)
    deleting_bytes = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["vault", "epoch"], name="removal_run_once_per_epoch")]

    def __str__(self) -> str:
        return f"removal {self.epoch} of {self.vault_id}"


class Removal(models.Model):
    """The journal: one object version that the reaper is to delete. Written before the store is asked."""

    stored_object = models.OneToOneField(
        StoredObject, on_delete=models.PROTECT, primary_key=True, related_name="removal"
    )
    run = models.ForeignKey(RemovalRun, on_delete=models.CASCADE, related_name="removals")
    ordered_at = models.DateTimeField()
    # The store refused (a lock that is longer than the ledger knew) or did not answer: tried again later.
    attempts = models.PositiveIntegerField(default=0)
    last_refusal = models.CharField(max_length=64, blank=True)
    try_after = models.DateTimeField(null=True, blank=True)
    done_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [models.Index(fields=["done_at", "try_after"], name="removal_open", condition=Q(done_at=None))]

    def __str__(self) -> str:
        return f"removal of {self.stored_object_id}"
