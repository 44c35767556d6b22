"""Vaults that are to go."""

from __future__ import annotations

from django.db import models

from common.models import IdentifiedModel
from tenants.models import Person, Tenant
from vaults.models.places import Vault


class VaultDeletion(IdentifiedModel):
    """A vault is to go: nothing new is written to it, and until `undo_until` nothing is lost.

    It stays when the vault is gone, so that no other one gets its name: the bucket of that name is still in the store.
    """

    vault = models.OneToOneField(Vault, on_delete=models.SET_NULL, null=True, related_name="deletion")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="vault_deletions")
    name = models.CharField(max_length=64)
    requested_by = models.ForeignKey(
        Person, on_delete=models.SET_NULL, null=True, related_name="vault_deletions_requested"
    )
    # Also when the person is gone.
    requested_by_name = models.CharField(max_length=150)
    reason = models.CharField(max_length=500, blank=True)
    requested_at = models.DateTimeField()
    undo_until = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"deletion of {self.name}"
