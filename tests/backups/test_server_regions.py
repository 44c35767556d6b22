"""A server stands in another region from now on: where its backups go, what they say, and who may say so."""

from __future__ import annotations

import os
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from agents.models import Server
from backups.models import JobEvent
from backups.server_regions import change_region
from backups.states import JobState
from common.errors import ConflictError, InvalidInputError, NotAllowedError, TenantSuspendedError
from definitions.models import Definition
from definitions.policies import assign, create_policy
from definitions.services import create_definition
from tenants.models import AuditEvent, Person
from tenants.services import suspend_tenant
from tests.agents.agent_worlds import enrolled
from tests.backups.conftest import MIB, Site
from tests.factories import disk_of, make_definition, make_job, make_person, make_region, make_server
from tests.worlds import World
from vaults.models import Affinity, Domain, Endpoint, Vault


@pytest.fixture
def boss(db: None) -> Person:
    return make_person(superadmin=True)


def fresh(server: Server) -> Server:
    return Server.objects.select_related("tenant", "domain__vault__endpoint").get(pk=server.pk)


def backed_up(server: Server) -> Vault:
    """Something of it lies in the tenant's vault, in GRA."""
    vault = Vault.objects.get(tenant=server.tenant)
    domain = Domain.objects.create(tenant=server.tenant, vault=vault, wrapped_id_key=b"x", wrapped_map_key=b"x")
    Server.objects.filter(pk=server.pk).update(domain=domain)
    return vault


@pytest.mark.stack
def test_backups_go_on_after_a_move_to_where_the_vault_is_and_each_says_so(site: Site) -> None:
    disk = site.server("web01", content=os.urandom(MIB))
    definition = site.definition(disk)
    before = site.back_up(definition).backup
    assert not AuditEvent.objects.filter(action="backup.same_region").exists()

    change_region(server=fresh(disk.server), region_code=before.vault.endpoint.region_id, actor=site.admin)

    told = AuditEvent.objects.get(action="server.region").after
    assert (told["region"], told["vault_region"], told["same_region"]) == ("GRA", "GRA", True)
    for count in (1, 2):
        job = site.back_up(Definition.objects.get(pk=definition.pk))
        assert job.state == JobState.OK, job.message
        assert job.events.filter(code="same_region").count() == 1
        assert AuditEvent.objects.filter(action="backup.same_region").count() == count
        assert (job.backup.vault, job.backup.manifest.domain) == (before.vault, before.manifest.domain)
        assert job.backup.stored_bytes < MIB
    # What is made now goes where the server's data lies: a session writes into one vault.
    late = site.back_up(site.definition(type(disk).objects.get(pk=disk.pk), name="late"))
    assert late.state == JobState.OK, late.message
    assert late.backup.vault == before.vault

    change_region(server=fresh(disk.server), region_code="RBX", actor=site.admin)
    site.back_up(Definition.objects.get(pk=definition.pk))
    assert JobEvent.objects.filter(code="same_region").count() == 3


def test_what_was_never_backed_up_gets_the_vault_that_affinity_gives(boss: Person) -> None:
    server = make_server()
    definition = make_definition(server)
    make_region("GRA", vault_code="SBG")

    vault = change_region(server=server, region_code="GRA", actor=boss)

    definition.refresh_from_db()
    assert vault is not None
    assert (vault.tenant, vault.endpoint.region_id, definition.vault) == (server.tenant, "SBG", vault)
    event = AuditEvent.objects.get(action="server.region")
    assert (event.actor_id, event.tenant, event.before) == (str(boss.pk), server.tenant, {"region": "RBX"})
    assert event.after == {"region": "GRA", "vault": vault.name, "vault_region": "SBG"}
    assert AuditEvent.objects.filter(action="vault.create").count() == 1
    assert create_definition(disk=disk_of(server), name="daily", now=timezone.now()).vault == vault

    assert change_region(server=fresh(server), region_code="GRA", actor=boss) is None
    assert AuditEvent.objects.filter(action="server.region").count() == 1


def test_what_lies_in_a_vault_stays_there_and_no_other_is_made(boss: Person) -> None:
    server = make_server()
    definition, vault = make_definition(server), backed_up(server)
    make_job(server, definition=definition)
    make_region("PAR", vault_code="SBG")

    assert change_region(server=fresh(server), region_code="PAR", actor=boss) == vault

    definition.refresh_from_db()
    assert (definition.vault, Vault.objects.filter(tenant=server.tenant).count()) == (vault, 1)
    assert "same_region" not in AuditEvent.objects.get(action="server.region").after
    assert create_definition(disk=disk_of(server), name="daily", now=timezone.now()).vault == vault


