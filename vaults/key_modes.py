"""What it means for a tenant that the service, or the customer alone, keeps its key. For pages and the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from vaults.models import TenantKey

_MEANINGS: Mapping[str, str] = {
    TenantKey.Mode.MANAGED: (
        "The service keeps the key, wrapped by its master key: it restores and checks every block by itself. The "
        "recovery key restores without the service."
    ),
    TenantKey.Mode.CUSTOMER: (
        "The customer alone keeps the key: the service cannot open what is sealed to it. It backs up, locks and "
        "hashes; restores, and checks that open every block, are made with backupsite-restore and the recovery key. "
        "Without the recovery key nobody can restore."
    ),
}
NO_WAY_BACK = (
    "There is no way back to a key that the service keeps: new backups build on what earlier ones stored, and the "
    "service cannot open that. The answer of a test proves that you hold the recovery key; it carries no data key, and "
    "shall not. Make another key with backupsite-restore keygen and register it, or begin anew with another tenant."
)


@dataclass(frozen=True, slots=True)
class KeyMode:
    """Who keeps the key that new backups of the tenant are sealed to."""

    kept_by: str
    meaning: str


def meaning_of(mode: str) -> str:
    return _MEANINGS[mode]


def key_mode_of(tenant_id: UUID) -> KeyMode | None:
    """None while the tenant has no key in use."""
    mode = TenantKey.objects.filter(tenant_id=tenant_id, status=TenantKey.Status.ACTIVE).values_list("mode", flat=True)
    kept = mode.first()
    if kept is None:
        return None
    return KeyMode("the service" if kept == TenantKey.Mode.MANAGED else "the customer alone", meaning_of(kept))
