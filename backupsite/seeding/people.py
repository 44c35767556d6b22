"""People of the made-up fleet with all roles and grants. Nobody has a password: whoever measures signs them in."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from django.contrib.auth.models import Permission

from agents.models import ServerUserPermission
from backupsite.seeding.places import AGE, Places
from backupsite.seeding.shape import OWNED_PERCENT, RESELLERS, SERVERS_PER_OWNER, TENANTS_PER_RESELLER, Shape, id_at
from backupsite.seeding.writing import Table
from tenants.models import ADMINISTER_TENANT, Invitation, Membership, Person, TenantUserPermission
from tenants.querysets import OWN_SERVER

SUPERADMINS = 5


def write_people(shape: Shape, random: Random, places: Places) -> None:
    """super-1, admin-<tenant>-1 of each tenant, reseller-1 of many tenants, owner-<tenant>-1 of ten servers."""
    people: list[dict[str, Any]] = []
    administers: list[tuple[UUID, int]] = []
    owns: list[tuple[UUID, int]] = []
    made = shape.at - AGE + timedelta(days=3)
    for number in range(SUPERADMINS):
        _add(people, f"super-{number + 1}", made, random, superadmin=True)
    for tenant in range(shape.tenants):
        names = [f"admin-{tenant:05}-{number + 1}" for number in range(1 + tenant % 3)]
        administers += [(_add(people, name, made, random), tenant) for name in names]
        for number, servers in enumerate(_owned(places, tenant)):
            owner = _add(people, f"owner-{tenant:05}-{number + 1}", made, random)
            owns += [(owner, server) for server in servers]
    for number in range(RESELLERS):
        reseller = _add(people, f"reseller-{number + 1}", made, random)
        chosen = range(1 + number, shape.tenants, RESELLERS)
        administers += [(reseller, tenant) for tenant in chosen[:TENANTS_PER_RESELLER]]
    Table(Person, now=shape.at).write(people)
    _write_grants(shape, random, places, administers, owns, made)


def _owned(places: Places, tenant: int) -> Iterator[range]:
    """The servers of each owner, by their index."""
    first, end = places.ranges[tenant]
    owned = (end - first) * OWNED_PERCENT // 100
    # Also a small tenant has an owner, with what there is.
    for begin in range(first, first + max(owned, 1), SERVERS_PER_OWNER):
        yield range(begin, min(begin + SERVERS_PER_OWNER, end))


def _add(people: list[dict[str, Any]], name: str, made: datetime, random: Random, *, superadmin: bool = False) -> UUID:
    key = id_at(made, random)
    # "!" is how Django marks that no password fits.
    values = {"username": name, "email": f"{name}@example.org", "password": "!seeded", "is_superuser": superadmin}
    people.append({"id": key, "date_joined": made, **values})
    return key


def _write_grants(
    shape: Shape,
    random: Random,
    places: Places,
    administers: list[tuple[UUID, int]],
    owns: list[tuple[UUID, int]],
    made: datetime,
) -> None:
    members = {*administers, *((person, places.servers[server].tenant) for person, server in owns)}
    Table(Membership, now=shape.at).write(
        {"id": id_at(made, random), "person_id": person, "company_id": places.companies[tenant], "created_at": made}
        for person, tenant in sorted(members)
    )
    permission = Permission.objects.get(codename=ADMINISTER_TENANT, content_type__app_label="tenants")
    Table(TenantUserPermission, now=shape.at).write(
        {"permission_id": permission.pk, "user_id": person, "content_object_id": places.tenants[tenant]}
        for person, tenant in administers
    )
    permission = Permission.objects.get(codename=OWN_SERVER, content_type__app_label="agents")
    Table(ServerUserPermission, now=shape.at).write(
        {"permission_id": permission.pk, "user_id": person, "content_object_id": places.servers[server].id}
        for person, server in owns
    )
    Table(Invitation, now=shape.at).write(
        {"id": id_at(made, random), "tenant_id": tenant, "email": f"new-{number}@example.org", "administers": True}
        | {"token_hash": f"{number:064x}", "expires_at": shape.at + timedelta(days=3), "created_at": shape.at}
        for number, tenant in enumerate(places.tenants)
        if number % 5 == 0
    )