def test_the_policy_of_the_region_counts_at_once(boss: Person) -> None:
    estate = enrolled()
    make_region("GRA", vault_code="SBG")
    policy = create_policy(name="of-gra", actor=boss, time_zone="Europe/Paris")
    assign(policy=policy, region=make_region("GRA"), actor=boss, now=timezone.now())

    change_region(server=estate.server, region_code="GRA", actor=boss)

    made = Definition.objects.get(disk=estate.disk, policy=policy)
    assert made.vault.endpoint.region_id == "SBG"


def test_moves_that_cannot_be(boss: Person) -> None:
    server = make_server()
    make_region("GRA", vault_code="SBG")
    make_region("PAR", vault_code="LIM")
    Affinity.objects.filter(region="PAR").delete()
    make_region("WAR", vault_code="ERI")
    Endpoint.objects.filter(region="ERI").delete()
    with pytest.raises(NotAllowedError):
        change_region(server=server, region_code="GRA", actor=make_person(administers=[server.tenant]))
    for has_data in (False, True):
        for region, code in (("XXX", "unknown_region"), ("PAR", "no_affinity"), ("WAR", "no_endpoint")):
            with pytest.raises(InvalidInputError) as caught:
                change_region(server=fresh(server), region_code=region, actor=boss)
            assert (caught.value.code, caught.value.field) == (code, "region"), has_data
        backed_up(server)
    Server.objects.update(domain=None)
    make_job(server, definition=make_definition(server))
    with pytest.raises(ConflictError) as busy:
        change_region(server=fresh(server), region_code="GRA", actor=boss)
    assert busy.value.code == "server_busy"
    suspend_tenant(tenant=server.tenant, reason="", actor=boss, now=timezone.now())
    with pytest.raises(TenantSuspendedError):
        change_region(server=fresh(server), region_code="GRA", actor=boss)

    assert fresh(server).region_id == "RBX"
    assert Vault.objects.count() == 1
    assert not AuditEvent.objects.filter(action="server.region").exists()


# --- API and page -----------------------------------------------------------------------------------------------------


@pytest.fixture
def moved_to(world: World) -> Any:
    """Moves our server over the API, as somebody; it was backed up before."""
    make_region("GRA", vault_code="SBG")
    backed_up(world.ours.server)
    address = f"/api/v1/servers/{world.ours.server.pk}/"

    def send(region: str, name: str, **headers: str) -> Any:
        return world.client(name).patch(address, {"region": region}, headers=headers)

    return send


def test_the_api_moves_for_super_admins_alone(world: World, moved_to: Any) -> None:
    for name, status in (("admin_a", 403), ("owner_a1", 403), ("admin_b", 404), ("super", 200)):
        assert moved_to("GRA", name).status_code == status, name
    assert world.client("owner_a1").get(f"/api/v1/servers/{world.ours.server.pk}/").json()["region"] == "GRA"

    unknown = moved_to("XXX", "super")
    assert (unknown.status_code, unknown.json()["code"]) == (400, "unknown_region")
    assert unknown.json()["errors"][0]["field"] == "region"
    # Where it stands is part of what was seen.
    etag = world.client("super").get(f"/api/v1/servers/{world.ours.server.pk}/")["ETag"]
    assert moved_to("RBX", "super").status_code == 200
    assert moved_to("GRA", "super", **{"If-Match": etag}).status_code == 412


def test_a_name_is_not_changed_where_the_move_is_refused(world: World) -> None:
    server = world.ours.server

    answer = world.client("super").patch(f"/api/v1/servers/{server.pk}/", {"name": "other", "region": "XXX"})

    assert answer.status_code == 400
    assert fresh(server).name == server.name


def test_the_page_moves_and_warns(world: World) -> None:
    make_region("GRA", vault_code="SBG")
    server, client = world.ours.server, world.client("super")
    vault = backed_up(server)
    page = f"/servers/{server.pk}/"
    form = f'action="{page}region/"'
    assert form in client.get(page).content.decode()
    for name in ("admin_a", "owner_a1"):
        assert form not in world.client(name).get(page).content.decode()

    def move(region: str) -> Any:
        return client.post(f"{page}region/", {"region": region}, format="multipart", follow=True)

    moved = move("GRA").content.decode()
    assert f"{server.name} stands in GRA now, and so does its vault" in moved
    assert "its backups lie here, too" in moved
    assert f"{server.name} stands in GRA already." in move("GRA").content.decode()
    back = move("RBX").content.decode()
    assert f"Its backups go to {vault.name} in GRA." in back
    assert "its backups lie here, too" not in back
    Affinity.objects.filter(region="GRA").delete()
    refused = move("GRA")
    assert (refused.status_code, "No vault region is set for servers in GRA" in refused.content.decode()) == (400, True)
    assert fresh(server).region_id == "RBX"


def test_an_address_that_is_nobodys_form_moves_nothing(world: World) -> None:
    anonymous = APIClient().post(f"/servers/{world.ours.server.pk}/region/", {"region": "GRA"}, format="multipart")

    assert anonymous.status_code == 302
    assert fresh(world.ours.server).region_id == "RBX"
