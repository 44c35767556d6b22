"""Who may give and take which right, and that what was taken is gone with the next request."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connection
from rest_framework.test import APIClient

from agents.models import Server
from agents.people import HeldRole, grant_role, remove_from_tenant, revoke_role, roles_of, set_active, set_superadmin
from common.errors import ConflictError, NotAllowedError
from tenants.models import AuditEvent, Membership, Person, Tenant
from tenants.roles import Role
from tests.factories import make_person, make_server, make_tenant, make_token
from tests.worlds import World

pytestmark = pytest.mark.django_db


def _admin(tenant: Tenant) -> HeldRole:
    return HeldRole(Role.DC_ADMIN, tenant)


def _owner(server: Server) -> HeldRole:
    return HeldRole(Role.VM_OWNER, server.tenant, server)


def test_a_person_holds_several_roles_in_several_tenants() -> None:
    one, two, root = make_tenant(), make_tenant(), make_person(superadmin=True)
    first, second = make_server(one), make_server(two)
    person = make_person()

    for held in (_admin(one), _owner(first), _owner(second)):
        grant_role(person=person, held=held, actor=root)
        grant_role(person=person, held=held, actor=root)

    found = [(held.role, held.tenant, held.server) for held in roles_of(person, seen_by=person)]
    assert sorted(found, key=str) == sorted(
        [(Role.DC_ADMIN, one, None), (Role.VM_OWNER, one, first), (Role.VM_OWNER, two, second)], key=str
    )
    assert Membership.objects.filter(person=person).count() == 2


def test_another_tenants_administrator_sees_only_the_roles_in_his_own() -> None:
    one, two = make_tenant(), make_tenant()
    person = make_person(administers=[one], owns=[make_server(two)])

    seen = roles_of(person, seen_by=make_person(administers=[two]))

    assert [held.tenant for held in seen] == [two]


def test_a_dcadmin_gives_and_takes_within_his_own_tenants_only() -> None:
    own, foreign = make_tenant(), make_tenant()
    actor, person = make_person(administers=[own]), make_person()
    foreign_server = make_server(foreign)

    grant_role(person=person, held=_admin(own), actor=actor)
    grant_role(person=person, held=_owner(make_server(own)), actor=actor)

    for held in (_admin(foreign), _owner(foreign_server)):
        for verb in (grant_role, revoke_role):
            with pytest.raises(NotAllowedError):
                verb(person=person, held=held, actor=actor)
    with pytest.raises(NotAllowedError):
        remove_from_tenant(person=person, tenant=foreign, actor=actor)


def test_a_dcadmin_makes_no_superadmin_and_touches_none() -> None:
    tenant = make_tenant()
    actor, root = make_person(administers=[tenant]), make_person(superadmin=True, administers=[tenant])

    attempts: list[Any] = [
        lambda: set_superadmin(person=actor, superadmin=True, actor=actor),
        lambda: set_superadmin(person=root, superadmin=False, actor=actor),
        lambda: set_active(person=root, active=False, actor=actor),
        lambda: revoke_role(person=root, held=_admin(tenant), actor=actor),
        lambda: remove_from_tenant(person=root, tenant=tenant, actor=actor),
    ]
    for attempt in attempts:
        with pytest.raises(NotAllowedError):
            attempt()

    root.refresh_from_db()
    assert root.is_superuser and root.is_active


def test_a_dcadmin_disables_those_who_belong_to_nobody_else() -> None:
    own, foreign = make_tenant(), make_tenant()
    actor = make_person(administers=[own])
    only_here, elsewhere = make_person(owns=[make_server(own)]), make_person(administers=[own, foreign])
    also_owner = make_person(administers=[own], owns=[make_server(foreign)])
    Membership.objects.filter(person=also_owner, company__tenant=foreign).delete()

    set_active(person=only_here, active=False, actor=actor)
    for person in (elsewhere, also_owner):
        with pytest.raises(NotAllowedError):
            set_active(person=person, active=False, actor=actor)

    assert set(Person.objects.filter(is_active=False)) == {only_here}


def test_the_last_superadmin_stays() -> None:
    root, disabled = make_person(superadmin=True), make_person(superadmin=True, active=False)
    assert not disabled.is_active

    for attempt in (
        lambda: set_superadmin(person=root, superadmin=False, actor=root, confirmed=True),
        lambda: set_active(person=root, active=False, actor=root, confirmed=True),
    ):
        with pytest.raises(ConflictError) as caught:
            attempt()
        assert caught.value.code == "last_superadmin"

    root.refresh_from_db()
    assert root.is_superuser and root.is_active


@pytest.mark.django_db(transaction=True)
def test_two_superadmins_cannot_take_the_right_from_each_other_at_once() -> None:
    one, two = make_person(superadmin=True), make_person(superadmin=True)
    start = threading.Barrier(2)

    def take(actor: Person, person: Person) -> None:
        # As two requests have them: no instance is shared.
        actor, person = Person.objects.get(pk=actor.pk), Person.objects.get(pk=person.pk)
        try:
            start.wait(timeout=20)
            set_superadmin(person=person, superadmin=False, actor=actor)
        except ConflictError:
            pass
        finally:
            connection.close()

    threads = [threading.Thread(target=take, args=pair) for pair in ((one, two), (two, one))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert Person.objects.filter(is_superuser=True).count() == 1


def test_ones_own_last_right_goes_only_when_that_is_confirmed() -> None:
    tenant = make_tenant()
    person, root = make_person(administers=[tenant]), make_person(superadmin=True)
    make_person(superadmin=True)

    for attempt in (
        lambda: revoke_role(person=person, held=_admin(tenant), actor=person),
        lambda: remove_from_tenant(person=person, tenant=tenant, actor=person),
        lambda: set_active(person=person, active=False, actor=person),
        lambda: set_superadmin(person=root, superadmin=False, actor=root),
    ):
        with pytest.raises(ConflictError) as caught:
            attempt()
        assert caught.value.code == "own_last_right"
    assert person.administered_tenants().count() == 1
    assert Person.objects.get(pk=root.pk).is_superuser

    revoke_role(person=person, held=_admin(tenant), actor=person, confirmed=True)
    assert not person.administered_tenants().exists()


def test_removing_from_a_tenant_takes_every_right_there_and_none_elsewhere() -> None:
    tenant, other = make_tenant(), make_tenant()
    person = make_person(administers=[tenant, other], owns=[make_server(tenant), make_server(other)])

    remove_from_tenant(person=person, tenant=tenant, actor=make_person(administers=[tenant]))

    assert {held.tenant for held in roles_of(person, seen_by=person)} == {other}
    assert [row.company.tenant for row in Membership.objects.filter(person=person)] == [other]


def test_every_change_is_in_the_audit_of_its_tenant() -> None:
    tenant, root, person = make_tenant(), make_person(superadmin=True), make_person()

    grant_role(person=person, held=_admin(tenant), actor=root)
    revoke_role(person=person, held=_admin(tenant), actor=root)
    revoke_role(person=person, held=_admin(tenant), actor=root)

    found = AuditEvent.objects.filter(tenant=tenant, subject_id=str(person.pk)).values_list("action", flat=True)
    assert sorted(found) == ["role.grant", "role.revoke"]


@pytest.mark.case("AZ-06")
def test_a_disabled_person_is_out_with_the_next_request_session_and_token(world: World) -> None:
    admin = world.people["admin_a"]
    assert admin is not None
    signed_in = world.client("admin_a")
    with_token = APIClient(HTTP_AUTHORIZATION=f"Bearer {make_token(admin)}")
    assert {client.get("/api/v1/servers/").status_code for client in (signed_in, with_token)} == {200}

    set_active(person=admin, active=False, actor=make_person(superadmin=True))

    assert {client.get("/api/v1/servers/").status_code for client in (signed_in, with_token)} == {401}


# --- the API ----------------------------------------------------------------------------------------------------------


def _names(world: World, name: str, resource: str = "people") -> set[str]:
    return {row["name"] for row in world.client(name).get(f"/api/v1/{resource}/").json()["results"]}


def test_lists_hold_exactly_whom_one_may_know(world: World) -> None:
    everybody = set(Person.objects.values_list("username", flat=True))

    assert _names(world, "super") == everybody
    # `disabled` administers the tenant too, and so is among its people.
    assert _names(world, "admin_a") == {"admin_a", "owner_a1", "owner_a2", "member_a", "disabled"}
    assert _names(world, "admin_b") == {"admin_b", "member_b"}
    assert _names(world, "owner_a1") == {"owner_a1"}


@pytest.mark.parametrize(
    "query", ["?search=b", "?search=admin", "?ordering=-username", "?active=true", "?superadmin=false"]
)
def test_search_order_and_filters_show_nobody_else(world: World, query: str) -> None:
    text = world.client("admin_a").get(f"/api/v1/people/{query}").content.decode()

    for hidden in ("admin_b", "member_b", 'super"'):
        assert hidden not in text


def test_details_do_not_tell_of_other_tenants(world: World) -> None:
    both = make_person("both", administers=[world.ours.tenant, world.theirs.tenant], owns=[world.theirs.server])

    text = world.client("admin_a").get(f"/api/v1/people/{both.pk}/").content.decode()

    assert str(world.ours.tenant.pk) in text
    for hidden in (world.theirs.tenant, world.theirs.tenant.company, world.theirs.server):
        assert str(hidden.pk) not in text
        assert hidden.name not in text


def test_companies_and_invitations_are_those_of_ones_tenants(world: World) -> None:
    for resource in ("companies", "invitations"):
        own = {str(world.ours.object_of(resource).pk)}
        for name, expected in (("admin_a", own), ("owner_a1", set())):
            found = world.client(name).get(f"/api/v1/{resource}/").json()["results"]
            assert {row["id"] for row in found} == expected, (resource, name)


def test_a_foreign_place_in_the_body_is_not_found_and_nothing_is_linked(world: World) -> None:
    client, member = world.client("admin_a"), world.ours.member
    before = roles_of(member, seen_by=member)

    bodies = [
        {"role": "DCAdmin", "tenant": str(world.theirs.tenant.pk)},
        {"role": "VmOwner", "server": str(world.theirs.server.pk)},
    ]
    for body in bodies:
        assert client.post(f"/api/v1/people/{member.pk}/grant/", body).status_code == 404
    foreign = client.post(f"/api/v1/servers/{world.ours.server.pk}/grant/", {"person": str(world.theirs.member.pk)})

    assert foreign.status_code == 404
    assert roles_of(member, seen_by=member) == before


@pytest.mark.parametrize(
    "body",
    [{"role": "SuperAdmin"}, {"role": "DCAdmin"}, {"role": "VmOwner"}, {"is_superuser": True, "role": "DCAdmin"}],
)
def test_a_role_that_is_no_role_is_refused(world: World, body: dict[str, Any]) -> None:
    answer = world.client("super").post(f"/api/v1/people/{world.ours.member.pk}/grant/", body)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")


def test_me_tells_each_role_with_its_place(world: World) -> None:
    shown = world.client("owner_a1").get("/api/v1/me/").json()["grants"]

    assert [(row["role"], row["tenant_name"], row["server_name"]) for row in shown] == [
        ("VmOwner", world.ours.tenant.name, world.ours.server.name)
    ]
