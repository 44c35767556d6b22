"""Which roles a person has, for display."""

from __future__ import annotations

from agents.models import Server, ServerGroupPermission, ServerUserPermission
from tenants.models import Person
from tenants.querysets import OWN_SERVER
from tenants.roles import Role


def owners_of(server: Server) -> frozenset[tuple[str, str]]:
    """Who owns the server: ("user", id) and ("group", id)."""
    held = {"content_object": server, "permission__codename": OWN_SERVER}
    users = ServerUserPermission.objects.filter(**held).values_list("user_id", flat=True)
    groups = ServerGroupPermission.objects.filter(**held).values_list("group_id", flat=True)
    return frozenset([("user", str(pk)) for pk in users] + [("group", str(pk)) for pk in groups])


def role_names(person: Person) -> list[Role]:
    """The roles of the person, highest first."""
    if person.is_superuser:
        return [Role.SUPER_ADMIN]
    roles = [Role.DC_ADMIN] if person.administered_tenants().exists() else []
    owns = ServerUserPermission.objects.filter(user=person, permission__codename=OWN_SERVER).exists()
    return [*roles, Role.VM_OWNER] if owns else roles
