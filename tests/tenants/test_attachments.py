"""The virtual data centre: what is attached is visible, what is used stays attached, what was written is readable."""

from __future__ import annotations

import pytest

from agents.models import Node, Server, Storage, WriterKey
from backups.opening import trusted_writers
from common.errors import ConflictError, NotAllowedError
from definitions.attachments import attach_node, attach_storage, detach_node, detach_storage
from definitions.models import Definition
from tests.factories import (
    disk_of,
    make_backup,
    make_definition,
    make_node,
    make_person,
    make_server,
    make_storage,
    make_tenant,
)
from tests.worlds import World
from vaults.models import Affinity, Domain, Region

pytestmark = pytest.mark.django_db


def test_storages_of_a_shared_node_are_seen_one_by_one() -> None:
    tenant, root = make_tenant(), make_person(superadmin=True)
    admin, node = make_person(administers=[tenant]), make_node()
    first, second = make_storage(node), make_storage(node)

    attach_node(node=node, tenant=tenant, actor=root)
    assert (list(Node.objects.for_user(admin)), list(Storage.objects.for_user(admin))) == ([node], [])
    attach_storage(storage=first, tenant=tenant, actor=root)
    attach_storage(storage=first, tenant=tenant, actor=root)

    assert list(Storage.objects.for_user(admin)) == [first]
    assert second not in Storage.objects.for_user(admin)


def test_a_storage_needs_its_node() -> None:
    tenant, root = make_tenant(), make_person(superadmin=True)

    with pytest.raises(ConflictError) as caught:
        attach_storage(storage=make_storage(make_node()), tenant=tenant, actor=root)

    assert caught.value.code == "node_not_attached"


def test_what_active_definitions_use_is_not_detached_and_the_error_names_them() -> None:
    server, root = make_server(), make_person(superadmin=True)
    definition, storage = make_definition(server, name="nightly"), disk_of(server).storage

    for detach in (
        lambda: detach_node(node=server.node, tenant=server.tenant, actor=root),
        lambda: detach_storage(storage=storage, tenant=server.tenant, actor=root),
    ):
        with pytest.raises(ConflictError) as caught:
            detach()
        assert "nightly" in caught.value.message

    Definition.objects.filter(pk=definition.pk).update(active=False)
    detach_storage(storage=storage, tenant=server.tenant, actor=root)
    assert not storage.tenants.exists()
    with pytest.raises(ConflictError) as caught:
        detach_node(node=server.node, tenant=server.tenant, actor=root)
    assert server.name in caught.value.message


def test_detaching_a_node_takes_its_storages_and_only_from_this_tenant() -> None:
    one, two, root = make_tenant(), make_tenant(), make_person(superadmin=True)
    node = make_node(one, two)
    storage = make_storage(node)

    detach_node(node=node, tenant=one, actor=root)
    detach_node(node=node, tenant=one, actor=root)

    assert (list(node.tenants.all()), list(storage.tenants.all())) == ([two], [two])


def test_what_a_detached_node_wrote_stays_readable() -> None:
    server = make_server()
    backup, domain = make_backup(server), None
    domain = Domain.objects.get(pk=backup.manifest.domain_id)
    WriterKey.objects.create(node=server.node, public_key=b"k" * 32, added_at=server.created_at)
    WriterKey.objects.create(node=make_node(), public_key=b"o" * 32, added_at=server.created_at)
    Server.objects.filter(pk=server.pk).update(node=make_node(server.tenant))
    assert trusted_writers(domain) == [b"k" * 32]

    detach_node(node=server.node, tenant=server.tenant, actor=make_person(superadmin=True))

    assert trusted_writers(domain) == [b"k" * 32]


def test_only_a_superadmin_attaches() -> None:
    tenant = make_tenant()
    admin, node = make_person(administers=[tenant]), make_node(tenant)

    for verb in (attach_node, detach_node):
        with pytest.raises(NotAllowedError):
            verb(node=node, tenant=tenant, actor=admin)
    for verb in (attach_storage, detach_storage):
        with pytest.raises(NotAllowedError):
            verb(storage=make_storage(node), tenant=tenant, actor=admin)


# --- regions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [True, False], ids=["create", "change"])
def test_a_vault_in_the_servers_own_region_is_refused(world: World, make: bool) -> None:
    client = world.client("super")

    answer = client.patch("/api/v1/regions/RBX/", {"vault_region": "RBX"})
    if make:
        client.post("/api/v1/regions/", {"code": "XXX"})
        answer = client.patch("/api/v1/regions/XXX/", {"vault_region": "XXX"})

    assert (answer.status_code, answer.json()["code"]) == (400, "same_region")
    assert Affinity.objects.get(region_id="RBX").vault_region_id == "GRA"
    assert not Affinity.objects.filter(region_id="XXX").exists()


def test_the_table_is_edited(world: World) -> None:
    client = world.client("super")

    made = client.post("/api/v1/regions/", {"code": "LIM", "title": "Limburg", "vault_region": "GRA"})
    changed = client.patch("/api/v1/regions/LIM/", {"vault_region": "RBX"})
    none = client.patch("/api/v1/regions/LIM/", {"vault_region": None})

    assert [made.status_code, made.json()["vault_region"]] == [201, "GRA"]
    assert (changed.json()["vault_region"], none.json()["vault_region"]) == ("RBX", None)


@pytest.mark.parametrize("code", ["a", "rbx", "", "X" * 17, "R B", "\0", "é"])
def test_a_code_that_is_none_is_refused(world: World, code: str) -> None:
    client, before = world.client("super"), Region.objects.count()

    assert client.post("/api/v1/regions/", {"code": code}).status_code == 400
    assert client.post("/api/v1/regions/", {"code": "NEW", "vault_region": code}).status_code in {400, 404}
    assert Region.objects.count() == before


def test_a_tenant_knows_its_own_regions_only(world: World) -> None:
    Region.objects.create(code="SECRET")

    for name, expected in (("super", {"RBX", "GRA", "SECRET"}), ("admin_a", {"RBX", "GRA"}), ("owner_a1", set())):
        found = world.client(name).get("/api/v1/regions/").json()["results"]
        assert {row["code"] for row in found} == expected, name
