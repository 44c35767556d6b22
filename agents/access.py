"""Which roles a person has, for display."""

from __future__ import annotations

from agents.models import ServerUserPermission
from tenants.models import Person
from tenants.querysets import OWN_SERVER
from tenants.roles import Role


def role_names(person: Person) -> list[Role]:
    """The roles of the person, highest first."""
    if person.is_superuser:
        return [Role.SUPER_ADMIN]
    roles = [Role.DC_ADMIN] if person.administered_tenants().exists() else []
    owns = ServerUserPermission.objects.filter(user=person, permission__codename=OWN_SERVER).exists()
    return [*roles, Role.VM_OWNER] if owns else roles
