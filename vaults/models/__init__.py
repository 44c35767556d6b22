"""Tables of the vaults, by what they are about."""

from vaults.models.keys import CatalogueKey, Domain, TenantKey
from vaults.models.ledger import Envelope, ObjectUse, RelocatedPack, Removal, RemovalRun, StoredObject
from vaults.models.places import Affinity, Alarm, Endpoint, Region, Vault

__all__ = [
    "Affinity",
    "Alarm",
    "CatalogueKey",
    "Domain",
    "Endpoint",
    "Envelope",
    "ObjectUse",
    "Region",
    "RelocatedPack",
    "Removal",
    "RemovalRun",
    "StoredObject",
    "TenantKey",
    "Vault",
]
