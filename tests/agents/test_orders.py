"""One order makes all that a server with an agent needs, uses what is there, and mails the two lines."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core import mail
from django.utils import timezone
from rest_framework.test import APIClient

from agents.models import Agent, EnrolmentToken, Server, ServerOrder
from agents.people import HeldRole, roles_of
from agents.principals import register_agent
from backups.server_regions import change_region
from common.errors import ConflictError, InvalidInputError, NotAllowedError
from definitions.models import Definition, Policy
from definitions.orders import order_server
from definitions.policies import assign, create_policy
from engine.crypto import generate_writer_key
from tenants.models import AuditEvent, Company, Invitation, Person, Tenant
from tenants.roles import Role
from tests.agents.agent_worlds import Program, answer_of
from tests.api.test_concurrent_requests import at_once
from tests.factories import make_person, make_region, make_server, make_tenant
from vaults.models import Affinity, Domain, Endpoint, Region, Vault

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.agents.both_urls")]
ORDER = {"tenant": "Acme", "email": "Owner@Example.org", "name": "web01", "region": "RBX"}


@pytest.fixture
def provider() -> Person:
    make_region()
    return make_person(superadmin=True)


@pytest.fixture
def committed(django_capture_on_commit_callbacks: Any) -> Any:
    return lambda: django_capture_on_commit_callbacks(execute=True)


def order(provider: Person, **changes: Any) -> Any:
    return order_server(actor=provider, now=timezone.now(), **{**ORDER, **changes})


def test_from_an_order_to_an_agent_at_work(provider: Person, committed: Any) -> None:
    with committed():
        made = order(provider)

    tenant = Tenant.objects.get(title="Acme")
    assert Company.objects.get(tenant=tenant).name == f"vspc-tenant-{tenant.suffix}"
    assert (made.vault.tenant, made.vault.endpoint.region_id) == (tenant, "GRA")
    assert (made.server.node, made.server.region_id, made.policy.name) == (None, "RBX", "agent-europe")
    policy = Policy.objects.get()
    assert (policy.window_start.hour, policy.window_end.hour, policy.retention_days) == (22, 6, 14)
    assert policy.restricted

    [sent] = mail.outbox
    assert sent.to == ["owner@example.org"]
    assert ServerOrder.objects.get().mailed_at is not None
    link = re.search(r"http\S+(/join/\S+/)", sent.body)
    line = re.search(r"curl -fsS http\S+/agent/install\.sh \| sh -s -- (\S+)", sent.body)
    assert link is not None
    assert line is not None
    for said in ("web01", "RBX", "22:00 and 06:00", "kept for 14 days", "60 minutes", "3 days", tenant.name):
        assert said in sent.body, said
    # Neither is anywhere else.
    secret = line[1].split(".")[1]
    kept = str([*AuditEvent.objects.values_list(), *EnrolmentToken.objects.values_list(), *Invitation.objects.values()])
    assert secret not in kept
    assert link[1].split("/")[2] not in kept

    owner = APIClient()
    owner.get(link[1])
    joined = owner.post("/join/", {"password": "correct-horse-battery", "time_zone": "UTC"}, format="multipart")
    assert joined.status_code == 302
    person = Person.objects.get(email="owner@example.org")
    assert roles_of(person, seen_by=person) == [HeldRole(Role.VM_OWNER, tenant, made.server)]
    answer_of(Program(secret).enrol())
    assert Agent.objects.get(server=made.server).status == Agent.Status.ENROLLED
    assert Definition.objects.get(disk__server=made.server).policy == policy


def test_the_same_order_twice_is_one(provider: Person, committed: Any) -> None:
    with committed():
        first = order(provider)
    with committed():
        again = [
            order(provider),
            order(provider, email=" owner@example.org"),
            order(provider, tenant=first.server.tenant.name),
        ]

    assert [one.is_new for one in (first, *again)] == [True, False, False, False]
    assert {one.order.pk for one in again} == {first.order.pk}
    assert len(mail.outbox) == 1
    for model in (Tenant, Server, Vault, Invitation, EnrolmentToken, ServerOrder):
        assert model.objects.count() == 1, model


@pytest.mark.django_db(transaction=True)
def test_the_same_order_many_times_at_once_is_one(provider: Person) -> None:
    made = at_once([lambda: order(provider)] * 8)

    assert sorted(one.is_new for one in made) == [False] * 7 + [True]
    assert (Tenant.objects.count(), Server.objects.count(), len(mail.outbox)) == (1, 1, 1)


def test_what_is_there_already_is_used(provider: Person, committed: Any) -> None:
    tenant = make_tenant("Acme")
    night = create_policy(name="of-region", actor=provider, time_zone="Europe/Paris")
    assign(policy=night, region=Region.objects.get(pk="RBX"), actor=provider, now=timezone.now())
    with committed():
        first, second = order(provider), order(provider, name="web02")

    assert {first.server.tenant, second.server.tenant} == {tenant}
    assert {first.policy, second.policy} == {night}
    assert Vault.objects.count() == 1
    # The second link gives both servers: the first one was not opened yet.
    invitation = Invitation.objects.get()
    assert set(invitation.server_ids) == {str(first.server.pk), str(second.server.pk)}


@pytest.mark.parametrize("changes", [{}, {"email": "other@example.org"}])
def test_the_same_order_for_another_region_is_refused_and_says_why(
    provider: Person, committed: Any, changes: dict[str, str]
) -> None:
    make_region("PAR", vault_code="GRA")
    with committed():
        first = order(provider)

    with pytest.raises(ConflictError, match="web01, and it stands in RBX, not in PAR") as caught:
        order(provider, region="PAR", **changes)

    assert (caught.value.code, caught.value.field) == ("other_region", "region")
    assert (Server.objects.count(), ServerOrder.objects.count(), len(mail.outbox)) == (1, 1, 1)
    # After a move it is the other way round.
    change_region(server=first.server, region_code="PAR", actor=provider)
    assert order(provider, region="PAR").order == first.order
    with pytest.raises(ConflictError, match="it stands in PAR, not in RBX"):
        order(provider)


def test_the_api_and_the_page_refuse_another_region(provider: Person, committed: Any) -> None:
    make_region("PAR", vault_code="GRA")
    client = APIClient()
    client.force_login(provider)
    with committed():
        assert client.post("/api/v1/orders/", ORDER).status_code == 201

    again = client.post("/api/v1/orders/", {**ORDER, "region": "PAR"})
    page = client.post("/orders/new/", {**ORDER, "region": "PAR"}, format="multipart")

    assert (again.status_code, again.json()["code"]) == (409, "other_region")
    assert "it stands in RBX, not in PAR" in again.json()["detail"]
    assert page.status_code == 400
    assert "it stands in RBX, not in PAR" in page.content.decode()


def test_an_order_is_shown_whatever_became_of_affinity(provider: Person, committed: Any) -> None:
    with committed():
        made = order(provider)
    make_region("SBG", vault_code="RBX")
    client = APIClient()
    client.force_login(provider)
    address = f"/api/v1/orders/{made.order.pk}/"

    Affinity.objects.filter(region="RBX").update(vault_region="SBG")
    assert client.get(address).json()["vault"] == ""
    Affinity.objects.filter(region="RBX").delete()
    assert client.get(address).json()["vault_region"] == ""
    keys = {"wrapped_id_key": b"x", "wrapped_map_key": b"x"}
    domain = Domain.objects.create(tenant=made.server.tenant, vault=made.vault, **keys)
    Server.objects.update(domain=domain)
    assert client.get(address).json()["vault_region"] == "GRA"


def test_orders_that_cannot_be(provider: Person) -> None:
    for changes, field in (
        ({"email": "nobody"}, "email"),
        ({"region": "XXX"}, "region"),
        ({"tenant": " "}, "tenant"),
        ({"tenant": "x" * 101}, "tenant"),
        ({"name": ""}, "name"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            order(provider, **changes)
        assert caught.value.field == field
    Affinity.objects.all().delete()
    with pytest.raises(InvalidInputError, match="affinity"):
        order(provider)
    with pytest.raises(NotAllowedError):
        order(make_person(administers=[make_tenant()]))
    assert not Server.objects.exists()
    assert not Tenant.objects.filter(title="Acme").exists()

    Affinity.objects.create(region_id="RBX", vault_region_id="GRA")
    server = make_server(make_tenant("Acme"), name="web01")
    with pytest.raises(ConflictError, match=f"on {server.node}"):
        order(provider)
    make_tenant("Acme")
    with pytest.raises(ConflictError, match="Several tenants"):
        order(provider)
    assert Endpoint.objects.exists()


def test_a_mail_that_does_not_leave_undoes_nothing_and_can_be_sent_again(
    provider: Person, committed: Any, monkeypatch: Any, settings: Any
) -> None:
    client = APIClient()
    client.force_login(provider)
    settings.EMAIL_BACKEND = "tests.agents.no_such_backend.Backend"
    with committed():
        answer = client.post("/api/v1/orders/", ORDER)
    assert (answer.status_code, answer.json()["mailed_at"]) == (201, None)
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"

    with committed():
        again = client.post("/api/v1/orders/", ORDER)
    assert (again.status_code, again.json()["id"], len(mail.outbox)) == (200, answer.json()["id"], 0)
    with committed():
        assert client.post(f"/api/v1/orders/{answer.json()['id']}/send-again/").status_code == 200
    assert len(mail.outbox) == 1
    states = [token.state(timezone.now()) for token in EnrolmentToken.objects.order_by("created_at")]
    assert states == ["revoked", "open"]
    shown = client.get(f"/api/v1/orders/{answer.json()['id']}/").json()
    assert (shown["vault_region"], shown["policy"], shown["region"]) == ("GRA", "agent-europe", "RBX")
    assert shown["mailed_at"] is not None

    register_agent(server=Server.objects.get(), public_key=generate_writer_key().public, actor=None)
    refused = client.post(f"/api/v1/orders/{answer.json()['id']}/send-again/")
    assert (refused.status_code, refused.json()["code"]) == (409, "has_agent")


def test_the_page_orders_too(provider: Person, committed: Any) -> None:
    client = APIClient()
    client.force_login(provider)
    assert "vault in GRA" in client.get("/orders/new/").content.decode().split('value="RBX"')[1].split("</option>")[0]
    with committed():
        answer = client.post("/orders/new/", ORDER, format="multipart", follow=True)

    assert "web01" in answer.content.decode()
    assert len(mail.outbox) == 1
    wrong = client.post("/orders/new/", {**ORDER, "email": "nobody"}, format="multipart")
    assert wrong.status_code == 400
    assert "This is no e-mail address." in wrong.content.decode()
