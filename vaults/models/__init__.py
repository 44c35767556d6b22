"""Tables of the vaults, by what they are about."""

from vaults.models.keys import CatalogueKey, Domain, TenantKey
from vaults.models.leaving import VaultDeletion
from vaults.models.ledger import (
    Envelope,
    KnownBadObject,
    MovedPack,
    ObjectUse,
    RelocatedPack,
    Removal,
    RemovalRun,
    StoredObject,
)
from vaults.models.places import Affinity, Alarm, Endpoint, Region, SettingsAcceptance, Vault

__all__ = [
    "Affinity",
    "Alarm",
    "CatalogueKey",
    "Domain",
    "Endpoint",
    "Envelope",
    "KnownBadObject",
    "MovedPack",
    "ObjectUse",
    "Region",
    "RelocatedPack",
    "Removal",
    "RemovalRun",
    "SettingsAcceptance",
    "StoredObject",
    "TenantKey",
    "Vault",
    "VaultDeletion",
]
