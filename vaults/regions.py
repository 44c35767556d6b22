"""Verbs over regions and affinity: where servers stand, and where their vaults must be. SuperAdmins edit the table."""

from __future__ import annotations

import re
from typing import Any

from django.db import transaction

from common.errors import ConflictError, InvalidInputError, NotAllowedError
from tenants.audit import record
from tenants.models import Person
from vaults.models import Affinity, Region

CODE_PATTERN = r"^[A-Z0-9][A-Z0-9-]{0,15}\Z"
CODE_MEANING = "A code has 1 to 16 capital letters, digits and dashes."
_CODE = re.compile(CODE_PATTERN)


def is_code(text: str) -> bool:
    return _CODE.match(text) is not None


@transaction.atomic
def add_region(*, code: str, title: str, vault_region: Region | None, actor: Person) -> Region:
    """A region, with where vaults of its servers must be. Raises ConflictError for a code that is there."""
    _refuse_others(actor)
    if not is_code(code):
        raise InvalidInputError(CODE_MEANING, field="code")
    if Region.objects.filter(pk=code).exists():
        raise ConflictError(f"The region {code} is there already.", code="name_taken", field="code")
    region = Region.objects.create(code=code, title=title)
    _set_affinity(region, vault_region)
    record(action="region.create", subject=region, actor=actor, after=_shown(region))
    return region


@transaction.atomic
def change_region(*, region: Region, changes: dict[str, Any], actor: Person) -> Region:
    """Change `title`, or `vault_region` (None: no new vaults for its servers). Vaults that are there stay.

    Raises InvalidInputError for a vault region that is the region itself.
    """
    _refuse_others(actor)
    before = _shown(region)
    if "title" in changes:
        region.title = changes["title"]
        region.save(update_fields=["title"])
    if "vault_region" in changes:
        _set_affinity(region, changes["vault_region"])
    after = _shown(region)
    if before != after:
        record(action="region.change", subject=region, actor=actor, before=before, after=after)
    return region


def vault_region_of(region: Region) -> str | None:
    return Affinity.objects.filter(region=region).values_list("vault_region_id", flat=True).first()


def _set_affinity(region: Region, vault_region: Region | None) -> None:
    if vault_region is None:
        Affinity.objects.filter(region=region).delete()
        return
    if vault_region.pk == region.pk:
        raise InvalidInputError(
            "A vault in the server's own region is lost together with the server. Choose another region.",
            code="same_region",
            field="vault_region",
        )
    Affinity.objects.update_or_create(region=region, defaults={"vault_region": vault_region})


def _refuse_others(actor: Person) -> None:
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin edits regions.")


def _shown(region: Region) -> dict[str, Any]:
    return {"title": region.title, "vault_region": vault_region_of(region)}
