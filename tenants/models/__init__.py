"""Tenants, people and their rights. The other modules of the project import models from here."""

from tenants.models.core import (
    ADMINISTER_TENANT,
    Company,
    Person,
    Tenant,
    TenantGroupPermission,
    TenantUserPermission,
    validate_time_zone,
)
from tenants.models.tokens import ApiToken

__all__ = [
    "ADMINISTER_TENANT",
    "ApiToken",
    "Company",
    "Person",
    "Tenant",
    "TenantGroupPermission",
    "TenantUserPermission",
    "validate_time_zone",
]
