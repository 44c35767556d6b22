"""Verbs over tenants and persons."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from guardian.shortcuts import assign_perm

from common.errors import NotAllowedError
from common.ids import hash_token, new_name_suffix, new_secret_token
from tenants.models import ADMINISTER_TENANT, ApiToken, Company, Person, Tenant

TOKEN_PREFIX = "bks_"  # noqa: S105  # a prefix by which leaked tokens are recognised


@transaction.atomic
def create_tenant(*, title: str, actor: Person | None) -> Tenant:
    """Make a tenant and its company with names of one fresh suffix. Only a SuperAdmin, or the installation (None)."""
    if actor is not None and not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin makes tenants.")
    suffix = _free_suffix()
    tenant = Tenant(suffix=suffix, name=f"backup-tenant-{suffix}", title=title)
    tenant.full_clean()
    tenant.save(force_insert=True)
    Company.objects.create(tenant=tenant, name=f"vspc-tenant-{suffix}")
    return tenant


def _free_suffix() -> str:
    suffix = new_name_suffix()
    while Tenant.objects.filter(suffix=suffix).exists():
        suffix = new_name_suffix(length=min(len(suffix) + 1, 12))
    return suffix


def grant_tenant_administration(*, person: Person, tenant: Tenant) -> None:
    """Make the person a DCAdmin of the tenant. May be called twice."""
    assign_perm(ADMINISTER_TENANT, person, tenant)


def create_api_token(*, person: Person, label: str, expires_at: datetime | None = None) -> str:
    """Make a token for the person and return it; it cannot be shown again."""
    secret = TOKEN_PREFIX + new_secret_token()
    ApiToken.objects.create(person=person, label=label, secret_hash=hash_token(secret), expires_at=expires_at)
    return secret
